"""How far several passes agree: mean Dice of each two of them that differ in one thing alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from medfuse.quality.voxels import Kind, winners

_AT_ONCE = 1 << 22  # numbers in a temporary

By = Literal["folds", "flips", "heads"]
"""What two passes may differ in."""


@dataclass(frozen=True)
class Pass:
    """One way to decide: by which network, of which mirror image, by which head (0: the main one)."""

    fold: int = 0
    flip: int = 0
    head: int = 0


class Agreement:
    """Counts what several passes decide, voxel by voxel, in any order and any parts.

    classes: of the logits; of regions each is by itself.
    """

    def __init__(self, passes: Sequence[Pass], classes: int, kind: Kind) -> None:
        self._passes, self._classes, self._kind = tuple(passes), classes, kind
        n = len(self._passes)
        self._all = torch.zeros(classes, dtype=torch.long)
        self._both = torch.zeros(classes, n, n, dtype=torch.long)

    @property
    def passes(self) -> tuple[Pass, ...]:
        return self._passes

    def decide(self, logits: Tensor) -> Tensor:
        """What one pass decides: labels (*any) of logits (classes, *any), or of regions (regions, *any)."""
        return logits > 0 if self._kind == "regions" else winners(logits)

    def add(self, decided: Tensor) -> None:
        """What each pass decides: (passes, *any), or of regions (passes, regions, *any)."""
        if self._kind == "regions":
            for region in range(self._classes):
                self._add(decided[:, region].flatten(1), region)
        else:
            self._add(decided.flatten(1), None)

    def _add(self, labels: Tensor, region: int | None) -> None:
        same = (labels == labels[:1]).all(0)
        counts = torch.bincount(labels[0][same].long(), minlength=2 if region is not None else self._classes)
        if region is None:
            self._all += counts.cpu()
        else:
            self._all[region] += int(counts[1])
        for part in labels[:, ~same].split(max(1, _AT_ONCE // len(labels)), dim=1):
            for value in part.unique().tolist() if region is None else [1]:
                there = (part == value).float()
                self._both[value if region is None else region] += (there @ there.t()).long().cpu()

    def dice(self, by: By) -> list[float | None]:
        """Of each class, 0 … 1: the mean over pairs of passes that differ in `by` alone, and by the main head
        where it is not in heads.

        A pair that both find nothing of a class has no Dice. None where there is no pair that has one.
        """
        pairs = self._pairs(by)
        both = (self._both + self._all[:, None, None]).double()
        found: list[float | None] = []
        for own in both:
            sizes = own.diagonal()
            dices = [
                float(2 * own[one, other] / (sizes[one] + sizes[other]))
                for one, other in pairs
                if sizes[one] + sizes[other] > 0
            ]
            found.append(sum(dices) / len(dices) if dices else None)
        return found

    def differ(self, by: By) -> bool:
        """Whether there are passes that do in `by` alone."""
        return bool(self._pairs(by))

    def _pairs(self, by: By) -> list[tuple[int, int]]:
        both = combinations(range(len(self._passes)), 2)
        return [(one, other) for one, other in both if self._pair(one, other, by)]

    def _pair(self, one: int, other: int, by: By) -> bool:
        a, b = self._passes[one], self._passes[other]
        if by == "heads":
            return (a.fold, a.flip) == (b.fold, b.flip) and 0 in (a.head, b.head)
        if (a.head, b.head) != (0, 0):
            return False
        return (a.flip == b.flip) if by == "folds" else (a.fold == b.fold)


def disagreement(decided: Tensor) -> Tensor:
    """Of each voxel, 0 (all passes decide alike) to below 1: the share of pairs of passes that differ.

    decided: (passes, *any) labels.
    """
    passes = len(decided)
    alike = torch.zeros(decided.shape[1:], device=decided.device)
    for one, other in combinations(decided, 2):
        alike += one == other
    pairs = passes * (passes - 1) / 2
    return 1 - alike / pairs if pairs else torch.zeros_like(alike)
