"""`medfuse work`: one more worker for the fleet of an output folder, and the fleet that `infer` starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from medfuse.core.crew import LocalCrew
from medfuse.core.errors import OutputError
from medfuse.core.json_text import validated
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.infer.fleet_files import read_work

if TYPE_CHECKING:
    from medfuse.infer.fleet import Fleet


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


def local_fleet(output: Path, how: How, trust: str | Iterable[str], workers: int) -> Fleet:
    """So many processes of `medfuse work` on this machine, which end with this one."""
    from medfuse.infer.fleet import Fleet

    trusted = [word for name in ([trust] if isinstance(trust, str) else trust) for word in ("--trust", name)]
    command = ["work", str(output.resolve()), "--quiet", "--with", str(os.getpid()), *trusted]
    parts = {
        "weights": tuple(path.resolve() for path in how.weights),
        "max_memory": None if how.max_memory is None else how.max_memory // workers,
    }
    start = partial(LocalCrew, command, gpus=_gpus(how.device))
    return Fleet(start, workers, how.model_copy(update=parts).model_dump(mode="json"))


def _gpus(device: str) -> tuple[str, ...]:
    """The graphics cards among which workers are spread, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return ()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))


def work_on(output: Path, *, beside: int = 0, trust: str | Iterable[str] = (), reporter: Reporter) -> Result:
    """Take cases of the fleet that works on `output` until there are none left.

    `beside`: a process without which this one is not to go on. Raises OutputError where no fleet works there,
    or one of another version, or with other weights.
    """
    read_work(output)  # before anything heavy is imported
    from medfuse.infer.fleet import Share
    from medfuse.runs.models import load_model

    share = Share(output, is_wanted=lambda: not beside or os.getppid() == beside)
    how = validated(How, share.work.how, str(output), raises=OutputError, remedy="start the fleet anew")
    model = load_model(
        how.weights,
        overrides=how.overrides,
        best=how.best,
        device=how.device,
        trust=trust,
        reporter=reporter,
    )
    outcome = model.infer(
        share.cases,
        output,
        reporter,
        max_memory=how.max_memory,
        probabilities=how.probabilities,
        overwrite=how.overwrite,
        strict=how.strict,
        formats=how.formats,
        seg_type=how.seg_type,
        share=share,
    )
    done, failed = len(outcome.done), len(outcome.failed)
    return Result(f"{done} cases written, {failed} failed: {output}", {"written": outcome.done})
