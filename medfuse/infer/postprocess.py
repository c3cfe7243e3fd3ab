"""Label maps tidied, label by label: specks removed, the largest component kept, holes filled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.labels import LabelValue, mask_of, members
from medfuse.infer.settings import PostprocessSettings

Mask = npt.NDArray[np.bool_]


def tidy(
    label_map: npt.NDArray[Any],
    settings: PostprocessSettings,
    labels: Mapping[str, LabelValue],
    region_order: Sequence[int],
    voxel_ml: float,
) -> npt.NDArray[Any]:
    """A copy of `label_map` after the steps of each label, in the order of `labels`.

    What a label loses becomes background, or, of a region, what lies around it: the value of the last region
    before it that holds all of it. A hole is filled where there is background or what lies around.
    """
    result = label_map.copy()
    foreground = {name: value for name, value in labels.items() if value != 0}
    written = region_order or [members(value)[0] for value in foreground.values()]
    for (name, value), own in zip(foreground.items(), written, strict=True):
        before = mask_of(result, value)
        if not settings.names(name) or not before.any():
            continue
        box = _box(before)
        inside, view = before[box], result[box]
        after = tidy_mask(inside, settings, name, voxel_ml)
        around = _around(name, foreground, written)
        view[inside & ~after] = around
        view[after & ~inside & np.isin(view, (0, around))] = own
    return result


def tidy_mask(mask: Mask, settings: PostprocessSettings, name: str, voxel_ml: float) -> Mask:
    """One label's mask (x, y, z) after its steps: smallest size, largest component, holes."""
    if least := settings.minimum_ml.get(name):
        mask = _components(mask, lambda sizes: sizes * voxel_ml >= least)
    if name in settings.largest_component:
        mask = _components(mask, lambda sizes: np.arange(len(sizes)) == sizes.argmax())
    if name in settings.fill_holes:
        from scipy.ndimage import binary_fill_holes

        mask = binary_fill_holes(mask)
    return mask


def logit_shifts(settings: PostprocessSettings, regions: Sequence[str]) -> list[float]:
    """What to take from each region's logit, so that it is above 0 where its probability is above the
    threshold."""
    thresholds = [settings.threshold.get(name, 0.5) for name in regions]
    return [math.log(threshold / (1 - threshold)) for threshold in thresholds]


def _components(mask: Mask, kept: Any) -> Mask:
    """The components of `mask` for which `kept`, of their sizes in voxels, is true; corners connect."""
    from scipy.ndimage import generate_binary_structure, label

    numbered, count = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    if not count:
        return mask
    chosen = np.concatenate([[False], kept(np.bincount(numbered.ravel())[1:])])
    found: Mask = chosen[numbered]
    return found


def _around(name: str, labels: Mapping[str, LabelValue], written: Sequence[int]) -> int:
    """The value that is written where a label is taken away."""
    value, found = {*members(labels[name])}, 0
    for (other, values), own in zip(labels.items(), written, strict=True):
        if other == name:
            break
        if value < {*members(values)}:
            found = own
    return found


def _box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds a mask, which is not empty."""
    from scipy.ndimage import find_objects

    box: tuple[slice, ...] = find_objects(mask.astype(np.uint8))[0]
    return box
