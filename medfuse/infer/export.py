"""From logits on the network's grid, brick by brick, to one small label map on the input's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfuse.core.geometry import Geometry
from medfuse.infer.bricks import Brick
from medfuse.infer.decide import Kind, paint
from medfuse.infer.probabilities import Box, boxes
from medfuse.infer.seams import Seams
from medfuse.infer.trilinear import Axis
from medfuse.volumes.volume import smallest_integer

Labels = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Rows:
    """Finished labels (i, j, k) in the file's axes: all of the volume from `start` on along `axis`."""

    axis: int
    start: int
    labels: Labels


class Exporter:
    """Takes logits brick by brick, gives labels on the input's grid as soon as they are settled.

    Labels equal `interpolate(logits, geometry.ras_shape, mode="trilinear", align_corners=False)` on this CPU,
    followed by `kind`. Class c is written as `values[c]`, in the smallest unsigned integer type that holds
    them all. Beside a slab of labels no more is kept of the logits than one plane across `sweep`, one strip
    and one face of a brick.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        geometry: Geometry,
        values: Sequence[int],
        *,
        kind: Kind = "softmax",
        sweep: int = 0,
        shifts: Sequence[float] = (),
        probabilities: Callable[[Box], None] | None = None,
    ) -> None:
        """shape: of the coarse volume (x, y, z). sweep: the axis along which slab follows slab.

        shifts: taken from each class's logits before labels are decided, where there are any.
        probabilities: is given those of all voxels, box by box, each voxel once.
        """
        self._axes = tuple(Axis(coarse, fine) for coarse, fine in zip(shape, geometry.ras_shape))
        self._geometry, self._kind, self._sweep = geometry, kind, sweep
        self._shifts = torch.tensor(shifts)[:, None, None, None] if shifts else None
        self._on_box = probabilities
        self._seams = Seams(self._axes, sweep)
        self._values = list(values) if kind == "softmax" else [0, *values]
        self._dtype = np.dtype(smallest_integer(max(self._values)))
        self._rows: Tensor | None = None
        self._done = 0  # fine rows given away
        self._voxels: dict[int, int] = dict.fromkeys(self._values, 0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the labels."""
        return self._dtype

    @property
    def voxels(self) -> Mapping[int, int]:
        """How many voxels have each value, in the rows given so far."""
        return dict(self._voxels)

    def add(self, brick: Brick) -> Rows | None:
        """Take the next brick; the rows that it settles, if it is the last of its slab and settles any.

        Bricks tile the volume, the sweep axis outermost, the others in the order x, y, z.
        """
        assert brick.logits.dtype == torch.float32, f"logits in {brick.logits.dtype}"
        rows = self._rows = self._slab(brick) if self._rows is None else self._rows
        start = [self._done if a == self._sweep else 0 for a in range(3)]
        table = torch.tensor(self._values, device=rows.device).to(rows.dtype)
        for region in self._seams.regions(brick):
            if region:
                if self._on_box is not None:
                    for box in boxes(region, self._axes, self._kind, self._geometry):
                        self._on_box(box)
                if self._shifts is not None:
                    region = replace(region, logits=region.logits - self._shifts.to(rows.device))
                paint(region, self._axes, self._kind, table, rows, start)
        ends = [where.stop == axis.coarse for where, axis in zip(brick.where, self._axes)]
        return self._give() if all(end for a, end in enumerate(ends) if a != self._sweep) else None

    def _slab(self, brick: Brick) -> Tensor:
        """Room for the rows that a slab settles."""
        axis, where = self._axes[self._sweep], brick.where[self._sweep]
        end = int(axis.first[axis.cells_until(slice(0, where.stop), 0).stop])
        shape = [end - self._done if a == self._sweep else self._axes[a].fine for a in range(3)]
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[self._dtype.itemsize]
        return torch.empty(shape, dtype=kind, device=brick.logits.device)

    def _give(self) -> Rows | None:
        assert self._rows is not None
        labels, start = self._rows.cpu().numpy().view(self._dtype), self._done
        count, self._rows = labels.shape[self._sweep], None
        if count == 0:
            return None
        self._done += count
        self._count(labels)
        turn, length = self._geometry.turn, self._axes[self._sweep].fine
        begin = length - start - count if turn.flipped[self._sweep] else start
        return Rows(turn.axes[self._sweep], begin, turn.undo(labels))

    def _count(self, labels: Labels) -> None:
        if self._dtype == np.uint8:
            counts = torch.bincount(torch.from_numpy(labels).view(-1), minlength=256).tolist()
            found = {value: counts[value] for value in self._voxels}
        else:
            found = dict(zip(*(a.tolist() for a in np.unique(labels, return_counts=True))))
        for value, count in found.items():
            self._voxels[value] += count


def to_label_map(
    logits: Tensor, geometry: Geometry, values: Sequence[int], *, kind: Kind = "softmax"
) -> Labels:
    """The label map (i, j, k), in the file's own axes, of logits (classes, x, y, z) that are all there."""
    assert len(values) == len(logits), f"{len(values)} label values for {len(logits)} classes"
    x, y, z = logits.shape[1:]
    exporter = Exporter((x, y, z), geometry, values, kind=kind)
    rows = exporter.add(Brick((slice(0, x), slice(0, y), slice(0, z)), logits.float()))
    assert rows is not None, "a whole volume settles every row"
    return rows.labels
