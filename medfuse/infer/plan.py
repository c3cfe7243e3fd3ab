"""What inference of a case will take, told by its header: windows, bytes, seconds; and how to take less."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfuse.core.errors import MedfuseError
from medfuse.core.memory import bytes_text, memory_growth
from medfuse.core.prepared import Outlook
from medfuse.core.text import aligned, by, lasting
from medfuse.infer.decide import Kind
from medfuse.infer.draft import draft_bytes, first_pass
from medfuse.infer.formats import LabelFiles
from medfuse.infer.probabilities import BOX_BYTES
from medfuse.infer.settings import InferSettings
from medfuse.infer.sliding import KNOWN_BYTES, Network, window_logits
from medfuse.infer.stitch import are_large
from medfuse.infer.way import Way
from medfuse.infer.windows import AxisName, Grid, brick_voxels, carried_voxels, hot_voxels, plan_grid
from medfuse.quality.case import BRICK_VOXELS

FEED_BYTES = 64 * 2**20
"""How much may wait between the network and the writer, if it is more than one brick."""
_AXES: tuple[AxisName, ...] = ("x", "y", "z")
_FIXED = 96 * 2**20  # compressor, threads' stacks, the exporter's temporaries
_SLACK = 1.1  # what the allocator loses between blocks


@dataclass(frozen=True)
class WindowCost:
    """What one window costs in all networks and flips: bytes of main memory while it runs, and seconds.

    `first_bytes`: while the first one runs, in which a runtime finds out what is right and fastest.
    `kept_bytes`: what its logits take.
    """

    bytes: int
    seconds: float
    first_bytes: int = 0
    kept_bytes: int = 0


@dataclass(frozen=True, eq=False)
class CasePlan:
    """`bytes`: the most main memory above the loaded model, by what it is for.

    `first_bytes`: the same while the first window runs, when there are no sums yet.
    """

    name: str
    shape: tuple[int, ...]
    patch_size: tuple[int, ...]
    windows: int
    way: Way
    bytes: Mapping[str, int]
    seconds: float
    first_bytes: int = 0

    @property
    def need(self) -> int:
        return int(_SLACK * max(sum(self.bytes.values()), self.first_bytes)) + _FIXED

    def cells(self) -> list[str]:
        """What `--explain` says of it."""
        parts = ", ".join(f"{what} {bytes_text(size)}" for what, size in self.bytes.items())
        if self.first_bytes > sum(self.bytes.values()):
            parts = f"to find the fastest runtime {bytes_text(self.first_bytes)}; then {parts}"
        return [
            self.name,
            f"{by(self.shape[1:])} voxels",
            f"{self.windows} windows of {by(self.patch_size)}",
            lasting(self.seconds),
            f"{bytes_text(self.need)} ({parts})",
            str(self.way),
        ]


@dataclass(frozen=True)
class Plans:
    """Plans of the cases that can be read; `faults` says why the others cannot, by name."""

    plans: Sequence[CasePlan]
    faults: Mapping[str, str]

    def values(self) -> dict[str, Any]:
        """A row of numbers for each case."""
        rows = [
            {
                "case": plan.name,
                "shape": plan.shape,
                "windows": plan.windows,
                "seconds": plan.seconds,
                "bytes": plan.need,
                "way": str(plan.way),
            }
            for plan in self.plans
        ]
        return {"cases": rows, "faults": self.faults}

    def text(self) -> str:
        """A line for each case, and their sum."""
        windows, seconds = sum(plan.windows for plan in self.plans), sum(plan.seconds for plan in self.plans)
        table = [aligned([plan.cells() for plan in self.plans])] if self.plans else []
        faults = [f"{name}: {reason}" for name, reason in self.faults.items()]
        cases = f"{len(self.plans)} case{'s' * (len(self.plans) != 1)}"
        total = f"{cases}, {windows} window{'s' * (windows != 1)}, about {lasting(seconds)}"
        return "\n".join([*table, *faults, total])


@dataclass(frozen=True)
class Planner:
    """Plans cases of one model, whose labels are decided as `kind` says; `probabilities`: if they are wanted.

    With an adaptive overlap, windows and seconds are the most that there can be.
    """

    patch_size: tuple[int, ...]
    classes: int
    settings: InferSettings
    cost: WindowCost
    probabilities: bool = False
    kind: Kind = "softmax"
    label_files: LabelFiles = field(default_factory=LabelFiles)

    def plan(self, outlooks: Sequence[Outlook], limit: int | None = None) -> list[CasePlan]:
        """A plan for every case, each within `limit` bytes where there is one.

        A case is in memory together with the next one, which is read meanwhile. To fit, windows are taken in
        smaller batches, then sums are kept in float16, then all images are kept on disk, then most sums too.
        Raises MedfuseError with a line for each case that does not fit even so.
        """
        following = [*outlooks[1:], None]
        plain = Way(self.settings.batch_size)
        for way in (plain, replace(plain, on_disk=True), replace(plain, on_disk=True, shelved=True)):
            plans = [self._within(limit, way, *two) for two in zip(outlooks, following)]
            if limit is None or all(plan.need <= limit for plan in plans):
                return plans
        assert limit is not None, "without a limit every plan fits"
        raise MedfuseError(
            *(
                f"case {plan.name}: needs {bytes_text(plan.need)} of memory ({plan.way}), more than "
                f"--max-memory {bytes_text(limit)}; allow more, or leave it out"
                for plan in plans
                if plan.need > limit
            )
        )

    def _within(self, limit: int | None, first: Way, outlook: Outlook, following: Outlook | None) -> CasePlan:
        """The first way that fits, or else the one that needs least."""
        ways = self._ways(first)
        plan = self._plan(outlook, following, next(ways))
        while limit is not None and plan.need > limit and (way := next(ways, None)):
            plan = self._plan(outlook, following, way)
        return plan

    def _ways(self, way: Way) -> Iterator[Way]:
        yield way
        while way.batch_size > 1:
            way = replace(way, batch_size=way.batch_size // 2)
            yield way
        yield replace(way, sums="float16")

    def _plan(self, outlook: Outlook, following: Outlook | None, way: Way) -> CasePlan:
        how = self.settings
        grids = [
            plan_grid(outlook.shape[1:], self.patch_size, how.windows_overlap, axis, how.stepped)
            for axis in _AXES
        ]
        grid = min(grids, key=lambda grid: sum(self._bytes(outlook, following, way, grid).values()))
        short = self.cost.kept_bytes == 2 * self.classes * prod(grid.window)
        if short and are_large(grid, self.classes):  # which inference would do of its own
            way = replace(way, sums="float16")
        way = replace(way, sweep=_AXES[grid.sweep])
        windows = len(self._first(grid) or ()) + len(grid)
        taken = self._bytes(outlook, following, way, grid)
        first = self.cost.first_bytes * way.batch_size + taken["image"] + taken["reading"]
        return CasePlan(
            outlook.name,
            outlook.shape,
            self.patch_size,
            windows,
            way,
            taken,
            windows * self.cost.seconds,
            first,
        )

    def _first(self, grid: Grid) -> Grid | None:
        return first_pass(grid, self.settings.adaptive_overlap)

    def _bytes(self, outlook: Outlook, following: Outlook | None, way: Way, grid: Grid) -> dict[str, int]:
        sums, bricks = _unfinished_bytes(grid, self.classes, way)
        known = max(0 if way.shelved else self.cost.kept_bytes, KNOWN_BYTES)
        images = [0 if way.on_disk else 4 * prod(case.shape) for case in (outlook, following) if case]
        reading = max(case.reading_bytes for case in (outlook, following) if case)
        return {
            "image": images[0],
            "reading": sum(images[1:]) + reading,
            "network": self.cost.bytes * way.batch_size + known,
            "sums": sums,
            "bricks": bricks,
            "export": _export_bytes(outlook, grid, self.classes),
            "quality": _quality_bytes(grid, self.classes, self.kind),
            **({"first pass": draft_bytes(grid, self.classes, self.kind)} if self._first(grid) else {}),
            **({"probabilities": BOX_BYTES} if self.probabilities or self.settings.uncertainty else {}),
            **({"label maps": whole} if (whole := self._whole_maps(outlook)) else {}),
        }

    def _whole_maps(self, outlook: Outlook) -> int:
        """Label maps that wait for their last row, in formats that were asked for."""
        return self.label_files.bytes(outlook.geometry.shape, _label_bytes(self.classes))


def _label_bytes(classes: int) -> int:
    return np.min_scalar_type(max(classes - 1, 255)).itemsize


def _unfinished_bytes(grid: Grid, classes: int, way: Way) -> tuple[int, int]:
    """Sums, and bricks in flight, when both together take most.

    Of bricks there are three in a row (one made, one on its way, one being exported), or as many as may wait.
    """
    voxels = hot_voxels(grid) if way.shelved else carried_voxels(grid)
    sums = voxels * classes * (2 if way.sums == "float16" else 4)
    three = np.convolve(brick_voxels(grid), [1, 1, 1])[: len(sums)]  # those that end with each window's
    bricks = np.maximum(three * 4 * classes, FEED_BYTES)
    most = int(np.argmax(sums + bricks))
    return int(sums[most]), int(bricks[most])


def _export_bytes(outlook: Outlook, grid: Grid, classes: int) -> int:
    """What lies between bricks (a plane, a strip, a face; twice, as they are joined), and labels.

    Labels are written as they come where `sweep` is the file's slowest axis in its direction; else the whole
    label map waits for its last row.
    """
    sweep, second, third = grid.order
    brick = [max(part.stop - part.start for part in axis.bricks()) for axis in grid.axes]
    plane = grid.shape[second] * grid.shape[third]
    seams = plane + brick[sweep] * grid.shape[third] + brick[sweep] * brick[second]
    turn, fine = outlook.geometry.turn, outlook.geometry.ras_shape
    label = _label_bytes(classes)
    rows = ceil(brick[sweep] * fine[sweep] / outlook.shape[1 + sweep]) + 1
    slab = label * rows * prod(fine) // fine[sweep]
    streamed = turn.axes[sweep] == 2 and not turn.flipped[sweep]
    return 2 * 4 * classes * seams + 3 * slab + (0 if streamed else label * prod(fine))


def _quality_bytes(grid: Grid, classes: int, kind: Kind) -> int:
    """What scores hold: labels of a slab; a plane, a strip and a face of labels and two numbers each; numbers
    of pieces in a plane; and what is counted at once of a brick and of a slab."""
    sweep, second, third = grid.order
    brick = [max(part.stop - part.start for part in axis.bricks()) for axis in grid.axes]
    plane = grid.shape[second] * grid.shape[third]
    label = (1 if classes <= 256 else 4) if kind == "softmax" else classes
    seams = plane + brick[sweep] * (grid.shape[third] + brick[second])
    parts = classes if kind == "regions" else 1
    counted = 100 * min(prod(brick), BRICK_VOXELS) + 16 * max(plane, 1 << 20)
    return label * brick[sweep] * plane + 9 * parts * seams + 4 * classes * plane + counted


def measure(one_window: Callable[[], Tensor]) -> WindowCost:
    """The cost of `run_one_window`: run with probes of the runtime, then for its memory and its time."""
    with memory_growth() as growth:
        kept = one_window().nbytes
        first = growth()
        with memory_growth():  # which counts the peak anew
            one_window()
            later = growth()
    began = time.perf_counter()
    one_window()
    return WindowCost(later, time.perf_counter() - began, first, kept)


def run_one_window(
    image: npt.NDArray[np.float32],
    networks: Sequence[Network],
    *,
    patch_size: Sequence[int],
    classes: int,
    mirror: Sequence[str],
    device: torch.device | str,
    heads: int = 1,
) -> Tensor:
    """The logits of the window in the middle of a prepared image (channels, x, y, z)."""
    window = image[(slice(None), *_middle(image.shape[1:], (*patch_size, 1)[:3]))]
    logits = window_logits(
        window,
        networks,
        patch_size=patch_size,
        classes=classes,
        mirror=mirror,
        device=device,
        heads=heads,
    )
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return logits


def _middle(shape: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    starts = [max(0, (n - wanted) // 2) for n, wanted in zip(shape, size)]
    return tuple(slice(start, start + wanted) for start, wanted in zip(starts, size))
