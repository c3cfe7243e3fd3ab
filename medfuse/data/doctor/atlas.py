"""What the cases of a dataset have in common, seen from their labels: a mean image, and places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates, uniform_filter
from scipy.signal import correlate

from medfuse.data.doctor.frame import CORE, WINDOW, Frame

Flip = tuple[bool, bool, bool]
FLIPS: tuple[Flip, ...] = tuple((x, y, z) for x, y, z in product((False, True), repeat=3))
NO_FLIP = FLIPS[0]
NO_ZOOM = (1.0, 1.0, 1.0)
Scalar = TypeVar("Scalar", bound=np.generic)
Floats = npt.NDArray[np.float32]


def flipped(volume: npt.NDArray[Scalar], flip: Flip) -> npt.NDArray[Scalar]:
    """The last three axes, some of them turned round."""
    x, y, z = (slice(None, None, -1 if turned else 1) for turned in flip)
    return volume[..., x, y, z]


def standard(volume: npt.NDArray[np.generic]) -> Floats:
    """(channels, x, y, z) of mean 0 and length 1, each channel by itself."""
    rows = np.asarray(volume, np.float32).reshape(len(volume), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(length, 1e-6)).reshape(volume.shape)


@dataclass(frozen=True, eq=False)
class Atlas:
    """The sums over all cases; a case is held against those of the others."""

    frames: Sequence[Frame]
    values: tuple[int, ...]
    image: Floats  # (channels, 20, 20, 20)
    places: Floats  # (labels, 20³), background first

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Atlas:
        values = tuple(sorted({0} | {int(v) for frame in frames for v in np.unique(frame.labels)}))
        image = sum((standard(frame.core) for frame in frames), np.float32(0))
        places = np.zeros((len(values), CORE**3), np.float32)
        at = np.arange(CORE**3)
        for frame in frames:
            places[np.searchsorted(values, frame.labels.ravel()), at] += 1
        return cls(frames, values, np.asarray(image), places)

    def others(self, number: int) -> Floats:
        """The mean image of all cases but one, standardised."""
        return standard(self.image - standard(self.frames[number].core))

    def image_agreement(self, number: int, flip: Flip = NO_FLIP) -> float:
        """Correlation of a case's image with the others', -1 to 1."""
        own = standard(self.frames[number].core)
        return float((flipped(own, flip) * self.others(number)).sum()) / len(own)

    def label_agreement(self, number: int, flip: Flip = NO_FLIP) -> float:
        """How often the others have the label that a case has, where it or most of them have one."""
        confusion, total = self.confusion(number, flip)
        return float(np.trace(confusion)) / total

    def confusion(self, number: int, flip: Flip = NO_FLIP) -> tuple[npt.NDArray[np.float64], float]:
        """(own label, others' label): in how many voxels, and how many are counted."""
        own = np.searchsorted(self.values, self.frames[number].labels.ravel())
        others = self.places.copy()
        others[own, np.arange(CORE**3)] -= 1
        others /= max(1, len(self.frames) - 1)
        turned = np.ascontiguousarray(flipped(own.reshape((CORE,) * 3), flip)).ravel()
        counted = (turned != 0) | (others[0] < 0.5)
        confusion = np.zeros((len(self.values),) * 2)
        for label in np.unique(turned[counted]):
            confusion[label] = others[:, counted & (turned == label)].sum(axis=1)
        return confusion, float(max(1, counted.sum()))

    def found_at(self, number: int, flip: Flip = NO_FLIP, zoom: Sequence[float] = NO_ZOOM) -> Place:
        """Where the others' image is best found around a case's labels, turned round and zoomed."""
        frame = self.frames[number]
        window = flipped(zoomed(frame.window, zoom), flip)
        scores = matched(np.asarray(window, np.float32), self.others(number))
        best = np.unravel_index(int(scores.argmax()), scores.shape)
        middle = (WINDOW - CORE) // 2
        moved = [(int(at) - middle) * (-1 if f else 1) for at, f in zip(best, flip)]
        offset = [m * step / z for m, step, z in zip(moved, frame.step, zoom)]
        return Place(float(scores[best]), (offset[0], offset[1], offset[2]), flip, tuple(zoom))


@dataclass(frozen=True)
class Place:
    """An agreement, and where: voxels along x, y and z from the labels, turned round and zoomed so."""

    agreement: float
    offset: tuple[float, float, float]
    flip: Flip
    zoom: tuple[float, ...]


ZOOMS = tuple(
    [(k, k, k) for k in (0.6, 0.7, 0.8, 1.25, 1.45, 1.7)]
    + [tuple(k if a == axis else 1.0 for a in range(3)) for axis in range(3) for k in (0.55, 0.75, 1.35, 1.8)]
)


def zoomed(window: npt.NDArray[np.uint8], zoom: Sequence[float]) -> npt.NDArray[np.generic]:
    """What a box that is `zoom` times as large would see: of a label that was scaled by 1 / zoom."""
    if all(k == 1 for k in zoom):
        return window
    middle = (WINDOW - 1) / 2
    along = [(np.arange(WINDOW) - middle) * k + middle for k in zoom]
    places = np.stack(np.meshgrid(*along, indexing="ij"))
    return np.stack([map_coordinates(channel, places, order=1, mode="nearest") for channel in window])


def matched(window: Floats, template: Floats) -> npt.NDArray[np.float64]:
    """The correlation of a standardised template with each part of a window of its size, mean of channels."""
    total = 0.0
    for channel, wanted in zip(window, template):
        product = correlate(channel, wanted, mode="valid", method="fft")
        n = CORE**3
        cut = slice(CORE // 2, CORE // 2 + product.shape[0])
        mean, square = (uniform_filter(v, CORE)[cut, cut, cut] for v in (channel, channel**2))
        spread = np.sqrt(np.maximum(square - mean**2, 1e-3) * n)
        total = total + product / spread
    return np.asarray(total, float) / len(window)
