"""From logits on the network's grid to one small label map on the input's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medfuse.core.geometry import Geometry
from medfuse.core.volumes import smallest_integer


def to_label_map(
    logits: Tensor,
    geometry: Geometry,
    values: Sequence[int],
    kind: Literal["classes", "regions"] = "classes",
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The label map (i, j, k) of logits (classes, x, y, z), in the file's own axes.

    Logits are brought to `geometry.ras_shape` by trilinear interpolation about the volume's outer edges
    (align_corners=False). Class c is written as `values[c]`, in the smallest unsigned integer type that
    holds them all; where two classes are equal the lower one wins.

    Of `regions`, each has a logit of its own: where it is above 0 the region's value is written, over those
    of the regions before it, and 0 where none is.
    """
    assert len(values) == len(logits), f"{len(values)} label values for {len(logits)} classes"
    if kind == "regions":
        classes = painted(logits, geometry.ras_shape).cpu().numpy()
        values = (0, *values)
    else:
        classes = winners(logits, geometry.ras_shape).cpu().numpy()
    table = np.asarray(values, dtype=smallest_integer(max(values)))
    return geometry.turn.undo(table[classes])


def painted(logits: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(x, y, z): the number, from 1, of the last region whose logit is above 0 at full size; 0 for none."""
    index = torch.zeros(shape, dtype=torch.uint8 if len(logits) < 256 else torch.int32, device=logits.device)
    for number, logit in enumerate(logits, 1):
        index.masked_fill_(_resized(logit, shape) > 0, number)
    return index


def winners(logits: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`interpolate(logits, shape).argmax(0)` as (x, y, z) integers.

    One class at a time is held at full size: three volumes and the answer, however many classes there are.
    """
    best = _resized(logits[0], shape).clone()
    index = torch.zeros(shape, dtype=torch.uint8 if len(logits) <= 256 else torch.int32, device=logits.device)
    for number in range(1, len(logits)):
        candidate = _resized(logits[number], shape)
        index.masked_fill_(candidate > best, number)
        torch.maximum(best, candidate, out=best)
    return index


def _resized(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    if volume.shape == shape:
        return volume
    return F.interpolate(volume[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]
