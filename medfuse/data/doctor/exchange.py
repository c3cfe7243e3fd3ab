"""Which label of a case stands for which label of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment


def exchanged(confusion: npt.NDArray[Any], values: tuple[int, ...]) -> tuple[dict[int, int], float]:
    """Which label stands for which, so that most voxels agree, and in how many they then do."""
    present = [n for n in range(1, len(values)) if confusion[n].any()]
    rows, columns = linear_sum_assignment(-confusion[np.ix_(present, range(1, len(values)))])
    found = {values[present[r]]: values[c + 1] for r, c in zip(rows, columns)}
    total = confusion[0, 0] + sum(confusion[present[r], c + 1] for r, c in zip(rows, columns))
    return found, float(total)
