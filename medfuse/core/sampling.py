"""Labels at places between voxels."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad


def labels_at(label: Tensor, places: Tensor) -> Tensor:
    """What has the largest share of each place, where linear interpolation shares it among its corners.

    label: (*spatial), integers; around them all is 0. places: (axes, *size) in voxels. Of equal shares one is
    taken, always the same. What it costs does not depend on how many labels there are: only places whose
    corners differ are looked into.
    """
    dims = label.dim()
    padded = pad(label, (1, 2) * dims)
    end = torch.tensor(label.shape, device=places.device).view(-1, *(1,) * dims)
    places = torch.minimum(places.clamp(min=-1), end) + 1
    low = places.floor()
    strides = torch.tensor(padded.stride(), device=places.device).view(end.shape)
    first = (low.long() * strides).sum(0)
    shifts = [*itertools.product((0, 1), repeat=dims)]
    result = padded.take(first)
    differ = _differing(padded, shifts).take(first)

    ahead = torch.tensor([sum(map(operator.mul, s, padded.stride())) for s in shifts], device=places.device)
    values = padded.take(first[differ] + ahead[:, None])
    upper = (places - low)[:, differ]
    sides = torch.stack([1 - upper, upper])
    weights = torch.stack([sides[list(shift), range(dims)].prod(0) for shift in shifts])
    shares = torch.stack([(weights * (values == value)).sum(0) for value in values])
    result[differ] = values.gather(0, shares.argmax(0, keepdim=True))[0]
    return result


def _differing(label: Tensor, shifts: Sequence[tuple[int, ...]]) -> Tensor:
    """Where a voxel and those beyond it, as the `shifts` say, are not all equal; not on the last faces."""
    corners = [label[tuple(slice(a, n - 1 + a) for a, n in zip(shift, label.shape))] for shift in shifts]
    differ = torch.zeros_like(label, dtype=torch.bool)
    differ[(slice(-1),) * label.dim()] = reduce(
        torch.logical_or, (corner != corners[0] for corner in corners[1:])
    )
    return differ
