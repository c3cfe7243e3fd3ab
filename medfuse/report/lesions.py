"""Lesions one by one: which of the reference were found, and which of the prediction are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.labels import LabelValue, mask_of
from medfuse.report.intervals import Interval, mean_interval

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lesions:
    """Components of one label, in one case or in several: `found` of the reference and `missed`, and `false`
    ones of the prediction, which touch none of the reference; `right` ones do."""

    found: int = 0
    missed: int = 0
    right: int = 0
    false: int = 0

    def __add__(self, other: Lesions) -> Lesions:
        return Lesions(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values())))

    @property
    def recall(self) -> float | None:
        """The share of the reference's that was found; None where it has none."""
        return _share(self.found, self.found + self.missed)

    @property
    def precision(self) -> float | None:
        """The share of the prediction's that is right; None where it has none."""
        return _share(self.right, self.right + self.false)

    @property
    def f1(self) -> float | None:
        """2·found / (2·found + missed + false); None where neither has one."""
        return _share(2 * self.found, 2 * self.found + self.missed + self.false)

    def as_row(self) -> dict[str, int | float | None]:
        """Under the names of `summary.json`."""
        return {**asdict(self), "recall": self.recall, "precision": self.precision, "F1": self.f1}


def case_lesions(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    labels: Mapping[str, LabelValue],
    *,
    ignore: int | None = None,
) -> dict[str, Lesions]:
    """Each label of two integer maps (i, j, k); a region is the union of its values.

    A lesion is a component, whose voxels touch at corners at least. It is found where one of its voxels is
    predicted. Components of the prediction that lie wholly where the reference is `ignore` are not counted.
    """
    known = None if ignore is None else reference != ignore
    found = {}
    for name, value in labels.items():
        if value != 0:
            ours = mask_of(prediction, value)
            found[name] = lesions(ours if known is None else ours & known, mask_of(reference, value))
    return found


def lesions(prediction: Mask, reference: Mask) -> Lesions:
    """Of two masks of one shape."""
    both = prediction | reference
    if not both.any():
        return Lesions()
    box = tuple(
        slice(int(at[0]), int(at[-1]) + 1)
        for axis in range(3)
        if (at := np.flatnonzero(both.any(tuple(a for a in range(3) if a != axis)))).size
    )
    ours, theirs = prediction[box], reference[box]
    found, missed = _hit(theirs, ours)
    right, false = _hit(ours, theirs)
    return Lesions(found, missed, right, false)


def _hit(mask: Mask, by: Mask) -> tuple[int, int]:
    """How many components of `mask` have a voxel in `by`, and how many have none."""
    from scipy.ndimage import generate_binary_structure, label

    numbered, count = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    hit = int(np.count_nonzero(np.unique(numbered[by & mask])))
    return hit, int(count) - hit


def together(counts: Iterable[Lesions]) -> Lesions:
    return sum(counts, Lesions())


def lesion_intervals(counts: Sequence[Lesions], patients: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of recall, precision and F1 over all cases, each of a patient: lesions of one patient go together."""
    parts = {
        "recall": [(one.found, one.missed) for one in counts],
        "precision": [(one.right, one.false) for one in counts],
        "F1": [(2 * one.found, one.missed + one.false) for one in counts],
    }
    found = {name: _interval(pairs, patients) for name, pairs in parts.items()}
    return {name: interval.to_json() for name, interval in found.items() if interval is not None}


def _interval(pairs: Sequence[tuple[int, int]], patients: Sequence[str]) -> Interval | None:
    """Of the share of ones among ones and zeros, so many of each in each case."""
    values = [value for yes, no in pairs for value in (1.0,) * yes + (0.0,) * no]
    names = [name for name, (yes, no) in zip(patients, pairs, strict=True) for _ in range(yes + no)]
    interval = mean_interval(values, names)
    cases = sum(1 for yes, no in pairs if yes + no)
    return None if interval is None else replace(interval, cases=cases)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
