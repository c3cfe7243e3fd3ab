"""An assembly line: while the network works on a case, the next is read and the one before is written."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfuse.api import Case
from medfuse.core.engine import Engine, told_by, told_once
from medfuse.core.errors import OutputError
from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue, members, outputs
from medfuse.core.prepared import Prepared
from medfuse.core.region import Region
from medfuse.infer.away import Away, Scratch, inputs_now
from medfuse.infer.bricks import Brick
from medfuse.infer.feed import Abandoned, Feed
from medfuse.infer.formats import open_labels
from medfuse.infer.ledger import Ledger
from medfuse.infer.manifest import with_hashes
from medfuse.infer.plan import FEED_BYTES
from medfuse.infer.probabilities import (
    Box,
    open_probabilities,
    open_uncertainty,
    probability_file,
    uncertainty_file,
)
from medfuse.infer.recipe import Recipe
from medfuse.infer.shelf import Shelf
from medfuse.infer.sliding import Network, WindowCount, passes_of, predict_bricks
from medfuse.infer.stitch import spare_memory
from medfuse.infer.way import Way
from medfuse.infer.windows import AxisName, plan_grid
from medfuse.quality.agreement import Agreement
from medfuse.quality.judge import Judge
from medfuse.quality.scores import rounded
from medfuse.volumes.slabs import Whole

log = logging.getLogger(__name__)

_AXES: tuple[AxisName, ...] = ("x", "y", "z")


@dataclass
class _Job:
    """A case on the line: `image` until the network has seen it, and the seconds of each stage."""

    case: Case
    inputs: list[dict[str, Any]]
    began: float
    image: npt.NDArray[np.float32] | None
    shape: tuple[int, int, int]
    geometry: Geometry
    source: Path
    seconds_in: dict[str, float]
    unlike: tuple[str, ...] = ()
    distances: Mapping[str, float | None] = field(default_factory=dict)
    region: Region | None = None
    stage: str = ""
    again: bool = False
    sweep: int = 0
    count: WindowCount = field(default_factory=WindowCount)
    agreement: Agreement | None = None
    feed: Feed[Brick] = field(default_factory=lambda: Feed(FEED_BYTES))

    def afresh(self) -> _Job:
        """The same case before its first window, for a second and last time."""
        return replace(self, again=True, count=WindowCount(), agreement=None, feed=Feed(FEED_BYTES))


class Source(Protocol):
    """Cases that are to be done, one after another."""

    def take(self) -> Case | None:
        """The next one; None where there are none any more. It may wait for one."""

    def take_ahead(self) -> Case | None:
        """The next one while another is worked on; None where there is none yet."""


class Listed:
    """Cases that are known from the start, and those that are to be tried again after them."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = deque(cases)

    def __len__(self) -> int:
        return len(self._cases)

    def again(self, case: Case) -> None:
        self._cases.append(case)

    def take(self) -> Case | None:
        return self._cases.popleft() if self._cases else None

    take_ahead = take


class Line:
    """Three stages, a thread each: reading, the network (the thread that calls), and writing."""

    def __init__(
        self,
        prepare: Callable[[Case], Prepared],
        networks: Sequence[Network],
        recipe: Recipe,
        output: Path,
        device: torch.device | str,
        ways: Mapping[str, Way],
        ledger: Ledger,
        judge: Judge | None = None,
        heads: int = 1,
        scratch: Scratch | None = None,
    ) -> None:
        self._prepare, self._judge = prepare, judge or Judge()
        self._scratch = scratch
        self._networks = [_Timed(network) for network in networks]
        self._recipe = recipe
        self._output = output
        self._ways = ways
        self._ledger = ledger
        self._options: dict[str, Any] = {
            "patch_size": recipe.patch_size,
            "classes": len(recipe.written),
            "mirror": recipe.settings.mirror,
            "device": device,
            "heads": heads,
        }
        dims = len(recipe.patch_size)
        self._passes = passes_of(self._networks, recipe.settings.mirror, dims, heads)
        self._writes: list[tuple[Case, Future[None]]] = []
        self._feed: Feed[Brick] = Feed(FEED_BYTES)

    def run(self, cases: Source) -> None:
        """All cases. Raises OutputError, and what stops the whole program, with no thread left behind.

        What is stopped on the way leaves nothing; a case whose logits are complete is still written.
        """
        upcoming: list[tuple[Case, Future[_Job]]] = []
        with ThreadPoolExecutor(1, "reading") as reading, ThreadPoolExecutor(1, "writing") as writing:
            try:
                while True:
                    if not upcoming:
                        self._begin(cases.take(), reading, upcoming)
                    if not upcoming:
                        break
                    case, *read = upcoming.pop()
                    self._ledger.windows(case)
                    began = time.perf_counter()
                    wait(read)
                    self._begin(cases.take_ahead(), reading, upcoming)
                    with failures_of(case, self._ledger):
                        self._predict(_taken(read.pop(), began), writing)
                    self._settle(1)
                self._settle(0)
            except BaseException:
                self._feed.abandon()
                for _, future in upcoming:
                    future.cancel()
                raise

    def _begin(
        self, case: Case | None, reading: ThreadPoolExecutor, upcoming: list[tuple[Case, Future[_Job]]]
    ) -> None:
        if case is not None:
            upcoming.append((case, reading.submit(self._read, case)))

    def _read(self, case: Case) -> _Job:
        began, seconds_in = time.perf_counter(), dict[str, float]()
        try:
            inputs = inputs_now(case)
            if self._scratch and isinstance(case, Away):
                case = self._scratch.bring(case)
                seconds_in["fetching"] = time.perf_counter() - began
            prepared = self._prepare(case)
            inputs = with_hashes(inputs, case.images)
        except BaseException:
            self._drop(case)
            raise
        seconds_in["reading"] = time.perf_counter() - began - seconds_in.get("fetching", 0.0)
        image, (x, y, z) = prepared.image, prepared.image.shape[1:]
        return _Job(
            case,
            inputs,
            began,
            image,
            (x, y, z),
            prepared.geometry,
            prepared.source,
            seconds_in,
            prepared.unlike,
            prepared.distances,
            prepared.region,
            prepared.stage,
        )

    def _drop(self, case: Case) -> None:
        if self._scratch:
            self._scratch.drop(case)

    def _predict(self, job: _Job, writing: ThreadPoolExecutor) -> None:
        way = self._ways.get(job.case.name) or Way(self._recipe.settings.batch_size)
        while True:
            try:
                self._send_through(job, way, writing)
                return
            except torch.OutOfMemoryError:
                smaller = way.smaller()
                if smaller is None or job.again:
                    raise
                log.warning("%s: the GPU's memory is too small; once more with %s", job.case.name, smaller)
                torch.cuda.empty_cache()
                job, way = job.afresh(), smaller

    def _send_through(self, job: _Job, way: Way, writing: ThreadPoolExecutor) -> None:
        """Bricks from the network to the writer, which is held up by the case before, and holds up this."""
        assert job.image is not None, "the network sees an image once"
        began, before = time.perf_counter(), self._network_seconds
        self._feed = job.feed
        settings = self._recipe.settings
        grid = plan_grid(
            job.shape, self._recipe.patch_size, settings.windows_overlap, way.sweep, settings.stepped
        )
        if job.case.name not in self._ways:  # under a limit freed memory goes back more strictly
            spare_memory(grid, len(self._recipe.written))
        job.sweep = grid.sweep
        if len(self._passes) > 1:
            job.agreement = Agreement(self._passes, len(self._recipe.written), self._recipe.kind)
        self._writes.append((job.case, writing.submit(self._write, job)))
        try:
            with Shelf(self._output) if way.shelved else nullcontext() as shelf:
                for brick in predict_bricks(
                    job.image,
                    self._networks,
                    **self._options,
                    overlap=settings.windows_overlap,
                    batch_size=way.batch_size,
                    sums=torch.float16 if way.sums == "float16" else None,
                    sums_on=None if way.roomy else "cpu",
                    shelf=shelf,
                    sweep=_AXES[job.sweep],
                    stepped=settings.stepped,
                    skip_air=settings.skip_air,
                    adaptive_overlap=settings.adaptive_overlap,
                    kind=self._recipe.kind,
                    region=job.region,
                    count=job.count,
                    agreement=job.agreement,
                    progress=lambda done, of: self._ledger.windows(job.case, done, of),
                ):
                    job.feed.put(brick, brick.logits.nbytes)
        except Abandoned:  # the writer has failed, and its future says why
            self._settle(1)
            self._writes.pop()[1].result()
        except BaseException:
            job.feed.abandon()
            raise
        job.seconds_in["network"] = self._network_seconds - before
        job.seconds_in["held_up"] = job.feed.held_seconds
        job.seconds_in["predicting"] = time.perf_counter() - began - job.feed.held_seconds
        job.image = None
        job.feed.finish()

    @property
    def _network_seconds(self) -> float:
        return sum(network.seconds for network in self._networks)

    def _write(self, job: _Job) -> None:
        """The label map and its entry in the manifest, from bricks as they come."""
        try:
            with self._ledger.staged(job.case) as folder:
                entry = self._written(job, folder)
        except BaseException:
            job.feed.abandon()
            raise
        finally:
            self._drop(job.case)
        seconds = round(time.perf_counter() - job.began, 3)
        self._ledger.done(job.case, {**entry, "inputs": job.inputs, "seconds": seconds})

    def _written(self, job: _Job, folder: Path) -> dict[str, Any]:
        recipe, began = self._recipe, time.perf_counter()
        with ExitStack() as opened:
            takers = [opened.enter_context(one) for one in self._beside(job, folder)]

            def write(box: Box) -> None:
                for take in takers:
                    take(box)

            wanted = write if takers else None
            exporter = recipe.exporter(job.shape, job.geometry, sweep=job.sweep, probabilities=wanted)
            how = (recipe.label_files, job.geometry, exporter.dtype, job.source)
            slabs = opened.enter_context(open_labels(folder, job.case, *how))
            whole = Whole(job.geometry.shape, exporter.dtype) if recipe.steps else None
            scores = recipe.scores(job.shape, job.geometry, self._judge.volumes, sweep=job.sweep)
            for brick in job.feed:
                looked = time.perf_counter()
                scores.add(brick.where, brick.logits)
                job.seconds_in["quality"] = job.seconds_in.get("quality", 0.0) + time.perf_counter() - looked
                if rows := exporter.add(brick):
                    (whole or slabs).write(rows.axis, rows.start, rows.labels)
                del brick  # or it would stay in memory until the next one is there
            voxels = exporter.voxels
            if whole is not None:
                label_map = recipe.tidied(whole.voxels, job.geometry)
                slabs.write(2, 0, label_map)
                values, counts = np.unique(label_map, return_counts=True)
                voxels = dict(zip(values.tolist(), counts.tolist()))
        job.seconds_in["writing"] = time.perf_counter() - began - job.feed.waited_seconds
        return {
            "engines": told_once(network.engine for network in self._networks),
            "windows": job.count.run + job.count.reused + job.count.skipped,
            "windows_run": job.count.run,
            "windows_reused": job.count.reused,
            "windows_skipped": job.count.skipped,
            "sums": str(job.count.sums).removeprefix("torch."),
            "seconds_in": {stage: round(seconds, 3) for stage, seconds in job.seconds_in.items()},
            "volumes_ml": volumes_ml(voxels, job.geometry, recipe.labels),
            "quality": self._judge.entry(scores.found(job.agreement), job.distances),
            "case_quality": rounded(job.distances),
            **({"formats": slabs.said} if slabs.said else {}),
            **({"first_stage": job.stage} if job.stage else {}),
            **({"unlike_training": list(job.unlike)} if job.unlike else {}),
        }

    def _beside(self, job: _Job, folder: Path) -> Iterator[AbstractContextManager[Callable[[Box], None]]]:
        """What takes the probabilities of a case, where files of them are wanted beside its label maps."""
        recipe, case = self._recipe, job.case.name
        if recipe.probabilities:
            path, names = (
                probability_file(case, recipe.probabilities),
                outputs(recipe.labels, recipe.region_order),
            )
            yield open_probabilities(folder / path, job.geometry, names, job.source)
        if recipe.settings.uncertainty:
            yield open_uncertainty(folder / uncertainty_file(case), job.geometry, recipe.kind, job.source)

    def _settle(self, left: int) -> None:
        """Wait until no more than `left` cases are being written, and name those where it failed."""
        while len(self._writes) > left:
            case, future = self._writes.pop(0)
            with failures_of(case, self._ledger), suppress(Abandoned):
                future.result()


def _taken(read: Future[_Job], began: float) -> _Job:
    """What has been read. Nobody else holds it, so that its image can be given up."""
    job = read.result()
    job.seconds_in["waiting"] = time.perf_counter() - began
    return job


class _Timed:
    """A network and the seconds spent in it (on CUDA: until its work is handed over)."""

    def __init__(self, network: Network) -> None:
        self.seconds = 0.0
        self._network = network

    @property
    def engine(self) -> Engine:
        """What runs it, as far as it tells."""
        return told_by(self._network)

    def __call__(self, windows: Tensor) -> Tensor:
        began = time.perf_counter()
        logits = self._network(windows)
        self.seconds += time.perf_counter() - began
        return logits


@contextmanager
def failures_of(case: Case, ledger: Ledger) -> Iterator[None]:
    """Note what goes wrong with one case. A full disk concerns every case, so OutputError passes."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        ledger.failed(case, error)


def volumes_ml(
    voxels: Mapping[int, int], geometry: Geometry, labels: Mapping[str, LabelValue]
) -> dict[str, float]:
    """Millilitres of each label but the background (value 0), rounded to a microlitre."""
    return {
        name: round(sum(voxels.get(v, 0) for v in members(value)) * geometry.voxel_ml, 3)
        for name, value in labels.items()
        if value != 0
    }
