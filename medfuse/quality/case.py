"""The scores of one case, gathered from logits while they come in bricks; nothing of the volume is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from medfuse.quality.agreement import Agreement
from medfuse.quality.pieces import Pieces
from medfuse.quality.scores import Scores
from medfuse.quality.sides import exchanged, pairs
from medfuse.quality.surface import ClassSurface, Numbers, Places, Surface
from medfuse.quality.usual import UsualVolume
from medfuse.quality.voxels import Kind, entropy_and_margin, winners

BRICK_VOXELS = 1 << 18
"""As many are looked at together."""
_AT_ONCE = 1 << 18  # logits in a temporary


class CaseScores:
    """Takes the logits of a case brick by brick, and says the scores of each class in the end.

    names: of the network's outputs, of classes the background first. shape, spacing_mm: of the network's
    grid (x, y, z), in RAS+. volumes: what is usual, by name. sided: whether the file says which side is left.
    """

    def __init__(
        self,
        names: Sequence[str],
        kind: Kind,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        *,
        sweep: int,
        volumes: Mapping[str, UsualVolume],
        sided: bool = True,
    ) -> None:
        x, y, z = spacing_mm
        self._sweep = sweep
        self._voxel_ml = x * y * z / 1000
        self._names, self._kind, self._volumes, self._sided = tuple(names), kind, volumes, sided
        parts = len(names) if kind == "regions" else 1
        classes = 2 if kind == "regions" else len(names)
        self._surfaces = [Surface(shape, spacing_mm, classes, sweep=sweep) for _ in range(parts)]
        self._pieces = [Pieces(shape, classes, sweep=sweep) for _ in range(parts)]

    def add(self, where: Sequence[slice], logits: Tensor) -> None:
        """The next brick (classes, *brick); bricks tile the volume, `sweep` outermost, then x, y, z."""
        for part, own in _in_parts(where, logits, 1 if self._sweep == 2 else 2):
            if self._kind == "softmax":
                self._add(0, part, winners(own), own)
            else:
                for region in range(len(self._names)):
                    one = own[region : region + 1]
                    self._add(region, part, (one[0] > 0).byte(), one)

    def _add(self, part: int, where: Sequence[slice], labels: Tensor, logits: Tensor) -> None:
        flat = logits.reshape(len(logits), -1)

        def measure(places: Places) -> tuple[Numbers, Numbers]:
            found = np.zeros((2, len(places)))
            step = max(1, _AT_ONCE // len(logits))
            for begin in range(0, len(places), step):
                at = torch.from_numpy(places[begin : begin + step]).to(logits.device)
                some = flat.index_select(1, at).cpu().numpy()
                for row, said in zip(found, entropy_and_margin(some, self._kind)):
                    row[begin : begin + step] = said.reshape(-1)
            return found[0], found[1]

        decided = labels.cpu().numpy()
        self._surfaces[part].add(where, decided, measure)
        self._pieces[part].add(where, decided)

    def found(self, agreement: Agreement | None = None) -> dict[str, Scores]:
        """Class → score → value (see `scores.SCORES`), without the background."""
        surfaces = [one for surface in self._surfaces for one in surface.found()[1:]]
        pieces = [one for part in self._pieces for one in part.sizes()]
        agreed = _agreed(agreement, len(self._names))
        if self._kind == "softmax":
            names, agreed = self._names[1:], agreed[1:]
        else:
            names = self._names
        made = {
            name: {**self._of_class(name, surface, sizes), **said}
            for name, surface, sizes, said in zip(names, surfaces, pieces, agreed, strict=True)
        }
        self._add_sides(made, dict(zip(names, surfaces)))
        return made

    def _of_class(self, name: str, surface: ClassSurface, sizes: Sequence[int]) -> Scores:
        usual, ml = self._volumes.get(name), surface.voxels * self._voxel_ml
        return {
            "entropy": surface.entropy,
            "margin": surface.margin,
            "components": float(len(sizes)),
            "largest": sizes[0] / surface.voxels if sizes else None,
            "volume_ml": ml,
            "volume": usual.score(ml) if usual else None,
            "border": surface.border,
        }

    def _add_sides(self, made: Mapping[str, Scores], surfaces: Mapping[str, ClassSurface]) -> None:
        for left, right in pairs(made).items() if self._sided else ():
            swapped = exchanged(surfaces[left].left_right, surfaces[right].left_right)
            for name in (left, right):
                made[name]["swapped"] = swapped


def _in_parts(
    where: Sequence[slice], logits: Tensor, axis: int
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """A brick cut along the axis that bricks come along fastest, so that temporaries stay small."""
    count = logits.shape[1 + axis]
    step = max(1, BRICK_VOXELS * count // max(logits[0].numel(), 1))
    for begin in range(0, count, step):
        size, start = min(step, count - begin), where[axis].start + begin
        part = tuple(slice(start, start + size) if a == axis else one for a, one in enumerate(where))
        yield part, logits.narrow(1 + axis, begin, size)


def _agreed(agreement: Agreement | None, classes: int) -> list[Scores]:
    """Of each output the agreement of folds, flips and heads, as far as there are several."""
    found: list[Scores] = [{} for _ in range(classes)]
    if agreement is not None:
        for by in ("folds", "flips", "heads"):
            if agreement.differ(by):
                for own, dice in zip(found, agreement.dice(by), strict=True):
                    own[by] = dice
    return found
