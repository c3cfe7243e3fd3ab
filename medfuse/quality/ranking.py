"""Which scans to annotate next: where the model is in doubt, and what is like none that is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.quality.scores import Scores

SURE = ("expected", "folds", "flips", "heads")
"""Scores that are 1 where a case is sure, the most telling first: expected Dice, and agreement."""

Vectors = npt.NDArray[np.floating[Any]]


def doubt(classes: Mapping[str, Scores]) -> tuple[float, str]:
    """0 (sure) to 1 of a case, and by what: its expected Dice, how little its passes agree, or the entropy
    on its surface.

    The mean over the classes that have it. 1 where nothing was found, as that is a scan of another kind or
    one that failed.
    """
    for name in (*SURE, "entropy"):
        if found := [value for scores in classes.values() if (value := scores.get(name)) is not None]:
            mean = float(np.mean(found))
            return (mean if name == "entropy" else 1 - mean), name
    return 1.0, "nothing found"


def in_turn(
    doubts: Sequence[float], vectors: Vectors, costs: Sequence[float], *, known: Vectors, number: int
) -> tuple[list[int], list[float]]:
    """The first `number` cases to annotate, in order, and every case's novelty when it was chosen or left.

    vectors: (cases, channels), what a network makes of each; (cases, 0) where nothing is known of that.
    known: the same of cases that are annotated. Each in turn has the highest place among the doubts (1 for
    the most doubtful, near 0 for the least) times novelty over cost. Novelty, 0 to 1, is the distance to the
    nearest of those that are known or chosen, over the largest; channels count alike.
    """
    place = (np.argsort(np.argsort(doubts, kind="stable"), kind="stable") + 1) / len(doubts)
    spread, others = _spread(vectors, known)
    nearest = np.full(len(doubts), np.inf)
    for vector in others:
        nearest = np.minimum(nearest, _distances(spread, vector))
    novelty, said = _shares(nearest), np.zeros(len(doubts))
    chosen: list[int] = []
    left = np.ones(len(doubts), bool)
    while len(chosen) < min(number, len(doubts)):
        worth = np.where(left, place * novelty / np.asarray(costs), -1.0)
        best = int(worth.argmax())
        chosen.append(best)
        left[best], said[best] = False, novelty[best]
        if vectors.shape[1]:
            nearest = np.minimum(nearest, _distances(spread, spread[best]))
            novelty = _shares(np.where(left, nearest, 0.0))
    said[left] = novelty[left]
    return chosen, said.tolist()


def _spread(vectors: Vectors, known: Vectors) -> tuple[Vectors, Vectors]:
    """Both, in deviations of each channel over all of them."""
    every = np.concatenate([vectors, known]) if len(known) else vectors
    deviation = every.std(0) if len(every) else np.ones(vectors.shape[1])
    scale = np.where(deviation > 0, deviation, 1.0)
    return vectors / scale, known / scale


def _distances(vectors: Vectors, one: Vectors) -> npt.NDArray[np.float64]:
    return np.sqrt(((vectors - one) ** 2).sum(1, dtype=np.float64))


def _shares(nearest: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over the largest; 1 where there is nothing to be near to, or all are alike."""
    largest = nearest.max(initial=0.0)
    if not np.isfinite(largest) or largest == 0:
        return np.ones(len(nearest))
    return nearest / largest
