"""A job, done as `medfuse infer` does it, by the same code."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case
from medfuse.core.device import settle
from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.json_text import read_json
from medfuse.core.memory import bytes_text
from medfuse.core.reporter import Advance, Reporter
from medfuse.infer.records import JSONL, PARQUET
from medfuse.quality.table import NAME as QUALITY
from medfuse.service.jobs import Job, shown
from medfuse.service.limits import Limits
from medfuse.volumes.dicom.index import index_folder

if TYPE_CHECKING:
    from medfuse.infer.ledger import Outcome
    from medfuse.trained.trained import Trained

_FLOAT = 4  # bytes of a voxel as the network sees it


def worker(models: Mapping[str, Trained], limits: Limits) -> Callable[[Job], None]:
    """What does jobs with the models of one device."""

    def work(job: Job) -> None:
        sent = [job.order.sent] if job.order.sent else []
        own = [kept.folder for kept in (job.kept, *job.holds)]
        model = models[job.order.model]
        settle(model.device)  # some of it is each thread's own
        try:
            _label(job, model, limits)
        except MedfuseError as error:
            job.tell(status="failed", errors=shown(error.lines, job.results, *sent, *own))
        finally:
            for folder in sent:
                _forget(job, folder)

    return work


def _label(job: Job, model: Trained, limits: Limits) -> None:
    from medfuse.infer.cases import find_inputs

    order, began = job.order, time.perf_counter()
    cases = list(order.cases) or find_inputs(order.inputs, model.plan.channels, order.scans)
    if order.one and len(cases) > 1:
        names = ", ".join(case.name for case in cases[:3])
        raise DataError(f"{len(cases)} cases ({names}, …) where one is wanted; send the files of one")
    for case in cases:
        _refuse_large(case, model, limits)
    job.check()
    job.seconds["pre"] = time.perf_counter() - began
    outcome = model.infer(
        cases,
        job.results,
        _Told(job),
        strict=order.strict,
        formats=order.formats,
        seg_type=order.seg_type,
        statistics=order.statistics,
    )
    job.seconds["total"] = time.perf_counter() - began
    _tell(job, cases, outcome)


def _refuse_large(case: Case, model: Trained, limits: Limits) -> None:
    """By the headers, before anything is read. What cannot be read fails when it is."""
    try:
        seen = model.look(case)
    except DataError:
        return
    channels, *size = seen.shape
    own = prod(seen.geometry.shape) * channels * _FLOAT
    for what, count in (("has", own), ("becomes, as the network sees it,", channels * prod(size) * _FLOAT)):
        if count > limits.unpacked:
            raise DataError(
                f"{case.images[0]}: {what} {bytes_text(count)}, and {bytes_text(limits.unpacked)} are "
                "allowed; crop it, or mend its header if it is wrong"
            )


def _tell(job: Job, cases: list[Case], outcome: Outcome) -> None:
    failed = dict(outcome.failed) | dict(outcome.left)
    entries = read_json(outcome.manifest).get("cases", {})
    sent = [job.order.sent] if job.order.sent else []
    folders = [job.results, *sent, *(kept.folder for kept in (job.kept, *job.holds))]
    for case in cases:
        if case.name in failed:
            said = {"error": "; ".join(shown([failed[case.name]], *folders))}
        else:
            entry = entries.get(case.name, {})
            wanted = ("volumes_ml", "quality", "case_quality", "unlike_training", "seconds_in", "formats")
            said = {key: entry[key] for key in wanted if key in entry}
        job.cases[case.name] = said
    kept_out = (outcome.manifest.name, QUALITY, JSONL, PARQUET)
    files = [
        path
        for path in sorted(job.results.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.name not in kept_out
    ]
    if outcome.done or outcome.skipped:
        job.tell(status="done", files=tuple(files), progress=1.0)
    else:
        job.tell(status="failed", errors=tuple(said["error"] for said in job.cases.values()))


def _forget(job: Job, sent: Path) -> None:
    """What the cache folder keeps of DICOM series in a client's files."""
    for path in {*job.order.inputs, *(Path(folder) for folder, _, _ in os.walk(sent))}:
        shutil.rmtree(index_folder(path, job.order.scans), ignore_errors=True)


class _Told(Reporter):
    """Tells a job how far it is, and stops where nobody wants it any more."""

    def __init__(self, job: Job) -> None:
        super().__init__(quiet=True)
        self._job = job

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Advance]:
        def advance(done: int, note: str) -> None:
            self._job.check()
            share = round(done / max(total, 1), 2)
            if share > self._job.progress:
                self._job.tell(progress=share)

        yield advance
