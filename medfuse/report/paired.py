"""Is the difference of two models on the same patients more than luck, or less than matters?

Everything works on rows at once, so that what is printed and what simulations judge is the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfuse.report.resampling import Floats, Spread, parts

MARGIN = 0.005
"""Dice; a difference that is smaller than this does not matter, where nobody says otherwise."""
LEVEL = 0.05
POWER = 0.8
FEWEST_FOR_A_CLAIM = 10
"""Patients below which no equivalence is claimed: of so few, those that differ may all be unseen."""


@dataclass(frozen=True)
class Tests:
    """Of each row: the difference, its 95 % limits and variances, the two-sided p that it is 0 (`p`), and the
    p that it is as far from 0 as the margin (`p_equivalent`: two one-sided tests, Schuirmann 1987).
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats
    p_equivalent: Floats
    of_patients: Floats
    of_seeds: Floats


def judge(table: Floats, baseline: Floats, margin: float, weights: Floats | None = None) -> Tests:
    """Of (rows, patients, seeds) minus `baseline`, which may have other seeds; of two patients at least."""
    of = parts(table, baseline, weights)
    spread = Spread(of)
    low, high = spread.limits()
    mean = spread.mean
    p = np.minimum(1.0, 2 * np.minimum(spread.p_at_most(0), spread.p_at_least(0)))
    p_equivalent = np.maximum(spread.p_at_most(-margin), spread.p_at_least(margin))
    return Tests(
        mean, np.minimum(low, mean), np.maximum(high, mean), p, p_equivalent, of.of_patients, of.of_seeds
    )


def signed_rank(rows: Floats) -> Floats:
    """Wilcoxon's two-sided p (1945) of each row, without what is 0; 1 where all is."""
    from scipy.stats import wilcoxon

    made = np.ones(len(rows))
    whole = (rows != 0).all(axis=1)
    if whole.any():
        made[whole] = wilcoxon(rows[whole], axis=1).pvalue
    for n in np.flatnonzero(~whole & (rows != 0).any(axis=1)):
        made[n] = wilcoxon(rows[n][rows[n] != 0]).pvalue
    return np.maximum(made, smallest_p(np.count_nonzero(rows, axis=1)))


def smallest_p(differing: Floats) -> Floats:
    """The p of so many pairs that all differ to one side: 2 of 2^n orders of signs are as far from even."""
    return np.minimum(1.0, 2.0 ** (1 - np.asarray(differing, np.float64)))


@dataclass(frozen=True)
class Needed:
    """How many patients, each model trained with how many seeds, would show a difference in four of five
    studies; as far as the patients and seeds that there are can tell.
    """

    patients: int
    seeds: int


def needed(of_patients: float, of_seeds: float, patients: int, seeds: int, effect: float) -> Needed:
    """For a difference of `effect`: more patients, and where seeds are too uncertain, more of these."""
    from scipy.stats import norm

    target = (effect / (norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER))) ** 2
    if of_seeds > target / 2:
        seeds, left = int(np.ceil(seeds * of_seeds / (target / 2))), target / 2
    else:
        left = target - of_seeds
    return Needed(max(FEWEST_FOR_A_CLAIM, patients + 1, _rounded(patients * of_patients / left)), seeds)


def _rounded(value: float) -> int:
    """To two digits, upwards: more of them would be false."""
    step = 10 ** max(0, int(np.log10(max(value, 1))) - 1)
    return int(np.ceil(value / step) * step)
