"""One run as a value: its pipeline, its dataset, its split, its folders, and the processes that do it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.document import Document
from medfuse.core.errors import DataError, PipelineError, Problem
from medfuse.core.files import make_folder
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.pipeline import Pipeline
from medfuse.runs.folder import refuse_another_pipeline, refuse_cross_validation
from medfuse.trained.trust import remember_own

if TYPE_CHECKING:
    from medfuse.train.together import Together


@dataclass(frozen=True)
class Run:
    """What every stage of a run is given. `folder` is its own, others share `store_folder`."""

    pipeline: Pipeline
    info: DatasetInfo
    split: Split
    folder: Path
    store_folder: Path
    reporter: Reporter
    together: Together

    @property
    def cases(self) -> dict[str, Case]:
        """Every case of the dataset by its name."""
        return {case.name: case for case in self.info.cases}

    def is_fresh(self) -> bool:
        """Whether nothing has been trained here yet."""
        from medfuse.train.state import has_state

        return not has_state(self.folder)

    def unlabelled(self) -> tuple[Case, ...]:
        """The cases that pseudo-labels are made for."""
        from medfuse.train.pseudo import unlabelled_cases

        settings = self.pipeline.train.pseudo_labels
        return unlabelled_cases(self.info, settings) if settings else ()


@contextmanager
def open_run(
    pipeline: Pipeline, info: DatasetInfo, runs: Path, folder: Path, reporter: Reporter, together: Together
) -> Iterator[Run]:
    """Hold `folder` for this pipeline until the block ends; the first of several processes does.

    Raises MedfuseError where it holds something else, or another training holds it.
    """
    import torch

    from medfuse.data.split import choose_split

    def claim() -> None:
        held.enter_context(locked(make_folder(folder), instead="give this run another name (--set name=…)"))
        refuse_cross_validation(folder)
        refuse_another_pipeline(folder, pipeline)
        remember_own(pipeline.model)

    split = choose_split(info, pipeline.split)
    with ExitStack() as held:
        together.first(claim)
        torch.set_flush_denormal(True)  # now, as threads that torch starts take it over and others do not
        own = reporter if together.is_first else Reporter(quiet=True)
        yield Run(pipeline, info, split, folder, runs / "prepared" / info_name(pipeline), own, together)


def info_name(pipeline: Pipeline) -> str:
    """A folder name for a dataset's prepared cases: runs on the same dataset share it."""
    import hashlib

    source = f"{pipeline.data.root.resolve()} {pipeline.preprocess.model_dump_json()}"
    return f"{pipeline.data.root.resolve().name}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def read_dataset(pipeline: Pipeline) -> DatasetInfo:
    """The dataset of a pipeline. Raises PipelineError where it is faulty or unlabelled."""
    where = ("data", "root")
    try:
        info = pipeline.data.read()
    except DataError as error:
        raise PipelineError([Problem(where, line) for line in error.lines]) from None
    if not any(case.label for case in info.cases):
        raise PipelineError([Problem(where, "no case has a label; training needs some")])
    return info


@contextmanager
def located(document: Document) -> Iterator[None]:
    """Add file, line and column to problems that are found after the file was read."""
    try:
        yield
    except PipelineError as error:
        raise document.located(error) from None
