"""`medfuse work`: one more worker for the fleet of an output folder, and the fleet that `infer` leads."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from medfuse.core.crew import is_wanted
from medfuse.core.errors import OutputError
from medfuse.core.json_text import validated
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.tasks import has_tasks, take_part
from medfuse.infer.fleet_files import FOLDER, has_work, parts, read_work
from medfuse.infer.manifest import NAME, read_manifest
from medfuse.runs.standing import standings
from medfuse.verbs.crews import LOCAL, Workers
from medfuse.verbs.kinds import kind_of
from medfuse.volumes.dicom.series import ALL, Scans

if TYPE_CHECKING:
    from medfuse.infer.fleet import Fleet
    from medfuse.infer.ledger import Outcome


class How(BaseModel):
    """The options of `medfuse infer` that a worker needs; `max_memory` is its own part."""

    model_config = ConfigDict(frozen=True, strict=False, extra="forbid")

    weights: tuple[Path, ...]
    overrides: tuple[str, ...] = ()
    best: bool = False
    device: str = "auto"
    max_memory: int | None = None
    probabilities: Literal["zarr", "nifti"] | None = None
    formats: tuple[str, ...] = ()
    seg_type: Literal["labelmap", "binary"] = "labelmap"
    strict: bool = False
    overwrite: bool = False
    scans: Scans = ALL


def fleet_of(output: Path, how: How, trust: str | Iterable[str], workers: Workers) -> Fleet:
    """Workers that take cases of `output`, each in its part of the memory where they are on this machine."""
    from medfuse.infer.fleet import Fleet

    trusted = [word for name in ([trust] if isinstance(trust, str) else trust) for word in ("--trust", name)]
    command = ["work", str(output.resolve()), "--quiet", *trusted]
    each = how.max_memory
    if each is not None and workers.engine == LOCAL:
        each //= workers.count
    parts = {"weights": tuple(path.resolve() for path in how.weights), "max_memory": each}
    start = workers.starter(command, output / FOLDER, how.device)
    return Fleet(start, workers.count, how.model_copy(update=parts).model_dump(mode="json"))


def work_on(output: Path, *, trust: str | Iterable[str] = (), reporter: Reporter) -> Result:
    """Take cases of the fleet that works on `output` until there are none left.

    Raises OutputError where no fleet works there, or one of another version, or with other weights. Where
    this machine's disks fail it is SystemExit with 1 and a line: another machine's may not.
    """
    try:
        return _work_on(output, trust, reporter)
    except OutputError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        print(error, file=sys.stderr)
        raise SystemExit(1) from error


def _work_on(output: Path, trust: str | Iterable[str], reporter: Reporter) -> Result:
    if has_tasks(output):
        done, failed = take_part(output, kind_of, reporter, is_wanted=is_wanted)
        return Result(f"{done} done, {failed} failed: {output}", {"done": done, "failed": failed})
    if not has_work(output):
        raise OutputError(f"{output}: {_why_no_work(output)}")
    read_work(output)  # before anything heavy is imported
    from medfuse.infer.away import Scratch
    from medfuse.infer.fleet import Share
    from medfuse.runs.models import load_model

    share = Share(output, is_wanted=is_wanted)
    if share.work.verb == "features":
        from medfuse.verbs.feature_maps import take_features

        return _told(take_features(share, trust), output)
    how = validated(How, share.work.how, str(output), raises=OutputError, remedy="start the fleet anew")
    model = load_model(
        how.weights,
        overrides=how.overrides,
        best=how.best,
        device=how.device,
        trust=trust,
        reporter=reporter,
    )
    with Scratch(how.scans) as scratch:
        outcome = model.infer(
            share.cases,
            output,
            reporter,
            scratch=scratch,
            max_memory=how.max_memory,
            probabilities=how.probabilities,
            overwrite=how.overwrite,
            strict=how.strict,
            formats=how.formats,
            seg_type=how.seg_type,
            share=share,
        )
    return _told(outcome, output)


def _why_no_work(output: Path) -> str:
    """Why there is nothing to take part in, and what to do."""
    if not output.exists():
        return "no such folder; give the one in which workers share cases or trainings"
    if not output.is_dir():
        return "is a file; give the folder in which workers share cases or trainings"
    if parts(output):
        return "parts work there (--shard), which nobody joins; start another part"
    _, content = read_manifest(output / NAME)
    runs = standings(output)
    if content.get("finished") or (runs and all(run.judged for run in runs.values())):
        return "nothing is left to do there"
    if content or (output / FOLDER).exists():
        return "nobody works there now, and it is not finished; the command that began it carries on"
    if runs:
        return "no workers share trainings there; the command that began them carries on"
    return (
        "no workers share anything there; `--workers 2` of `medfuse infer`, `run --folds all`, `compare`, "
        "`search`, `features` and `evaluate` starts some"
    )


def _told(outcome: Outcome, output: Path) -> Result:
    done, failed = len(outcome.done), len(outcome.failed)
    return Result(f"{done} cases written, {failed} failed: {output}", {"written": outcome.done})
