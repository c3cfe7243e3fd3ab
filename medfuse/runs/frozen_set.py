"""How many patches and views a training on frozen maps has: by what a batch takes, in time and on disk."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

import medfuse
from medfuse import registry
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.memory import bytes_text
from medfuse.core.text import listed
from medfuse.runs.frozen_check import VIEWS
from medfuse.runs.records import Record, read_record
from medfuse.train.budget import Budget

if TYPE_CHECKING:
    from torch import Tensor

    from medfuse.data.patches import PatchSampler
    from medfuse.data.plan import DataPlan
    from medfuse.model.frozen import Frozen
    from medfuse.runs.run import Run

    Maker = Callable[[Tensor], dict[str, Tensor]]

RECORD = "frozen_maps.json"
FOLDER = "frozen_maps"
"""Beside the run folders, where pipelines do not name another."""
_SHARE = 0.2  # of the budget, at most, where patches or views are left to it
_MUCH = 0.4  # of the budget, which is warned of
_SPARED = 2**30  # bytes of the disk that are left to others
_ALIKE = 2.0  # another run's set is taken over where it is so many times as large at most, or as small


class FrozenRecord(Record):
    """frozen_maps.json: the finite set of patches that a run is trained on. A run has one."""

    patches: int = Field(ge=1)
    views: int = Field(ge=1)
    maps: tuple[str, ...]
    precision: str
    kept: bool

    def note(self) -> str:
        """What it means, for the summary and the report."""
        how = f"maps kept in {self.precision}" if self.kept else "maps computed at each step"
        return (
            f"trained on {self.patches} patches in {self.views} views each, drawn once "
            f"(train.frozen_maps; {how}), not on ever new ones"
        )


def frozen_note(folder: Path) -> tuple[str, ...]:
    """What a run's summary says of its finite set of patches; nothing where it has none."""
    path = folder / RECORD
    return (read_record(FrozenRecord, path).note(),) if path.exists() else ()


@dataclass(frozen=True)
class _Measured:
    """What one batch takes: seconds to compute its maps, bytes by map."""

    seconds: float
    bytes: Mapping[str, int]

    @property
    def all_bytes(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True)
class FrozenSet:
    """The choice of a set. `root` holds those of all runs, `folders`: map → where it lies in any of them."""

    run: Run
    plan: DataPlan
    sampler: PatchSampler
    frozen: Frozen
    root: Path
    folders: Mapping[str, str]

    def choose(self, maker: Maker) -> FrozenRecord:
        """A set that fits, and a line that says what it takes; of a run that goes on, its own."""
        settings = self._settings
        measured = self._measure(maker)
        if self.run.starts:
            patches, views = self._fitting(measured)
        else:
            before = read_record(FrozenRecord, self.run.folder / RECORD)
            patches, views = before.patches, before.views
        record = FrozenRecord(
            patches=patches,
            views=views,
            maps=self.frozen.maps,
            precision=settings.precision,
            kept=settings.keep,
        )
        there = self._there(record)
        if settings.keep:
            self._refuse_what_does_not_fit(record, measured, there)
        for line in self._said(record, measured, there):
            self.run.reporter.say(line)
        return record

    def folder(self, record: FrozenRecord) -> Path:
        """Where the maps of a set are kept."""
        from medfuse.model.identity import digest

        return self.root / digest([self._grid, record.patches, record.views])

    def about(self, record: FrozenRecord) -> dict[str, Any]:
        """What is written beside them, for other runs and for people."""
        return {
            "grid": self._grid,
            "dataset": self.run.store_folder.name,
            "patches": record.patches,
            "views": record.views,
            "batch_size": self.plan.batch_size,
        }

    @property
    def _settings(self) -> Any:
        return self.run.pipeline.train.frozen_maps

    @cached_property
    def _grid(self) -> str:
        """A digest of all that patches and views depend on, but for how many there are."""
        from medfuse.data.kept import FORMAT
        from medfuse.model.identity import digest

        plan, pipeline, names = self.plan, self.run.pipeline, self.run.split.train
        plugins = [registry.blame(plugin) for plugin in pipeline.augment.plugins]
        return digest(
            [
                [FORMAT, medfuse.__version__, *map(version, ("torch", "monai", "numpy"))],
                [pipeline.seed, self.run.together.size],
                [[name, self.sampler.store.key(name)] for name in names],
                [plan.patch_size, plan.batch_size, plan.spacing_mm, plan.channels, plan.ignore],
                [pipeline.sample.foreground, pipeline.augment.model_dump(mode="json"), plugins],
            ]
        )

    def _measure(self, maker: Maker) -> _Measured:
        """One batch is drawn and computed twice. Raises MedfuseError where it is not the same both times."""
        import torch

        from medfuse.data.kept import KeptMaps
        from medfuse.data.loader import collated, share_of

        share = share_of(self.plan.batch_size, self.run.together.size)
        began = time.perf_counter()
        batch = collated([self.sampler.view(place, 0) for place in range(share)])
        drawing = time.perf_counter() - began
        if isinstance(batch, MedfuseError):
            raise batch
        first = maker(batch["image"])
        began = time.perf_counter()
        second = maker(batch["image"])
        other = [name for name, made in first.items() if not torch.equal(made, second[name])]
        seconds = time.perf_counter() - began  # to look at them is to wait for a GPU
        for name in other:
            if bool(first[name].isfinite().all()):
                raise MedfuseError(
                    f"frozen maps: {name} is another map each time, of the same patch: what is frozen draws "
                    "by chance in evaluation mode too; take out train.frozen_maps, or what draws"
                )
        half = self._settings.precision == "fp16"
        kept = KeptMaps(self.root, self.folders, half=half, image=self.frozen.needs_image)
        sizes = kept.bytes_of(batch, first)
        processes = self.run.together.size
        return _Measured(
            seconds + drawing / max(1, os.cpu_count() or 1), {k: processes * n for k, n in sizes.items()}
        )

    def _fitting(self, measured: _Measured) -> tuple[int, int]:
        """(patches, views): as the pipeline says, and what it leaves open by what the budget allows."""
        settings, size = self._settings, self.plan.batch_size
        affordable = size * self._affordable_batches(measured)
        least = _up(len(self.run.split.train), size)
        if settings.patches == "auto" and settings.views == "auto":
            patches = max(least, min(self._covering(), affordable))
            views = max(1, min(VIEWS, affordable // patches))
        elif settings.patches == "auto":
            patches, views = max(least, min(self._covering(), affordable // settings.views)), settings.views
        else:
            patches = _up(settings.patches, size)
            views = settings.views
            if views == "auto":
                views = max(1, min(VIEWS, affordable // patches))
        patches = _up(patches, size)
        if "auto" in (settings.patches, settings.views):
            _, patches, views = min(self._others(patches * views), default=(0.0, patches, views))
        return patches, views

    def _affordable_batches(self, measured: _Measured) -> int:
        """So many batches take no more than their share of the budget, and have room on the disk."""
        budget = Budget.of(self.run.whole or self.run.pipeline.train)
        by_time = budget.seconds / measured.seconds if budget.seconds else float(budget.steps or 0)
        room = self._room() / measured.all_bytes if self._settings.keep else by_time
        return max(1, int(min(_SHARE * by_time, room)))

    def _covering(self) -> int:
        """Patches that see about all of every training case: one of a case that a patch covers."""
        wanted = 0
        for name in self.run.split.train:
            shape = self.sampler.store.case(name).shape
            times = prod(max(1.0, n / p) for n, p in zip(shape, self.sampler.size))
            wanted += 1 if times == 1 else ceil(2 * times)
        return _up(wanted, self.plan.batch_size)

    def _others(self, wanted: int) -> Iterator[tuple[float, int, int]]:
        """(how unlike, patches, views) of sets that other runs have of the same patches, about as large.

        So pipelines that are compared see the same, though a clock chooses.
        """
        settings = self._settings
        for path in self.root.glob("*/about.json"):
            try:
                about = json.loads(path.read_bytes())
                patches, views = int(about["patches"]), int(about["views"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if about.get("grid") != self._grid or patches % self.plan.batch_size:
                continue
            if settings.patches not in ("auto", patches) or settings.views not in ("auto", views):
                continue
            ratio = max(patches * views, wanted) / max(1, min(patches * views, wanted))
            if ratio <= _ALIKE:
                yield ratio, patches, views

    def _there(self, record: FrozenRecord) -> int:
        """Batches that are kept already."""
        from medfuse.data.kept import KeptMaps

        if not self._settings.keep:
            return 0
        half = self._settings.precision == "fp16"
        share = f"-0of{self.run.together.size}" if self.run.together.size > 1 else ""
        kept = KeptMaps(
            self.folder(record), self.folders, half=half, image=self.frozen.needs_image, share=share
        )
        return min(len(kept.numbers()), self._batches(record))

    def _batches(self, record: FrozenRecord) -> int:
        return record.patches // self.plan.batch_size * record.views

    def _room(self) -> int:
        """Bytes that maps may take: what is free on their disk, and no more than `--max-disk`."""
        free = _free(self.root)
        return max(0, free if self.run.max_disk is None else min(free, self.run.max_disk))

    def _refuse_what_does_not_fit(self, record: FrozenRecord, measured: _Measured, there: int) -> None:
        batches = self._batches(record)
        total, missing = batches * measured.all_bytes, (batches - there) * measured.all_bytes
        most = self.run.max_disk
        if most is not None and total > most:
            limit, room = f"--max-disk allows {bytes_text(most)}", most
        elif missing > (free := _free(self.root)):
            limit, room = f"the disk of {self.root} has {bytes_text(free)} to spare", free
        else:
            return
        views = int(record.views * room / total)
        largest = max(self.frozen.maps, key=lambda name: measured.bytes[name])
        share = measured.bytes[largest] / measured.all_bytes
        ways = [f"train.frozen_maps.views: {views}"] if 1 <= views < record.views else ["fewer patches"]
        if self._settings.precision != "fp16":
            ways.append("precision: fp16, half of it")
        ways += [f"coarser taps ({largest} is {share:.0%} of it)", "keep: false, which keeps nothing"]
        raise OutputError(
            f"frozen maps: {record.patches} patches in {record.views} views take {bytes_text(total)} in "
            f"{record.precision}, and {limit}; what helps: {', '.join(ways)}"
        )

    def _said(self, record: FrozenRecord, measured: _Measured, there: int) -> Iterator[str]:
        batches, budget = self._batches(record), Budget.of(self.run.whole or self.run.pipeline.train)
        maps = listed(self.frozen.maps, 6)
        head = f"frozen maps ({maps}): {record.patches} patches × {record.views} views = {batches} batches"
        cases = len(self.run.split.train)
        if not self._settings.keep:
            yield f"{head}, drawn once; the maps are computed at each step (keep: false)"
        elif there == batches:
            yield f"{head}, all of them there already ({self.folder(record)})"
        else:
            seconds = (batches - there) * measured.seconds
            share = f", {seconds / budget.seconds:.0%} of the budget" if budget.seconds else ""
            already = f"; {there} are there already" if there else ""
            yield (
                f"{head}, computed once: {bytes_text(batches * measured.all_bytes)} in {record.precision} at "
                f"{self.folder(record)}, about {_time(seconds)} in the first pass{share}{already}"
            )
            if budget.seconds and seconds > _MUCH * budget.seconds:
                yield (
                    "warning: that leaves little time to learn from them; give fewer views or patches, "
                    "coarser layers, or more minutes"
                )
        if record.patches < cases:
            without = cases - record.patches
            yield f"warning: {without} of {cases} training cases have no patch; give more patches"
        if budget.steps and budget.steps < 2 * batches and self._settings.keep:
            yield (
                f"warning: {budget.steps:,} steps are not two passes through {batches:,} batches, so that "
                "keeping them saves little; give more steps, or fewer patches or views"
            )


def _up(count: int, size: int) -> int:
    """The next whole number of batches."""
    return ceil(count / size) * size


def _free(path: Path) -> int:
    """Bytes of the disk that `path` lies on, or will, but for those that are left to others."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    usage = shutil.disk_usage(there)
    return max(0, usage.free - min(_SPARED, usage.total // 20))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} minutes"
