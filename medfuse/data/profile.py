"""The intensities of a volume in a few numbers, by which those of another unit or modality are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd, prod

import numpy as np
import numpy.typing as npt

PERCENTS = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
MOST_SAMPLES = 2**16
"""Voxels of a channel that they are taken of."""

Profile = tuple[float, ...]
"""The percentiles PERCENTS of a channel; empty where nothing was measured."""


@dataclass
class Sampler:
    """Some voxels of each channel, evenly spread over a volume that comes in slabs."""

    shape: Sequence[int]
    kept: dict[int, list[npt.NDArray[np.float32]]] = field(default_factory=dict)

    def add(self, channel: int, slab: npt.NDArray[np.float32]) -> None:
        """Slabs of a channel are (i, j, rows) in order."""
        step = max(1, prod(self.shape) // MOST_SAMPLES)
        while gcd(step, prod(self.shape[:2])) > 1:
            step += 1  # or some columns would be met again and again, and others never
        self.kept.setdefault(channel, []).append(slab.T.reshape(-1)[::step].copy())

    def profiles(self) -> tuple[Profile, ...]:
        """Of each channel, in order."""
        return tuple(profile(np.concatenate(self.kept[n])) for n in sorted(self.kept))


def profile_of(channel: npt.NDArray[np.float32]) -> Profile:
    """Of a channel (i, j, k) in memory."""
    sampler = Sampler(channel.shape)
    sampler.add(0, channel)
    return sampler.profiles()[0]


def profile(voxels: npt.NDArray[np.float32]) -> Profile:
    """The percentiles of some voxels; none where they are not all numbers."""
    if not voxels.size or not np.isfinite(voxels).all():
        return ()
    return tuple(float(v) for v in np.percentile(voxels, PERCENTS))


SHAPES = ("where the median lies between the 5th and 95th percentile", "the lower tail", "the upper tail")
"""The numbers of `shape_of`, in words."""


def shape_of(found: Profile) -> Profile:
    """What stays of a profile in whatever unit its channel is: tails in units of the range between; SHAPES.

    Empty where nearly all voxels have one value.
    """
    if not found or not found[5] > found[1]:
        return ()
    lowest, low, _, middle, _, high, highest = found
    between = high - low
    return (middle - low) / between, (low - lowest) / between, (highest - high) / between
