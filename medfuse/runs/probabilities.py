"""The probabilities that are judged with a prediction: those in its folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medfuse.core.labels import LabelValue
from medfuse.report.pairs import Pair


def probabilities_beside(pair: Pair, shape: tuple[int, ...]) -> Callable[[LabelValue], Any] | None:
    """Label → (i, j, k) of a case; None where there are none. Raises DataError."""
    from medfuse.infer.probabilities_read import read_probabilities

    found = read_probabilities(pair.prediction.parent, pair.name, shape)
    return None if found is None else found.of
