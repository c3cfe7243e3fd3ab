"""Layers that are quicker with channels innermost compute what torch's compute."""

from copy import deepcopy
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from medfuse.core import layout
from medfuse.core.layout import blocks, channels_last, lay_out

NORMS: dict[int, type[nn.Module]] = {4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def laid_out(norm: nn.Module, axes: int) -> nn.Module:
    made = deepcopy(norm)
    lay_out(made, axes, channels_last(axes))
    return made


def results(norm: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    given = x.clone(memory_format=torch.preserve_format).requires_grad_()
    output = norm(given)
    output.backward(gradient)
    return [output.detach(), given.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]


@pytest.mark.parametrize("axes", [4, 5])
@pytest.mark.parametrize("innermost", ["both", "image", "gradient", "neither"])
@pytest.mark.parametrize(("batch", "channels"), [(1, 5), (1, 32), (3, 5), (3, 32)])
@pytest.mark.parametrize("running", [False, True], ids=["", "running"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_it_computes_what_is_computed_in_double_precision(
    axes: int, innermost: str, batch: int, channels: int, running: bool, training: bool
) -> None:
    torch.manual_seed(0)
    shape = (batch, channels, *(6, 7, 8)[: axes - 2])
    x, gradient = 3 * torch.randn(shape) + 1, torch.randn(shape)
    plain = NORMS[axes](channels, affine=True, track_running_stats=running).train(training)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    wanted = results(deepcopy(plain).double(), x.double(), gradient.double())
    if innermost in ("both", "image"):
        x = x.contiguous(memory_format=channels_last(axes))
    if innermost in ("both", "gradient"):
        gradient = gradient.contiguous(memory_format=channels_last(axes))
    found = results(laid_out(plain, axes), x, gradient)
    assert len(found) == len(wanted)
    for mine, exact in zip(found, wanted):
        torch.testing.assert_close(mine, exact.to(mine.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [4, 5])
@pytest.mark.parametrize("batch", [1, 2])
def test_channels_stay_innermost(axes: int, batch: int) -> None:
    x = torch.randn(batch, 16, *(4,) * (axes - 2)).contiguous(memory_format=channels_last(axes))
    norm = laid_out(NORMS[axes](16), axes)
    assert norm(x).is_contiguous(memory_format=channels_last(axes))


def test_an_image_without_a_batch_is_normed_as_torch_norms_it() -> None:
    plain, x = nn.InstanceNorm3d(1), torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(laid_out(plain, 5)(x), plain(x))


def test_a_single_voxel_is_refused_as_torch_refuses_it() -> None:
    with pytest.raises(ValueError, match=r"[Ee]xpected more than 1"):
        laid_out(nn.InstanceNorm3d(2), 5)(torch.randn(1, 2, 1, 1, 1))


@pytest.mark.filterwarnings("ignore")  # what reads it for OpenVINO is deprecated, and warns of sizes
def test_tracing_and_exporting_find_torchs_norm() -> None:
    norm = laid_out(nn.InstanceNorm3d(16), 5).eval()
    x = torch.randn(2, 16, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    assert "aten::instance_norm" in str(torch.jit.trace(norm, x).inlined_graph)
    graph = torch.export.export(norm, (x,)).graph
    assert any("instance_norm" in str(node.target) for node in graph.nodes)


def test_names_of_weights_stay() -> None:
    plain = nn.Sequential(nn.InstanceNorm3d(4, affine=True))
    (norm,) = laid_out(plain, 5).children()
    assert [*laid_out(plain, 5).state_dict()] == [*plain.state_dict()]
    assert isinstance(norm, nn.InstanceNorm3d)


@pytest.mark.parametrize("factor", [(2, 3), (1, 2), (2, 2, 2), (1, 2, 3)])
@pytest.mark.parametrize("bias", [True, False], ids=["", "no bias"])
def test_a_product_of_matrices_is_a_transposed_convolution(factor: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    kind: type[nn.Module] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[len(factor)]
    plain = kind(5, 4, factor, stride=factor, bias=bias).double()
    x = torch.randn(3, 5, *(4, 3, 6)[: len(factor)]).double()
    made = blocks(x, plain.weight, plain.bias)  # type: ignore[arg-type]  # a parameter each
    torch.testing.assert_close(made, plain(x))


@pytest.mark.parametrize("axes", [4, 5])
def test_it_is_taken_to_train_in_bf16_and_keeps_channels_innermost(
    axes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    kind: type[nn.Module] = {4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}[axes]
    plain = kind(16, 8, 2, stride=2)
    shape = (2, 16, *(4, 5, 6)[: axes - 2])
    x = torch.randn(shape).contiguous(memory_format=channels_last(axes))
    gradient = torch.randn(2, 8, *(8, 10, 12)[: axes - 2])
    wanted = results(deepcopy(plain).double(), x.double(), gradient.double())
    quick, product = laid_out(plain, axes), Mock(wraps=blocks)
    monkeypatch.setattr(layout, "blocks", product)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(quick, x, gradient.bfloat16())
    product.assert_called_once()
    assert found[0].is_contiguous(memory_format=channels_last(axes))
    for mine, exact in zip(found, wanted):
        assert (mine.double() - exact).norm() < 0.02 * exact.norm()
    with torch.no_grad():
        torch.testing.assert_close(quick(x), plain(x))
    product.assert_called_once()


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 1}, {"groups": 2}, {"dilation": 2}])
def test_other_transposed_convolutions_stay_torchs(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    plain = nn.ConvTranspose3d(4, 4, 2, **{"stride": 2, **options})  # type: ignore[arg-type]  # any of its options
    x = torch.randn(2, 4, 3, 4, 5).bfloat16()
    assert torch.equal(laid_out(plain, 5).bfloat16()(x), plain.bfloat16()(x))
