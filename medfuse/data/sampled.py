"""A few hundred of many cases, by which planning goes: the same each time, with little in them and much."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medfuse.api import Case

MOST_CASES = 250
"""A median of so many is known to a tenth of the spread between cases, and reading them takes minutes."""
FEWEST_CASES = 30
"""Below it a median is a matter of luck."""
BYTES_A_SECOND = 25e6
"""Of files as they are, compressed or not, that two cores check and measure."""
SEED = 12345


def sampled(
    cases: Sequence[Case], most: int = MOST_CASES, *, seconds: float | None = None
) -> tuple[Case, ...]:
    """At most so many of `cases`, in their order; all of them where there are no more.

    With `seconds` no more than are read in about that time, by the bytes of their files, but FEWEST_CASES.

    They are sorted by the bytes of their label maps, which grow with what is in them, and one is drawn of
    each of `most` stretches of equal length; of the last the last, as it may hold what others lack. So the
    sample is like all of them, and has what is rare more often than by chance. No file is opened.
    """
    if seconds is not None:
        most = min(most, max(FEWEST_CASES, int(seconds * BYTES_A_SECOND / _mean_bytes(cases))))
    if len(cases) <= most:
        return tuple(cases)
    by_size = sorted(range(len(cases)), key=lambda i: (_bytes(cases[i].label), cases[i].name))
    random = np.random.default_rng(SEED)
    stretches = np.array_split(by_size, most)
    drawn = {int(random.choice(stretch)) for stretch in stretches[:-1]} | {int(by_size[-1])}
    return tuple(case for i, case in enumerate(cases) if i in drawn)


def looked_at(sample: Sequence[Case], cases: Sequence[Case]) -> str:
    """That these are not all, in a line; empty where they are."""
    if len(sample) == len(cases):
        return ""
    return (
        f"looked at {len(sample):,} of {len(cases):,} labelled cases, drawn by a fixed seed from those with "
        "little and with much in their label maps; `medfuse run` looks at all"
    )


def _mean_bytes(cases: Sequence[Case]) -> float:
    return max(1.0, sum(_bytes(path) for case in cases for path in case.files) / max(1, len(cases)))


def _bytes(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0  # it is told of where it is read
