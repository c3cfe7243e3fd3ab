"""Maps brought to another grid."""

import pytest
import torch

from medfuse.model.resample import fit, resize


def test_a_map_of_the_right_size_is_the_same_object():
    x = torch.randn(1, 2, 4, 5)
    assert resize(x, (4, 5)) is x


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("size", [(7, 5), (3, 9, 4)])
def test_a_constant_stays_constant(mode, size):
    x = torch.full((1, 1, *(4,) * len(size)), 3.0)
    torch.testing.assert_close(resize(x, size, mode), torch.full((1, 1, *size), 3.0))


def test_nearest_doubling_repeats_every_voxel():
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert torch.equal(resize(x, (4, 4), "nearest"), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_what_overshoots_is_cropped_at_the_far_edge():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(fit(x, (3, 4)), x[:, :, :3])


def test_what_falls_short_is_resized():
    assert fit(torch.randn(1, 1, 4, 4), (5, 3)).shape == (1, 1, 5, 3)
