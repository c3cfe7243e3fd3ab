"""A few hundred of many cases, by which planning goes: the same each time, with little in them and much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfuse.api import Case

MOST_CASES = 250
"""A median of so many is known to a tenth of the spread between cases, and reading them takes minutes."""
SEED = 12345


def sampled(cases: Sequence[Case], most: int = MOST_CASES) -> tuple[Case, ...]:
    """At most so many of `cases`, in their order; all of them where there are no more.

    They are sorted by the bytes of their label maps, which grow with what is in them, and one is drawn of
    each of `most` stretches of equal length; of the last the last, as it may hold what others lack. So the
    sample is like all of them, and has what is rare more often than by chance. No file is opened.
    """
    if len(cases) <= most:
        return tuple(cases)
    by_size = sorted(range(len(cases)), key=lambda i: (_label_bytes(cases[i]), cases[i].name))
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


def _label_bytes(case: Case) -> int:
    try:
        return case.label.stat().st_size if case.label else 0
    except OSError:
        return 0  # it is told of where it is read
