"""The cases of a run, for who judges its weights again: those that it was trained on, and the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.errors import CheckpointError, DataError
from medfuse.core.text import typed
from medfuse.pipeline import Pipeline, load_pipeline
from medfuse.runs.problems import placed_split
from medfuse.runs.records import DATA, RESOLVED, TrainedOn, read_record
from medfuse.runs.run import located, read_dataset
from medfuse.trained.loading import read_weights


@dataclass(frozen=True)
class Source:
    """The cases of a run: what it was trained on, and what it never saw."""

    pipeline: Pipeline
    info: DatasetInfo
    split: Split

    def cases(self, names: Sequence[str]) -> list[Case]:
        by_name = {case.name: case for case in self.info.cases}
        if lost := [name for name in names if name not in by_name]:
            raise DataError(
                f"{self.pipeline.data.root}: has no case {', '.join(lost[:3])} any more, which the run "
                "knows; put it back, or name the dataset by --data FILE"
            )
        return [by_name[name] for name in names]

    @property
    def patients(self) -> dict[str, str]:
        from medfuse.data.split import patients

        return patients(self.info.cases, self.pipeline.split)


def source_of(weights: Path, data: Path | None) -> Source:
    """The cases of the run that holds `weights`; `data`: a pipeline file that says them in its stead, by the
    fold that the weights say they are of.

    Raises CheckpointError where the folder does not say them, and DataError where files are others than those
    that it was trained on, or held-out ones are among those.
    """
    folder = weights.parent
    record = folder / DATA
    kept = read_record(TrainedOn, record) if record.is_file() else None
    file = data or folder / RESOLVED
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: does not say which cases its weights were trained on, as of a model from elsewhere; "
            "name a pipeline file with their `data` and `split`: "
            f"medfuse quantize {typed(folder)} --data FILE"
        )
    fold = read_weights(weights)[1].get("fold") if data else None
    overrides = [f"split.fold={fold}"] if isinstance(fold, int) else []
    pipeline, document = load_pipeline(file, overrides)
    with located(document):
        info = read_dataset(pipeline)
        split = kept.split if kept and data is None else placed_split(pipeline, info)
    source = Source(pipeline, info, split)
    if kept:
        _refuse_changed(folder, source, kept, given=data is not None)
    return source


def _refuse_changed(folder: Path, source: Source, kept: TrainedOn, *, given: bool) -> None:
    from medfuse.data.fingerprint import hash_files

    names = [*source.split.train, *source.split.validation]
    hashes = hash_files(source.cases(names))
    images = {case.name: tuple(hashes[str(path)] for path in case.images) for case in source.cases(names)}
    if given:
        trained = {kept.cases[name].images for name in kept.train if name in kept.cases}
        if seen := [name for name in source.split.validation if images[name] in trained]:
            raise DataError(
                f"{folder}: its weights were trained on {', '.join(seen[:3])}, which --data holds out; a "
                "gate is judged on cases that training never saw"
            )
        return
    changed = [name for name in names if name in kept.cases and images[name] != kept.cases[name].images]
    if changed:
        raise DataError(
            f"{folder}: the files of {', '.join(changed[:3])} have changed since its weights were trained; "
            "put them back, or name the dataset by --data FILE"
        )
