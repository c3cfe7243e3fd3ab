"""How well one label map agrees with another, label by label."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medfuse.core.labels import LabelValue, map_values, mask_of, members

NSD_TOLERANCE_MM = 2.0
"""Default of the normalised surface Dice: one value for all spacings, so that runs can be compared."""

Outcome = Literal["found", "missed", "false alarm", "absent in both"]


@dataclass(frozen=True)
class CaseMetrics:
    """One label of one case. None means undefined; what is undefined when is told by `outcome`.

    `calibration_error` needs probabilities, and is None without.

    found           in both: every value is defined
    missed          only in the reference: Dice, IoU, NSD are 0, HD95 and ASSD None, relative volume error -1
    false alarm     only in the prediction: Dice, IoU and NSD are 0, the other three None
    absent in both  all None
    """

    n_ref: int
    n_pred: int
    tp: int
    fp: int
    fn: int
    tn: int
    dice: float | None
    iou: float | None
    hd95_mm: float | None
    nsd: float | None
    volume_error_ml: float | None
    relative_volume_error: float | None
    assd_mm: float | None = None
    calibration_error: float | None = None

    @property
    def outcome(self) -> Outcome:
        if self.n_ref:
            return "found" if self.n_pred else "missed"
        return "false alarm" if self.n_pred else "absent in both"


def case_metrics(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    labels: Mapping[str, LabelValue],
    spacing_mm: tuple[float, float, float],
    *,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    ignore: int | None = None,
) -> dict[str, CaseMetrics]:
    """Each label of `labels` (background 0 left out) in two integer maps (i, j, k) of one shape.

    A region is judged as the union of its values. Voxels where the reference is `ignore` count for nothing:
    both maps are taken as background there.
    HD95 is the larger of the two directed 95th percentiles of surface distances in mm. NSD is the share of
    both surfaces that lies within the tolerance of the other one, ASSD the mean distance of both surfaces'
    voxels to the other one. A surface is its voxels that touch another value by a face, as MONAI has it.
    Volume errors are prediction minus reference. Floats are rounded to 6 decimals: MONAI works in fp32.
    """
    from scipy.ndimage import find_objects

    values = np.array([v for v in map_values(labels.values()) if v > 0], np.int64)
    numbers = {int(value): number for number, value in enumerate(values)}
    n_ignored = 0
    if ignore is not None:
        known = reference != ignore
        n_ignored = int(known.size - known.sum())
        prediction, reference = prediction * known, reference * known
    boxes = [find_objects(_numbered(array, values), len(values)) for array in (prediction, reference)]
    found = {}
    for name, value in labels.items():
        if value == 0:
            continue
        box = _around(*(side[numbers[v]] for side in boxes for v in members(value) if v in numbers))
        masks = mask_of(prediction[box], value), mask_of(reference[box], value)
        found[name] = _label_metrics(*masks, prediction.size - n_ignored, spacing_mm, nsd_tolerance_mm)
    return found


def dice_per_class(
    prediction: npt.NDArray[Any], reference: npt.NDArray[Any], classes: Sequence[str]
) -> dict[str, float]:
    """Dice of each class but the first (background) in two maps of class numbers; absent in both: none.

    Voxels where the reference has a number beyond the classes are not judged.
    """
    n = len(classes)
    known = reference < n
    pairs = reference[known].astype(np.int64) * n + prediction[known].astype(np.int64)
    counts = np.bincount(pairs, minlength=n * n).reshape(n, n)
    sizes = counts.sum(0) + counts.sum(1)
    return {name: float(2 * counts[i, i] / sizes[i]) for i, name in enumerate(classes) if i and sizes[i]}


def dice_per_region(
    masks: npt.NDArray[np.bool_],
    reference: npt.NDArray[Any],
    regions: Mapping[str, tuple[int, ...]],
    ignored: int | None = None,
) -> dict[str, float]:
    """Dice of each region's mask (regions, x, y, z) against its numbers in `reference`; absent: none."""
    found = {}
    known = np.ones(reference.shape, bool) if ignored is None else reference != ignored
    for mask, (name, numbers) in zip(masks, regions.items(), strict=True):
        truth = np.isin(reference, numbers)
        if size := int((mask & known).sum() + truth.sum()):
            found[name] = float(2 * (mask & truth).sum() / size)
    return found


def mean_foreground_dice(metrics: Mapping[str, CaseMetrics]) -> float | None:
    """The mean of a case's defined Dice values; None where there is none."""
    defined = [m.dice for m in metrics.values() if m.dice is not None]
    return math.fsum(defined) / len(defined) if defined else None


_MOST_TO_LOOK_UP = 2**16


def _numbered(array: npt.NDArray[Any], values: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """1 for the first of `values`, which are sorted, 2 for the second …; others become background.

    No look-up table grows with a value: atlases number structures up to hundreds of millions.
    """
    if not len(values) or values[-1] > _MOST_TO_LOOK_UP:
        found = np.unique(array)
        array = np.searchsorted(found, array)
        table = np.zeros(len(found), np.int32)
        places = np.searchsorted(found, values)
        for number, (place, value) in enumerate(zip(places, values), start=1):
            if place < len(found) and found[place] == value:
                table[place] = number
        numbered: npt.NDArray[np.int32] = table[array]
        return numbered
    table = np.zeros(int(values[-1]) + 1, np.int32)
    table[values] = np.arange(1, len(values) + 1)
    return table[np.where((array >= 1) & (array <= values[-1]), array, 0)]


def _around(*found: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """The smallest box that holds all. Outside of it both masks are 0, so no surface lies there."""
    boxes = [box for box in found if box]
    if not boxes:
        return (slice(0, 0),) * 3
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes))


def _label_metrics(
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    voxels: int,
    spacing_mm: tuple[float, float, float],
    nsd_tolerance_mm: float,
) -> CaseMetrics:
    n_pred, n_ref = int(prediction.sum()), int(reference.sum())
    tp = int((prediction & reference).sum())
    difference = n_pred - n_ref
    dice = iou = nsd = 0.0 if n_pred or n_ref else None
    hd95_mm: float | None = None
    assd_mm: float | None = None
    if n_pred and n_ref:
        dice, iou = _overlap(prediction, reference)
        hd95_mm, nsd, assd_mm = _surface(prediction, reference, spacing_mm, nsd_tolerance_mm)
    return CaseMetrics(
        n_ref=n_ref,
        n_pred=n_pred,
        tp=tp,
        fp=n_pred - tp,
        fn=n_ref - tp,
        tn=voxels - n_pred - n_ref + tp,
        dice=dice,
        iou=iou,
        hd95_mm=hd95_mm,
        nsd=nsd,
        volume_error_ml=round(difference * math.prod(spacing_mm) / 1000, 6) if n_pred or n_ref else None,
        relative_volume_error=round(difference / n_ref, 6) if n_ref else None,
        assd_mm=assd_mm,
    )


def _overlap(prediction: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Dice and IoU of two masks, neither of them empty."""
    import torch
    from monai.metrics import compute_dice, compute_iou

    ours, truth = (torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
    dice = compute_dice(ours, truth)
    iou = compute_iou(ours.float(), truth.float())
    return round(dice.item(), 6), round(iou.item(), 6)


def _surface(
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    nsd_tolerance_mm: float,
) -> tuple[float, float, float]:
    """HD95 in mm, NSD, and ASSD in mm of two masks, neither of them empty."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    # MONAI 1.6 warns of an argument that MONAI itself passes; catch_warnings would not be safe in threads.
    warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
    ours, truth = (torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
    how: dict[str, Any] = {"include_background": True, "spacing": tuple(map(float, spacing_mm))}
    hd95 = compute_hausdorff_distance(ours, truth, percentile=95, **how)
    nsd = compute_surface_dice(ours, truth, [nsd_tolerance_mm], **how)
    assd = compute_average_surface_distance(ours, truth, symmetric=True, **how)
    return round(hd95.item(), 6), round(nsd.item(), 6), round(assd.item(), 6)
