"""Kernels of one network in the shapes of another's."""

import pytest
import torch
from torch.nn import functional

from medfuse.model.kernels import adapt, deepened, resized, with_channels


def test_a_constant_image_of_other_channels_gives_the_same():
    kernel = torch.randn(5, 3, 3, 3)
    for channels in (1, 2, 7):
        ours = functional.conv2d(torch.ones(1, channels, 9, 9), with_channels(kernel, channels))
        torch.testing.assert_close(
            ours, functional.conv2d(torch.ones(1, 3, 9, 9), kernel), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("length", [1, 3, 5])
def test_a_volume_constant_along_z_gives_what_its_slice_gives(length):
    kernel, image = torch.randn(4, 2, 3, 3), torch.randn(1, 2, 8, 8)
    flat = functional.conv2d(image, kernel)
    deep = functional.conv3d(image[..., None].expand(-1, -1, -1, -1, 9), deepened(kernel, length))
    torch.testing.assert_close(deep, flat[..., None].expand_as(deep), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(3, 3), (7, 7), (9, 1), (2, 11)])
def test_a_kernel_of_another_size_keeps_its_sum(size):
    kernel = torch.randn(4, 2, 7, 7)
    made = resized(kernel, size)
    assert made.shape == (4, 2, *size)
    torch.testing.assert_close(made.sum((2, 3)), kernel.sum((2, 3)), atol=1e-4, rtol=1e-4)


def test_a_kernel_of_its_own_size_is_unchanged():
    kernel = torch.randn(4, 2, 5, 3)
    assert torch.equal(resized(kernel, (5, 3)), kernel)


def test_a_symmetric_kernel_stays_symmetric():
    kernel = torch.tensor([1.0, 2.0, 5.0, 2.0, 1.0])[None, None, :, None]
    for length in (3, 7, 8):
        made = resized(kernel, (length, 1))
        torch.testing.assert_close(made, made.flip(2))


def test_a_stem_is_inflated_in_every_way_at_once():
    made, status = adapt(torch.randn(8, 3, 7, 7), (8, 1, 3, 3, 3), stem=True, resize=True)
    assert made is not None
    assert made.shape == (8, 1, 3, 3, 3)
    assert status == "inflated: 3 → 1 channels, 2-D → 3-D, 7×7×3 → 3×3×3"


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (16, 3, 3, 3), (8, 3, 3), (8, 3, 3, 3, 3, 3)])
def test_other_widths_are_left_out_with_both_shapes(shape):
    made, status = adapt(torch.zeros(8, 3, 3, 3), shape)
    assert made is None
    assert status == f"left out: 8×3×3×3 in place of {'×'.join(map(str, shape))}"


def test_a_map_that_is_no_kernel_is_never_resized():
    assert adapt(torch.zeros(1, 3, 4, 4), (1, 3, 8, 8), kernel=False)[0] is None


@pytest.mark.parametrize(
    ("before", "after"), [((3, 3, 3), (5, 5, 5)), ((7, 7), (3, 3)), ((7, 7), (3, 3, 3)), ((1, 1), (3, 3))]
)
def test_a_kernel_changes_its_size_only_where_that_is_asked_for(before, after):
    kernel = torch.zeros(8, 3, *before)
    made, status = adapt(kernel, (8, 3, *after))
    assert made is None
    assert status.endswith("which resize_kernels would adapt")
    made, _ = adapt(kernel, (8, 3, *after), resize=True)
    assert made is not None
    assert made.shape == (8, 3, *after)


def test_a_flat_kernel_gains_an_axis_without_being_asked():
    made, status = adapt(torch.randn(8, 3, 7, 7), (8, 3, 7, 7, 3))
    assert made is not None
    assert status == "inflated: 2-D → 3-D"
