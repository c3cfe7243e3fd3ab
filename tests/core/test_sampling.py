"""Labels between voxels, against one interpolation per label."""

import pytest
import torch
from torch.nn.functional import grid_sample

from medfuse.core.sampling import labels_at


def by_every_mask(label: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Each label's mask interpolated by torch, and the largest one."""
    size = torch.tensor(label.shape).view(-1, *(1,) * label.dim())
    grid = ((2 * places + 1) / size - 1).flip(0).movedim(0, -1)[None]
    masks = torch.stack([(label == value).double() for value in range(int(label.max()) + 1)])
    shares = grid_sample(masks[None], grid, padding_mode="zeros", align_corners=False)[0]
    shares[0] += 1 - shares.sum(0)  # around the map all is 0
    return shares.argmax(0)


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_the_largest_share_wins(shape, dtype):
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, 5, shape, generator=random).to(dtype)
    size = (11, 6, 8)[: len(shape)]
    places = torch.rand((len(shape), *size), generator=random, dtype=torch.float64) * 12 - 3
    found = labels_at(label, places)
    assert found.dtype == dtype
    assert torch.equal(found.long(), by_every_mask(label, places))


def test_voxels_themselves_keep_their_labels():
    label = torch.randint(0, 100, (4, 5, 6), generator=torch.Generator().manual_seed(0))
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in label.shape), indexing="ij")).float()
    assert torch.equal(labels_at(label, places), label)
    assert torch.equal(labels_at(label, places + 1e-6), label)


def test_all_is_background_far_outside():
    label = torch.ones((3, 3), dtype=torch.uint8)
    places = torch.tensor([[-1.0, -50.0, 3.0, 60.0, 1.0], [1.0, 1.0, 1.0, 1.0, -0.6]])[:, :, None]
    assert not labels_at(label, places).any()


def test_a_map_of_one_label_needs_no_shares():
    assert labels_at(torch.full((3, 3), 2), torch.ones((2, 4, 4))).eq(2).all()
