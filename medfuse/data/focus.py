"""Where the second stage of a cascade looks: what the first says of a case, and how much that loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.geometry import Geometry
from medfuse.core.region import Region, covering

THRESHOLDS = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Of the probability of anything but background."""
STEPS = 2
"""Steps of the margin in the smallest side of a voxel of the first stage."""

Found = npt.NDArray[np.float32]
"""(x, y, z): probability of anything but background, on the first stage's grid."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Focus:
    """Windows are run that come within `margin_mm` of where the first stage's probability of anything but
    background is at least `threshold`.

    `lost`: the share of its voxels that the label which loses most has elsewhere, in the mean of those of the
    `cases` that have it, each held out of the first stage that saw it. `looked_at`: share of their volume.
    `weights`: hashes of the first stage's, of which all this holds.
    """

    threshold: float
    margin_mm: float
    lost: float = 0.0
    cases: int = 0
    looked_at: float = 1.0
    weights: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Focus:
        return cls(**{**said, "weights": tuple(said.get("weights", ()))})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def region(self, found: Found, geometry: Geometry, shape: tuple[int, int, int]) -> Region | None:
        """What is looked at of an image of `shape`; None where the first stage finds nothing."""
        there = found >= self.threshold
        if not there.any():
            return None
        return Region(_within(there, spacing_of(found.shape, geometry), self.margin_mm), shape)


def loosest(focuses: Sequence[Focus | None]) -> Focus | None:
    """What looks wherever one of them does; None, which looks everywhere, where one of them is."""
    known = [focus for focus in focuses if focus is not None]
    if not known or len(known) < len(focuses):
        return None
    return Focus(
        min(focus.threshold for focus in known),
        max(focus.margin_mm for focus in known),
        max(focus.lost for focus in known),
        sum(focus.cases for focus in known),
        max(focus.looked_at for focus in known),
        tuple(dict.fromkeys(digest for focus in known for digest in focus.weights)),
    )


def spacing_of(shape: Sequence[int], geometry: Geometry) -> tuple[float, float, float]:
    """The sides in mm of the voxels of a grid of `shape` over an image's extent, in RAS+."""
    x, y, z = (n * mm / count for n, mm, count in zip(geometry.ras_shape, geometry.ras_spacing_mm, shape))
    return x, y, z


def lost_of(region: Region | None, labels: npt.NDArray[np.integer[Any]]) -> dict[int, float]:
    """Value of a label map (x, y, z) in RAS+ → the share of its voxels that lie outside of `region`.

    Voxels of the region's image need not be those of the label map. None is everywhere.
    """
    at = np.nonzero(labels)
    values = labels[at]
    if region is None:
        return {int(value): 0.0 for value in np.unique(values)}
    inside = region.there[_covering(at, labels.shape, region.there.shape)]
    return {int(value): float((~inside[values == value]).mean()) for value in np.unique(values)}


@dataclass
class Choice:
    """Counts, case by case, of how far labels lie from what the first stage finds at each threshold."""

    spacing_mm: Sequence[float]
    _far: dict[float, dict[int, list[npt.NDArray[np.float64]]]] = field(default_factory=dict)
    _volume: dict[float, list[npt.NDArray[np.float64]]] = field(default_factory=dict)
    cases: int = 0
    nothing: int = 0

    @property
    def step_mm(self) -> float:
        return min(self.spacing_mm) / STEPS

    def add(self, found: Found, labels: npt.NDArray[np.integer[Any]], geometry: Geometry) -> None:
        """A case that the first stage did not learn from; `labels` (x, y, z) in RAS+, 0 where none counts."""
        self.cases += 1
        self.nothing += not (found >= min(THRESHOLDS)).any()
        at = np.nonzero(labels)
        values, places = labels[at], _covering(at, labels.shape, found.shape)
        spacing = spacing_of(found.shape, geometry)
        for threshold in THRESHOLDS:
            steps = self._steps(found >= threshold, spacing)
            self._volume.setdefault(threshold, []).append(_shares(steps.ravel()))
            far = self._far.setdefault(threshold, {})
            for value in np.unique(values):
                far.setdefault(int(value), []).append(_shares(steps[places][values == value]))

    def _steps(self, there: Mask, spacing: Sequence[float]) -> npt.NDArray[np.int64]:
        """Steps of the margin that each voxel is away; none where nothing is found, as all is looked at."""
        if not there.any():
            return np.zeros(there.shape, np.int64)
        return np.ceil(_distance(there, spacing) / self.step_mm - 1e-6).astype(np.int64)

    def best(self, may_lose: float) -> Focus:
        """What looks at least of these cases' volume and loses no label by more than `may_lose`."""
        found = []
        for threshold in THRESHOLDS:
            lost = _most(self._far[threshold])
            step = int(np.flatnonzero(lost <= may_lose + 1e-12)[0])  # the last ones lose nothing
            outside = _mean(self._volume[threshold])
            looked_at = 1 - float(outside[min(step, len(outside) - 1)])
            margin = round(step * self.step_mm, 6)
            found.append(Focus(threshold, margin, float(lost[step]), self.cases, round(looked_at, 4)))
        return min(found, key=lambda focus: focus.looked_at)


def _shares(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Which share of them is above 0, 1, 2, … steps; the last of these is 0."""
    counts = np.bincount(steps)
    return 1 - np.cumsum(counts) / len(steps)


def _mean(shares: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Of cases that end at different steps."""
    longest = max(map(len, shares))
    return np.mean([np.pad(one, (0, longest - len(one))) for one in shares], axis=0)


def _most(far: Mapping[int, Sequence[npt.NDArray[np.float64]]]) -> npt.NDArray[np.float64]:
    """Of the label that loses most at each step; nothing is lost where there are no labels."""
    means = [_mean(shares) for shares in far.values()]
    longest = max(map(len, means), default=1)
    return np.max([np.zeros(longest), *(np.pad(one, (0, longest - len(one))) for one in means)], axis=0)


def _covering(at: Sequence[npt.NDArray[np.int64]], fine: Sequence[int], coarse: Sequence[int]) -> Any:
    return tuple(covering(*axis) for axis in zip(at, fine, coarse))


def _distance(there: Mask, spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    made: npt.NDArray[np.float64] = distance_transform_edt(~there, sampling=spacing)
    return made


def _within(there: Mask, spacing: Sequence[float], margin_mm: float) -> Mask:
    """Where some voxel of `there`, which is not empty, lies within the margin."""
    box = []
    for axis, mm in enumerate(spacing):
        rows = np.flatnonzero(there.any(tuple(other for other in range(3) if other != axis)))
        further = ceil(margin_mm / mm) + 1
        box.append(slice(max(0, int(rows[0]) - further), int(rows[-1]) + further + 1))
    made = np.zeros_like(there)
    x, y, z = box
    made[x, y, z] = _distance(there[x, y, z], spacing) <= margin_mm + 1e-6
    return made
