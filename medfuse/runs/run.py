"""One run as a value: its pipeline, its dataset, its split, its folders, and the processes that do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.document import Document
from medfuse.core.errors import DataError, MedfuseError, PipelineError, Problem
from medfuse.core.files import file_hash, make_folder, remove_leftovers
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.pipeline import Pipeline
from medfuse.runs.changes import case_changes, data_changes, identity, pipeline_changes, text_changes
from medfuse.runs.folder import (
    ANOTHER_NAME,
    FOLD_ALL,
    PROBE,
    has_state,
    holds_weights,
    refuse_cross_validation,
)
from medfuse.runs.pinned import Pins, pin, read_pins, with_pins
from medfuse.runs.problems import placed_split
from medfuse.runs.records import DATA, LOCK, PINNED, PIPELINE, Lock, TrainedOn, read_mapping, read_record
from medfuse.runs.teacher import hash_of_teacher
from medfuse.trained.trust import Trust, remember_own

if TYPE_CHECKING:
    from medfuse.train.settings import TrainSettings
    from medfuse.train.together import Together


@dataclass(frozen=True)
class Run:
    """What every stage of a run is given. `folder` is its own, others share `store_folder`.

    kept: what its weights were trained on, where it has any that count. starts: whether training begins at
    its first step, and so may replace what stands in the folder. pins: what `pipeline` has in place of what
    `said`, the one of the file, has. max_disk: bytes that frozen maps may take. whole: the budget that it may
    be given in the end, where it is trained in parts. retrain: whether weights that count are replaced.
    """

    pipeline: Pipeline
    info: DatasetInfo
    split: Split
    folder: Path
    store_folder: Path
    reporter: Reporter
    together: Together
    kept: TrainedOn | None = None
    starts: bool = True
    pins: Pins = field(default_factory=Pins)
    said: Pipeline | None = None
    max_disk: int | None = None
    whole: TrainSettings | None = None
    retrain: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it another run, as its file says it."""
        return identity(self.said or self.pipeline)

    @property
    def cases(self) -> dict[str, Case]:
        """Every case of the dataset by its name."""
        return {case.name: case for case in self.info.cases}

    def unlabelled(self) -> tuple[Case, ...]:
        """The cases that pseudo-labels are made for."""
        return unlabelled(self.pipeline, self.info)

    def refuse_other_data(self, hashes: Mapping[str, str]) -> None:
        """Raises DataError where the files (path → SHA-256) are not those that the weights were made from."""
        if self.kept:
            now = trained_on(self.pipeline, self.info, self.split, hashes)
            _refuse(self.folder, [], data_changes(self.kept, now))


@contextmanager
def open_run(
    pipeline: Pipeline,
    info: DatasetInfo,
    runs: Path,
    folder: Path,
    reporter: Reporter,
    together: Together,
    *,
    retrain: bool = False,
    max_disk: int | None = None,
) -> Iterator[Run]:
    """Hold `folder` for this pipeline until the block ends; the first of several processes does.

    Raises MedfuseError where it holds weights of another pipeline or of other data, unless they are to be
    replaced (`retrain`), and where another training holds it.
    """
    import torch

    def claim() -> tuple[TrainedOn | None, bool, Split, Pins]:
        if folder.name == FOLD_ALL:
            held.callback(_remove_if_empty, folder.parent)
        held.callback(_remove_if_empty, folder)  # what a refused start leaves is nothing
        if folder.parent == runs:
            remove_leftovers(runs, PROBE)
        held.enter_context(locked(make_folder(folder), instead=ANOTHER_NAME))
        refuse_cross_validation(folder)
        kept = None if retrain or not holds_weights(folder) else _kept(folder, pipeline, info)
        starts = retrain or not has_state(folder)
        remember_own(pipeline.model)
        pins = pin(pipeline) if starts else _pins(folder / PINNED, pipeline)
        if starts:
            remember_own(with_pins(pipeline, pins).model)
        return kept, starts, _split(folder, pipeline, info, kept), pins

    with ExitStack() as held:
        kept, starts, split, pins = together.first(claim)
        torch.set_flush_denormal(True)  # now, as threads that torch starts take it over and others do not
        own = reporter if together.is_first else Reporter(quiet=True)
        store = runs / "prepared" / info_name(pipeline)
        pinned = with_pins(pipeline, pins)
        how = (pins, pipeline, max_disk)
        made = Run(pinned, info, split, folder, store, own, together, kept, starts, *how, retrain=retrain)
        yield made


def refuse_soon(pipeline: Pipeline, info: DatasetInfo, folder: Path) -> None:
    """What `open_run` refuses, before anything heavy is imported. The folder is not held, and may change."""
    if holds_weights(folder):
        _split(folder, pipeline, info, _kept(folder, pipeline, info))


def trained_on(pipeline: Pipeline, info: DatasetInfo, split: Split, hashes: Mapping[str, str]) -> TrainedOn:
    """What training learns from now; `hashes`: path → SHA-256 of every file of its cases."""
    labelled = [case for case in info.cases if case.label]
    teacher = teacher_weights(pipeline)
    return TrainedOn.of(
        info,
        split,
        [*labelled, *unlabelled(pipeline, info)],
        hashes,
        file_hash(teacher) if teacher else None,
        hash_of_teacher(pipeline),
    )


def unlabelled(pipeline: Pipeline, info: DatasetInfo) -> tuple[Case, ...]:
    """The cases that pseudo-labels are made for."""
    settings = pipeline.train.pseudo_labels
    if settings is None:
        return ()
    from medfuse.train.pseudo import unlabelled_cases  # which imports torch

    return unlabelled_cases(info, settings)


def teacher_weights(pipeline: Pipeline) -> Path | None:
    """The weights that make pseudo-labels, where those are another run's. Raises CheckpointError."""
    from medfuse.trained.loading import weights_file

    settings = pipeline.train.pseudo_labels
    if settings is None or settings.teacher == "self":
        return None
    return weights_file(settings.teacher, best=False)


def _kept(folder: Path, pipeline: Pipeline, info: DatasetInfo) -> TrainedOn:
    """What the weights in `folder` were made from. Raises MedfuseError with all that is another now.

    Contents of files that are left where the same names are there are compared once they are known, in
    `Run.refuse_other_data`.
    """
    from medfuse.data.fingerprint import hash_files

    if not (folder / PIPELINE).exists() and not (folder / LOCK).exists():
        raise MedfuseError(
            f"{folder}: holds weights that no training here made; {ANOTHER_NAME}, or replace them by "
            "training anew: --retrain"
        )
    before, kept = read_mapping(folder / PIPELINE), read_record(TrainedOn, folder / DATA)
    read_record(Lock, folder / LOCK)  # which what follows needs
    other_values = [*pipeline_changes(before, identity(pipeline))]
    cases = [*(case for case in info.cases if case.label), *unlabelled(pipeline, info)]
    changes = [*text_changes(kept, _named(kept, info, cases))]
    if changes or {case.name for case in cases} != {*kept.cases}:
        now = trained_on(pipeline, info, kept.split, hash_files(cases))
        changes += case_changes(kept, now)
    _refuse(folder, other_values, changes)
    return kept


def _named(kept: TrainedOn, info: DatasetInfo, cases: list[Case]) -> TrainedOn:
    """`kept`, with the text of the dataset as it is now."""
    text = {key: getattr(info, key) for key in ("labels", "channels", "region_order", "ignore")}
    return kept.model_copy(update={**text, "labels": dict(info.labels)})


def _pins(path: Path, pipeline: Pipeline) -> Pins:
    """What the run fixed as it began. Raises CheckpointError, also for code that nothing run here named."""
    pins = read_pins(path)
    Trust.of((), pipeline.model).check(path, with_pins(pipeline, pins).model, pins.backbones)
    return pins


def _split(folder: Path, pipeline: Pipeline, info: DatasetInfo, kept: TrainedOn | None) -> Split:
    """The split that a run is held to; of a fresh one, as its settings say."""
    if kept is None:
        return placed_split(pipeline, info)
    if pipeline.split.file or info.splits:
        split = placed_split(pipeline, info)
        now = kept.model_copy(update={"train": split.train, "validation": split.validation})
        _refuse(folder, [], data_changes(kept, now))
    return kept.split


def refuse_changes(folder: Path, changes: list[str]) -> None:
    """Raises DataError where anything is another than what the weights in `folder` were made from."""
    _refuse(folder, [], changes)


def _refuse(folder: Path, other_values: list[str], changes: list[str]) -> None:
    """Raises DataError where anything is another now: a line for each, and one that says what to do."""
    if other_values:
        shown = "; ".join(other_values[:3]) + (" and more" if len(other_values) > 3 else "")
        changes = [f"holds the run of another pipeline ({shown})", *changes]
    if changes:
        ways = f"keep its weights and {ANOTHER_NAME}, or replace them by training anew: --retrain"
        said = [f"{folder}: {change}" for change in changes]
        raise DataError(*said, f"{folder}: what its weights were made from has changed; {ways}")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def run_folder(pipeline: Pipeline, runs: Path) -> Path:
    """`runs`/NAME; of the final model `runs`/NAME/fold_all, beside the folds of its cross-validation."""
    own = runs / pipeline.name
    return own / FOLD_ALL if pipeline.split.fold == "all" else own


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
