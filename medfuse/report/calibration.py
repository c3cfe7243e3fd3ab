"""Whether probabilities are what they say: of voxels with 0.8, are four of five the label's?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 20
MARGIN = 10
"""Voxels around a label, in reference or prediction, that are judged too; far from both, all is sure."""

DEFINITION = (
    f"expected calibration error: over {BINS} equal bins of a label's probability, how far its mean is from "
    "the share of voxels that are the label's, weighted by voxels (Guo et al. 2017); in the box around the "
    f"label in reference and prediction, and {MARGIN} voxels more on each side. null without probabilities"
)


def calibration_error(
    probability: npt.NDArray[Any],
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_] | None = None,
) -> float | None:
    """Of one label's probabilities and masks (i, j, k); None where it is in neither, or nothing is known."""
    import torch
    from monai.metrics import calibration_binning

    box = _box(prediction | reference)
    if box is None:
        return None
    kept = np.ones(reference[box].shape, bool) if known is None else known[box]
    said, true = (np.asarray(array[box][kept], np.float32) for array in (probability, reference))
    if not said.size:
        return None
    ours, truth = (torch.from_numpy(array)[None, None] for array in (said.clip(0, 1), true))
    mean, share, count = calibration_binning(ours, truth, num_bins=BINS)
    gaps = (mean - share).abs().nan_to_num() * count
    return round(float(gaps.double().sum() / count.sum()), 6)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    if not mask.any():
        return None
    found = []
    for axis in range(mask.ndim):
        at = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        found.append(slice(max(0, int(at[0]) - MARGIN), int(at[-1]) + 1 + MARGIN))
    return tuple(found)
