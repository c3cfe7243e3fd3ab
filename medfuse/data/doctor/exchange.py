"""Which label of a case stands for which label of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Exchange:
    """Label → label that it stands for, and by how much they then agree better."""

    of: dict[int, int]
    gain: float


def by_shape(confusion: npt.NDArray[Any], values: tuple[int, ...], others: npt.NDArray[Any]) -> Exchange:
    """As `exchanged`, of labels that count alike however large they are.

    Each is compared with where the others have one, as the cosine of the two. `others`: the length of each
    label's map of places.
    """
    present = [n for n in range(1, len(values)) if confusion[n].any()]
    own = np.sqrt(confusion.sum(axis=1))
    alike = confusion / np.maximum(own[:, None] * others[None], 1e-9)
    part = alike[np.ix_(present, range(1, len(values)))]
    rows, columns = linear_sum_assignment(-part)
    moved = [(present[r], c + 1) for r, c in zip(rows, columns) if present[r] != c + 1]
    gains = [alike[a, b] - alike[a, a] for a, b in moved]
    return Exchange({values[a]: values[b] for a, b in moved}, float(np.mean(gains)) if gains else 0.0)


def exchanged(confusion: npt.NDArray[Any], values: tuple[int, ...]) -> tuple[dict[int, int], float]:
    """Which label stands for which, so that most voxels agree, and in how many they then do."""
    present = [n for n in range(1, len(values)) if confusion[n].any()]
    rows, columns = linear_sum_assignment(-confusion[np.ix_(present, range(1, len(values)))])
    found = {values[present[r]]: values[c + 1] for r, c in zip(rows, columns)}
    total = confusion[0, 0] + sum(confusion[present[r], c + 1] for r, c in zip(rows, columns))
    return found, float(total)
