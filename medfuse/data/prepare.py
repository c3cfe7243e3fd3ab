"""A case onto the network's grid: normalised, turned to RAS+, resampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from medfuse.api import Case
from medfuse.core.prepared import Prepared
from medfuse.core.volumes import smallest_integer
from medfuse.data.images import read_case_labels, read_image
from medfuse.data.plan import DataPlan, Normalization, resampled_shape

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Preprocessor:
    """What a plan does to a case. Training and inference use the same one."""

    plan: DataPlan
    tolerance_mm: float = 1e-3

    def prepare(self, case: Case) -> Prepared:
        """The image on the network's grid. Raises DataError that names the file."""
        image, geometry = read_image(case, len(self.plan.channels), tolerance_mm=self.tolerance_mm)
        for channel, how in zip(image, self.plan.normalization):
            normalize(channel, how)
        shape = resampled_shape(geometry.ras_shape, geometry.ras_spacing_mm, self.plan.spacing_mm)
        return Prepared(
            case.name, resample_image(geometry.turn.apply(image), shape), geometry, case.images[0]
        )

    def prepare_label(self, case: Case, like: Prepared) -> npt.NDArray[np.integer[Any]]:
        """(x, y, z) numbers of label values (see DataPlan) on the grid of `like`. Raises DataError."""
        ignore = () if self.plan.ignore is None else (self.plan.ignore,)
        classes = {value: number for number, value in enumerate((*self.plan.values, *ignore))}
        labels = read_case_labels(case, like.geometry, classes, tolerance_mm=self.tolerance_mm)
        numbers = np.zeros(labels.shape, smallest_integer(len(classes)))
        for value, number in classes.items():
            numbers[labels == value] = number
        x, y, z = like.image.shape[1:]
        return resample_labels(like.geometry.turn.apply(numbers), (x, y, z), range(len(classes)))


def normalize(channel: npt.NDArray[np.float32], how: Normalization) -> None:
    """Scale one channel in place."""
    if how.kind == "none":
        return
    mean, std = how.mean, how.std
    inside = channel != 0 if how.kind == "nonzero_zscore" else np.ones((), bool)
    if how.kind == "ct":
        np.clip(channel, how.lower, how.upper, out=channel)
    else:
        voxels = channel[inside] if inside.any() and inside.ndim else channel
        mean, std = float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
    np.subtract(channel, mean, out=channel, where=inside)
    np.divide(channel, max(std, 1e-8), out=channel, where=inside)


def resample_image(image: npt.NDArray[np.float32], shape: Shape) -> npt.NDArray[np.float32]:
    """(channels, x, y, z) → (channels, *shape), linear, about the volume's outer edges."""
    image = np.ascontiguousarray(image, dtype=np.float32)
    if image.shape[1:] == shape:
        return image
    tensor = torch.from_numpy(image)[None]
    resampled: npt.NDArray[np.float32] = interpolate(tensor, shape, mode="trilinear", align_corners=False)[
        0
    ].numpy()
    return resampled


def resample_labels(
    labels: npt.NDArray[np.integer[Any]], shape: Shape, values: Sequence[int]
) -> npt.NDArray[np.integer[Any]]:
    """(x, y, z) → `shape`: each value's mask is interpolated linearly, and the largest wins.

    Between equals the earlier of `values` wins. Takes three float volumes of memory however many values
    there are.
    """
    if labels.shape == shape:
        return np.ascontiguousarray(labels)
    present = set(np.unique(labels).tolist())
    result = np.zeros(shape, labels.dtype)
    best = torch.zeros(shape)
    for value in values:
        if value not in present:
            continue
        mask = torch.from_numpy(np.ascontiguousarray(labels == value, dtype=np.float32))[None, None]
        share = interpolate(mask, shape, mode="trilinear", align_corners=False)[0, 0]
        wins = share > best
        result[wins.numpy()] = value
        torch.maximum(best, share, out=best)
    return result
