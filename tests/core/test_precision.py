"""Half precision is taken where it is as right as rounding lets it be, and faster."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from clock import Clock
from torch import Tensor, nn

from medfuse.core import device
from medfuse.core.errors import MedfuseError


class Deep(nn.Module):
    """So many normalised layers that rounding alone moves the gradient of the first by more than a half."""

    clock = Clock()

    def __init__(self, depth: int = 18) -> None:
        super().__init__()
        torch.manual_seed(0)
        channels = [1, *[8] * depth]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.InstanceNorm2d(b), nn.LeakyReLU(0.01))
                for a, b in pairwise(channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 1 if torch.is_autocast_enabled("cpu") else 5
        made: Tensor = x + 0.5 * self.layers(x)  # past the layers, as in a U-Net, so that logits are close
        return made


class _Wrong(torch.autograd.Function):
    """A kernel whose gradient is another one in half precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.wrong = torch.is_autocast_enabled("cpu")
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.flip(0) if ctx.wrong else gradient


class Broken(Deep):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = _Wrong.apply(super().forward(x))
        return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(device, "time", clock)
    monkeypatch.setattr(Deep, "clock", clock)
    monkeypatch.setattr(device, "_has_bf16", lambda _: True)
    return clock


def chosen(model: nn.Module) -> device.Precision:
    example = torch.randn(2, 1, 24, 20, generator=torch.Generator().manual_seed(1))
    return device.choose_precision("auto", model, example, backward=True)


def test_a_deep_network_whose_gradients_are_as_far_off_as_rounding_makes_them_has_it(clock: Clock) -> None:
    model = Deep()
    example = torch.randn(2, 1, 24, 20, generator=torch.Generator().manual_seed(1))
    exact, rough = (device._trial(model, example, kind, backward=True)[1] for kind in ("fp32", "bf16"))
    assert device._relative_error(exact, rough) > 0.5
    said = chosen(model)
    assert said.kind == "bf16", said.reason


def test_wrong_gradients_are_refused_however_deep_a_network_is(clock: Clock) -> None:
    for depth in (2, 18):
        said = chosen(Broken(depth))
        assert said.kind == "fp32"
        assert "bf16 gradients are off by" in said.reason


def test_what_is_tried_leaves_the_network_as_it_was(clock: Clock) -> None:
    model = Deep()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chosen(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("wanted", ["tpu", "cuda:x", "cuda:99", "", "cpu:0:1", "x" * 100])
def test_a_device_that_is_none_is_a_line(wanted):
    with pytest.raises(MedfuseError, match="device"):
        device.pick_device(wanted)
