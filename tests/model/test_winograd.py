"""Convolutions by minimal filtering give what convolutions give."""

import pytest
import torch
from torch import nn

from medfuse.model import winograd
from medfuse.model.winograd import with_winograd


def convolution(depth_padding: int = 1, in_plane: int = 1, **options: object) -> nn.Conv3d:
    torch.manual_seed(0)
    padding = (depth_padding, in_plane, in_plane)
    return nn.Conv3d(16, 24, 3, padding=padding, **options)  # type: ignore[arg-type]  # any of its options


def test_it_gives_what_the_convolution_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    for bytes_at_once in (1, 8 << 20):
        monkeypatch.setattr(winograd, "_BYTES", bytes_at_once)
        for depth in range(3, 14):
            for padding in (0, 1, 2):
                assert_same(convolution(padding), (2, 16, depth, 5, 6))


@pytest.mark.parametrize("depth", [1, 2])
def test_maps_of_fewer_planes_than_the_kernel(depth: int) -> None:
    assert_same(convolution(), (1, 16, depth, 5, 6))


def test_strides_dilation_and_padding_in_the_plane() -> None:
    assert_same(convolution(stride=(1, 2, 1), dilation=(1, 1, 2), bias=False), (1, 16, 9, 11, 12))
    assert_same(convolution(in_plane=0), (3, 16, 6, 7, 5))


def test_any_order_of_memory() -> None:
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        assert_same(convolution(), (2, 16, 6, 5, 7), layout)


def test_values_far_from_0_lose_little() -> None:
    quick = with_winograd(convolution())
    assert quick is not None
    x = 1000 + torch.randn(1, 16, 12, 6, 6)
    with torch.inference_mode():
        exact = convolution().double()(x.double())
        error = (quick(x) - exact).abs().max() / exact.std()
    assert error < 1e-3


def test_only_convolutions_that_gain_are_replaced() -> None:
    model = nn.Sequential(
        nn.Conv3d(1, 16, 3, padding=1),  # too few channels
        convolution(),
        nn.Conv3d(24, 32, 3, stride=2, padding=1),
        nn.Conv3d(32, 32, (1, 3, 3), padding=(0, 1, 1)),
        nn.Conv3d(32, 32, (3, 1, 1), padding=(1, 0, 0)),
        nn.Conv3d(32, 32, 3, padding=1, groups=2),
        nn.Conv3d(32, 32, 3, padding=1, padding_mode="replicate"),
        nn.Conv3d(32, 32, 3, padding="same"),
        nn.Conv3d(32, 32, 3, padding=3),
        nn.Conv3d(32, 32, 3, dilation=2, padding=2),
    )
    quick = with_winograd(model)
    assert isinstance(quick, nn.Sequential)
    assert [type(part) is not nn.Conv3d for part in quick] == [False, True] + 8 * [False]
    assert all(type(part) is nn.Conv3d for part in model)
    assert with_winograd(model[0]) is None
    x = torch.randn(1, 1, 12, 12, 12)
    with torch.inference_mode():
        torch.testing.assert_close(quick(x), model(x), rtol=1e-4, atol=1e-4)


def test_weights_are_shared_and_hooks_stay() -> None:
    model = nn.Sequential(convolution())
    seen: list[tuple[int, ...]] = []
    model[0].register_forward_hook(lambda module, given, made: seen.append(tuple(made.shape)))
    quick = with_winograd(model)
    assert quick is not None
    assert next(quick.parameters()) is next(model.parameters())
    with torch.inference_mode():
        quick(torch.randn(1, 16, 4, 5, 6))
    assert seen == [(1, 24, 4, 5, 6)]


def assert_same(
    plain: nn.Conv3d, shape: tuple[int, ...], layout: torch.memory_format = torch.contiguous_format
) -> None:
    quick = with_winograd(plain)
    assert quick is not None
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    with torch.inference_mode():
        made, expected = quick(x), plain(x)
    assert made.shape == expected.shape
    assert made.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
