"""Segments, each a mask of its own, painted into one label map: where two overlap, it is said or settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.text import listed

Mask = npt.NDArray[np.bool_]


class Painting:
    """A label map (i, j, k) in the making.

    values: number of a segment → its value. order: values that may overlap, later ones over earlier ones.
    """

    def __init__(
        self, shape: tuple[int, int, int], values: Mapping[int, int], order: Sequence[int] = ()
    ) -> None:
        ordered = [value for value in order if value in values.values()]
        plain = sorted({*values.values()} - {*ordered})
        self._values = [0, *plain, *ordered]
        self._ordered_from = 1 + len(plain)
        self._codes = {number: self._values.index(value) for number, value in values.items()}
        self._voxels = np.zeros(shape, np.min_scalar_type(len(self._values)), order="F")
        self._clashes: Counter[tuple[int, int]] = Counter()

    def paint(self, segment: int, where: tuple[int | slice, ...], mask: Mask) -> None:
        """Voxels of a part of the map that belong to a segment."""
        code, there = self._codes[segment], self._voxels[where]
        taken = there[mask]
        clash = (taken != 0) & (taken != code)
        if not clash.any():
            there[mask] = code
            return
        fixed = clash & ((taken < self._ordered_from) | (code < self._ordered_from))
        for other, count in zip(*np.unique(taken[fixed], return_counts=True)):
            self._clashes[min(int(other), code), max(int(other), code)] += int(count)
        there[mask] = np.maximum(taken, code)

    def paint_numbers(self, where: tuple[int | slice, ...], numbers: npt.NDArray[np.integer[Any]]) -> None:
        """The numbers of the segments that voxels of a part of the map belong to."""
        table = np.zeros(1 + max(int(numbers.max()), *self._codes), self._voxels.dtype)
        for segment, code in self._codes.items():
            table[segment] = code
        codes, there = table[numbers], self._voxels[where]
        if not there.any():
            there[...] = codes
            return
        for segment in self._codes:
            self.paint(segment, where, numbers == segment)

    def finished(self, place: str, names: Mapping[int, str]) -> npt.NDArray[np.integer[Any]]:
        """The values of all voxels. Raises DataError where segments overlap that may not."""
        if self._clashes:
            named = {code: names[number] for number, code in self._codes.items()}
            told = [
                f"{named[a]} and {named[b]} ({count} voxels)" for (a, b), count in self._clashes.most_common()
            ]
            raise DataError(
                f"{place}: segments overlap, {listed(told, 4)}, and a voxel has one value; name fewer "
                "classes, or regions, or list values in `regions_class_order`, later ones over earlier ones"
            )
        values = np.array(self._values)
        values = values.astype(np.min_scalar_type(int(values.max())))
        if np.array_equal(values, np.arange(len(values))):
            return self._voxels
        return values[self._voxels]
