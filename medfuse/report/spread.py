"""Mean and deciles of numbers that come in parts: exact, and none of them is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

DECILES = tuple(range(10, 100, 10))
_BITS = 16
_SIZE = 1 << _BITS

Integers = npt.NDArray[np.unsignedinteger[Any]]


class Spread:
    """Numbers are counted by 16 bits of their order at a time, the first bits first.

    Whoever has given it all numbers asks `is_known`, and gives them again as long as that does not hold:
    those of 16 bits once in all, those of 32 twice.
    """

    def __init__(self) -> None:
        self._count, self._sum, self._level = 0, 0.0, 0
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._tallies = {0: _Tally()}
        self._ranks: dict[int, tuple[int, int]] = {}
        """Place in the order → how the number there begins, and its place among those that begin so."""

    def add(self, numbers: npt.NDArray[Any]) -> None:
        numbers = np.ascontiguousarray(numbers.ravel(), numbers.dtype.newbyteorder("="))
        keys = _keys(numbers)
        if self._level == 0:
            self._count += numbers.size
            self._sum += float(numbers.sum(dtype=np.float64))
            self._dtype = numbers.dtype
        shift = 8 * keys.itemsize - _BITS * (self._level + 1)
        digits = (keys >> keys.dtype.type(shift)).astype(np.uint16)
        if self._level == 0:
            self._tallies[0].add(digits)
            return
        begins = keys >> keys.dtype.type(shift + _BITS)
        wanted = np.array(sorted(self._tallies), keys.dtype)
        if self._level == 1:
            table = np.full(_SIZE, len(wanted), np.uint8)
            table[wanted] = np.arange(len(wanted))
            which = table[begins]
        else:
            which = np.minimum(np.searchsorted(wanted, begins), len(wanted) - 1).astype(np.uint8)
            which[wanted[which] != begins] = len(wanted)
        held = np.flatnonzero(which < len(wanted))
        which, digits = which[held], digits[held]
        for n, begin in enumerate(wanted.tolist()):
            self._tallies[begin].add(digits[which == n])

    def is_known(self) -> bool:
        """Whether all is known; else all numbers are to be given again."""
        if not self._count:
            return True
        if self._level == 0:
            self._ranks = {rank: (0, rank) for q in DECILES for rank in self._beside(q)}
        sums = {begin: tally.counts.cumsum() for begin, tally in self._tallies.items()}
        for rank, (begin, place) in self._ranks.items():
            digit = int(np.searchsorted(sums[begin], place, side="right"))
            before = int(sums[begin][digit - 1]) if digit else 0
            self._ranks[rank] = (begin << _BITS | digit, place - before)
        self._level += 1
        self._tallies = {begin: _Tally() for begin, _ in self._ranks.values()}
        return self._level * _BITS == 8 * _keys(np.zeros(1, self._dtype)).itemsize

    def mean(self) -> float:
        return self._sum / self._count

    def deciles(self) -> list[float]:
        """Between two numbers by their distance, as numpy has it."""
        made = []
        for q in DECILES:
            low, high = (_number(self._ranks[rank][0], self._dtype) for rank in self._beside(q))
            made.append(low + (high - low) * (self._place(q) % 1))
        return made

    def _place(self, q: int) -> float:
        return q / 100 * (self._count - 1)

    def _beside(self, q: int) -> tuple[int, int]:
        low = int(self._place(q))
        return low, min(low + 1, self._count - 1)


class _Tally:
    """How often each of 16 bits is there."""

    def __init__(self) -> None:
        self._few: list[npt.NDArray[np.uint16]] = []
        self._held = 0
        self._counts: npt.NDArray[np.int64] | None = None

    def add(self, digits: npt.NDArray[np.uint16]) -> None:
        self._few.append(digits)
        self._held += digits.size
        if self._held > _SIZE:
            self._counts = self.counts
            self._few, self._held = [], 0

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        counted = np.zeros(_SIZE, np.int64) if self._counts is None else self._counts
        for digits in self._few:
            counted = counted + np.bincount(digits, minlength=_SIZE)
        return counted


def _keys(numbers: npt.NDArray[Any]) -> Integers:
    """Unsigned integers of 16, 32 or 64 bits in the order of the numbers."""
    kind = numbers.dtype
    if kind.itemsize == 1:
        return _keys(numbers.astype(np.int16))
    unsigned = np.dtype(f"u{kind.itemsize}")
    if kind.kind == "u":
        return numbers
    top = unsigned.type(1 << 8 * kind.itemsize - 1)
    bits = (numbers + kind.type(0) if kind.kind == "f" else numbers).view(unsigned)  # of -0.0, 0.0
    if kind.kind == "f":
        return np.where(bits & top, ~bits, bits | top)
    return np.asarray(bits ^ top)


def _number(key: int, kind: np.dtype[Any]) -> float:
    """What `_keys` made the key of."""
    if kind.itemsize == 1:
        return _number(key, np.dtype(np.int16))
    unsigned = np.dtype(f"u{kind.itemsize}")
    top = 1 << 8 * kind.itemsize - 1
    if kind.kind == "f":
        key = key ^ top if key & top else key ^ (2 * top - 1)
    elif kind.kind == "i":
        key ^= top
    return float(np.array([key], unsigned).view(kind)[0])
