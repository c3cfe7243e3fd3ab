"""Transposed convolutions as 1×1 convolutions: they give the same, and only where they can."""

import pytest
import torch
from torch import nn

pytest.importorskip("openvino", reason="pip install 'medfuse[openvino]'")

from medfuse.model.openvino import compiled, convert
from medfuse.model.transposed import without_transposed

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def network(axes: int, *, kernel=2, stride=2, channels=(3, 5), **how) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = CONVOLUTIONS[axes](1, channels[0], 3), CONVOLUTIONS[axes](channels[1], 2, 3)
    between = TRANSPOSED[axes](*channels, kernel, stride, **how)
    return nn.Sequential(first, between, nn.LeakyReLU(), last).eval()


def transposed_of(network) -> list[str]:
    return [one.get_friendly_name() for one in network.get_ops() if "BackpropData" in one.get_type_name()]


def answers(network, window) -> torch.Tensor:
    return compiled(network, window, "fp32")(window)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("edge", [2, 3])
@pytest.mark.parametrize("channels", [(3, 5), (4, 1), (1, 4)])
def test_the_same_is_given_without_a_transposed_convolution(axes, bias, edge, channels):
    model = network(axes, kernel=edge, stride=edge, channels=channels, bias=bias)
    window = torch.randn(1, 1, *[7, 6, 8][:axes])
    plain = convert(model, window)
    made = without_transposed(plain)
    assert transposed_of(plain)
    assert not transposed_of(made)
    with torch.no_grad():
        torch.testing.assert_close(answers(made, window), model(window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        {"kernel": 3},
        {"kernel": 1},
        {"kernel": (1, 2, 2), "stride": (1, 2, 2)},
        {"padding": 1},
        {"kernel": 1, "output_padding": 1},
        {"dilation": 2},
        {"channels": (4, 4), "groups": 2},
    ],
    ids=str,
)
def test_others_stay_as_they_are(how):
    window = torch.randn(1, 1, 7, 6, 8)
    plain = convert(network(3, **how), window)
    made = without_transposed(plain)
    assert transposed_of(made) == transposed_of(plain) != []
    torch.testing.assert_close(answers(made, window), answers(plain, window), rtol=0, atol=0)


def test_a_sum_with_another_map_is_no_bias():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose3d(1, 4, 2, 2, bias=False)
            self.far = nn.Parameter(torch.randn(1, 4, 8, 8, 8))

        def forward(self, x):
            return self.up(x) + self.far

    model, window = Joined().eval(), torch.randn(1, 1, 4, 4, 4)
    made = without_transposed(convert(model, window))
    assert not transposed_of(made)
    with torch.no_grad():
        torch.testing.assert_close(answers(made, window), model(window), rtol=1e-5, atol=1e-5)


def test_what_is_used_twice_reaches_both():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose3d(2, 4, 2, 2)

        def forward(self, x):
            made = self.up(torch.cat([x, x * 2], 1))
            return torch.cat([made, made.relu()], 1)

    model, window = Both().eval(), torch.randn(1, 1, 4, 4, 4)
    made = without_transposed(convert(model, window))
    assert not transposed_of(made)
    with torch.no_grad():
        torch.testing.assert_close(answers(made, window), model(window), rtol=1e-5, atol=1e-5)
