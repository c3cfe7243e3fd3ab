"""How far a mean would have been another with other cases: bootstrap intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of means over resampled cases (Efron 1979), always the same ones."""
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def interval_of_means(rows: npt.NDArray[np.float64]) -> tuple[float, float]:
    """As `interval`, of the mean of the columns' means: (cases, labels), NaN where a label has no value.

    A label that has none in a drawing does not count in that one.
    """
    random, count = np.random.default_rng(0), len(rows)
    drawn = random.integers(count, size=(RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count)
    known = np.isfinite(rows)
    with np.errstate(invalid="ignore"):  # of labels that have no value in a drawing
        means = times @ np.where(known, rows, 0.0) / (times @ known)
    kept = [float(np.nanmean(row)) for row in means if np.isfinite(row).any()]
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high)
