"""A finite set of training patches: so many places in the cases, each in so many views, batch by batch."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medfuse.core.errors import MedfuseError
from medfuse.data.kept import KeptMaps, Loaded
from medfuse.data.loader import collated, loaded, share_of
from medfuse.data.patches import PatchSampler

_ORDER, _PLACES = 1, 2  # what is drawn by chance
_AHEAD = 2  # batches that are read before their step

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Views:
    """`patches` places in `views` views each, as batches that are put together once, and seen over and over.

    A batch has one view of each of its patches. Patches meet others in each view, and each pass through the
    batches has another order. All of it follows from `seed`. A batch is a whole, as what a network computes
    of a patch may depend, in its last bit, on the batch around it.
    """

    patches: int
    views: int
    batch_size: int
    seed: int
    _drawn: dict[tuple[int, ...], Numbers] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.patches % self.batch_size == 0, "places come in whole batches"

    @property
    def batches(self) -> int:
        """How many there are; so many steps are a pass through all of them."""
        return self.rows * self.views

    @property
    def rows(self) -> int:
        """Batches of one view of each patch."""
        return self.patches // self.batch_size

    def number(self, step: int) -> int:
        """The batch of a step."""
        of_pass, place = divmod(step, self.batches)
        return int(self._permutation(self.batches, _ORDER, of_pass)[place])

    def batch(self, number: int, rank: int = 0, processes: int = 1) -> list[tuple[int, int]]:
        """(place, view) of each of its patches; of several processes, of one's share of them.

        Place p keeps its position in a batch, p modulo the size of batches, on which foreground depends.
        """
        view, row = divmod(number, self.rows)
        share = share_of(self.batch_size, processes)
        return [
            (int(self._permutation(self.rows, _PLACES, view, slot)[row]) * self.batch_size + slot, view)
            for slot in range(rank * share, (rank + 1) * share)
        ]

    def _permutation(self, count: int, *drawn: int) -> Numbers:
        if drawn not in self._drawn:
            if drawn[0] == _ORDER:  # those of earlier passes are over
                for key in [key for key in self._drawn if key[0] == _ORDER and abs(key[1] - drawn[1]) > 1]:
                    del self._drawn[key]
            sequence = np.random.SeedSequence(self.seed, spawn_key=drawn)
            self._drawn[drawn] = np.random.default_rng(sequence).permutation(count)
        return self._drawn[drawn]


def viewed_batches(
    sampler: PatchSampler,
    views: Views,
    kept: KeptMaps | None,
    *,
    start_step: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> Generator[dict[str, Any], None, None]:
    """Endless batches as those of `training_batches`, which have their `number`, and `maps`: those that are
    `kept` of it, or None where they are to be computed.

    What is kept is not drawn again: the image is zero where it was not kept. `spent`: seconds that it took
    whoever kept this batch, where it is the first time that this training sees it. `waited`: those that this
    batch was waited for. Close the iterator to end its processes.
    """

    def patches(number: int) -> list[tuple[int, int]]:
        return views.batch(number, rank, processes)

    steps = itertools.count(start_step)
    if kept is None:
        numbers = (views.number(step) for step in itertools.count(start_step))
        with closing(loaded(sampler, map(patches, numbers))) as drawing:
            for step, made in zip(steps, drawing):
                yield {**made, "number": views.number(step), "maps": None, "spent": 0.0, "waited": 0.0}
    assert kept is not None, "the row above has no end"
    missing = [*_missing(views, kept, start_step)]
    drawing = loaded(sampler, [patches(number) for _, number in missing])
    ahead = {step for step, _ in missing}
    coming: deque[Future[Loaded | None]] = deque()
    with closing(drawing), ThreadPoolExecutor(1) as reader:
        drawn: Iterator[dict[str, Any]] = iter(())
        if ahead:  # processes begin before the thread that reads
            drawn = itertools.chain([next(drawing)], drawing)
        for step in steps:
            while len(coming) < _AHEAD:
                coming.append(reader.submit(kept.load, views.number(step + len(coming))))
            number, began = views.number(step), time.perf_counter()
            batch = next(drawn) if step in ahead else None
            ahead.discard(step)
            if batch is not None and not ahead:
                drawing.close()  # there is nothing left to draw
            if (read := coming.popleft().result()) is not None:
                found = read.batch()
                seconds = found.pop("seconds")
                spent = seconds if step < views.batches else 0.0
                yield {**_whole(found, sampler), "number": number, "spent": spent, "waited": 0.0}
                continue
            if batch is None:  # it was damaged, or taken away
                batch = _drawn_here(sampler, patches(number))
            waited = time.perf_counter() - began
            yield {**batch, "number": number, "maps": None, "spent": 0.0, "waited": waited}


def _missing(views: Views, kept: KeptMaps, start_step: int) -> Iterator[tuple[int, int]]:
    """(step, batch) of those that are not kept yet, each where it comes first."""
    seen = set(kept.numbers())
    last = (start_step // views.batches + 2) * views.batches
    for step in range(start_step, last):
        if len(seen) >= views.batches:
            return
        if (number := views.number(step)) not in seen:
            seen.add(number)
            yield step, number


def _whole(found: dict[str, Any], sampler: PatchSampler) -> dict[str, Any]:
    if found["image"] is None:
        channels, size = sampler.plan.image.channels, sampler.plan.patch_size
        found["image"] = torch.zeros(()).expand(len(found["label"]), channels, *size)
    return found


def _drawn_here(sampler: PatchSampler, patches: list[tuple[int, int]]) -> dict[str, Any]:
    batch = collated([sampler.view(*patch) for patch in patches])
    assert not isinstance(batch, MedfuseError)
    return batch
