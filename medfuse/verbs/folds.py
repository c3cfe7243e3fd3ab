"""`medfuse run --folds`: every fold trained in a folder of its own, all held-out cases judged together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.files import make_folder, write_json
from medfuse.core.lock import locked
from medfuse.core.processes import processes
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import number, typed
from medfuse.pipeline import load_pipeline
from medfuse.runs import overlap
from medfuse.runs.folder import refuse_single_run
from medfuse.runs.folds import choose_together, summarise_folds
from medfuse.runs.postprocess import said, write_choice
from medfuse.runs.run import located, read_dataset
from medfuse.verbs.crews import ALONE, Workers
from medfuse.verbs.trainings import Training, train_all

_ANOTHER = "give the cross-validation another name (--set name=…)"


@dataclass(frozen=True)
class CrossValidated:
    """What a cross-validation of the pipeline `file` has to say. `summary` is that of summary.json."""

    folder: Path
    summary: Mapping[str, Any]
    file: Path = Path("FILE")

    def values(self) -> dict[str, Any]:
        """The same for programs: the contents of summary.json, and its folder."""
        return {**self.summary, "folder": self.folder}

    def result(self) -> Result:
        """The same as what a verb returns; its page has a dot for each held-out case."""
        return Result(self.text(), self.values(), page=self._page, rows=self.rows, found=self)

    def rows(self) -> list[dict[str, Any]]:
        """One for every held-out case and label."""
        from medfuse.core.labels import from_json

        names = {str(value): name for name, value in from_json(self.summary["labels"]).items()}
        fold_of = {case: int(fold) for fold, of in self.summary["folds"].items() for case in of["cases"]}
        return [
            {"case": case["name"], "fold": fold_of[case["name"]], "label": names[value], **measures}
            for case in self.summary["metric_per_case"]
            for value, measures in case["metrics"].items()
        ]

    def _page(self) -> str:
        from medfuse.report.folds import page

        return page(self.folder.name, self.text(), self.rows())

    def text(self) -> str:
        """The last lines: Dice per label over all held-out cases, its spread between folds."""
        from medfuse.core.labels import from_json
        from medfuse.report.summary import foreground_text, interval_lines, mean_text

        summary, folds, between = self.summary, self.summary["folds"], self.summary["between_folds"]
        lines = [f"held-out cases: {summary['cases']} in {len(folds)} folds"]
        for name, value in from_json(summary["labels"]).items():
            lines.append(f"  Dice {name}: {mean_text(summary, str(value))}{_spread(between[str(value)])}")
        lines += [
            f"  mean foreground Dice: {foreground_text(summary)}{_spread(between['foreground_mean'])}",
            "  (mean over cases ± standard deviation between the folds' means)",
            *(f"  ({line})" for line in interval_lines(summary)),
            *summary["notes"],
            f"summary:     {self.folder / 'summary.json'}",
            f"folds:       {', '.join(str(self.folder / f'fold_{fold}') for fold in folds)}",
            f"new scans:   medfuse infer {typed(self.folder)} --input FOLDER --output FOLDER",
            f"one network: medfuse run {typed(self.file)} --fold all trains it on all cases; "
            "this Dice tells of it",
        ]
        return "\n".join(lines)


def run_folds(
    file: Path,
    overrides: Iterable[str] = (),
    *,
    folds: Sequence[int] | None = None,
    runs: Path = Path("runs"),
    retrain: bool = False,
    max_disk: int | None = None,
    workers: Workers = ALONE,
    reporter: Reporter,
) -> CrossValidated:
    """Train `folds`, all where None, into `runs`/NAME/fold_K, and judge their held-out cases together.

    `workers`: who trains them, each a fold at a time. What is finished is not repeated, unless it is to be
    trained anew (`retrain`). Raises DataError for a fold that there is not, and of several workers with what
    any fold has failed of, once the others are done; MedfuseError where several processes would train
    together.
    """
    from medfuse.data.split import all_splits, patients
    from medfuse.runs.quality import calibrate_together

    if processes() > 1:
        raise MedfuseError(
            "--folds: folds are trained by one process; leave out --devices, or set split.fold"
        )
    overrides = tuple(overrides)
    pipeline, document = load_pipeline(file, overrides)
    folder = runs / pipeline.name
    with located(document):
        info = read_dataset(pipeline)
        count = pipeline.split.folds
        if pipeline.split.file or info.splits:
            source, splits = all_splits(info, pipeline.split)
            count, wanted = len(splits), pipeline.split.folds
            if count != wanted and "folds" in pipeline.split.model_fields_set:
                reporter.say(
                    f"the {count} folds of {source} count, and split.folds, which is {wanted}, does not"
                )
    chosen = range(count) if folds is None else sorted({*folds})
    if missing := [fold for fold in chosen if fold not in range(count)]:
        raise DataError(f"--folds {missing[0]}: there are {count} folds, counted from 0")
    with _held(folder):
        refuse_single_run(folder)
    trainings = {
        f"fold {fold}": Training(
            file=file,
            overrides=(*overrides, f"split.fold={fold}"),
            runs=runs,
            folder=folder / f"fold_{fold}",
            within=folder,
            retrain=retrain,
            max_disk=max_disk,
        )
        for fold in chosen
    }
    try:
        how: dict[str, Any] = {"what": "folds", "device": pipeline.train.device, "instead": _ANOTHER}
        made = train_all(trainings, folder, workers, **how, reporter=reporter)
    finally:
        with suppress(OSError):
            folder.rmdir()  # what a refused start leaves is nothing
    results = dict(zip(chosen, made.values()))
    with _held(folder):
        summary = summarise_folds({fold: result.evaluation for fold, result in results.items()})
        if pipeline.infer.postprocess == "auto":
            choice = choose_together({fold: result.folder for fold, result in results.items()})
            write_choice(folder, choice)
            summary["notes"] += said(choice)
        folders = {fold: result.folder for fold, result in results.items()}
        evaluations = {fold: result.evaluation for fold, result in results.items()}
        of_whom = patients(info.cases, pipeline.split)
        told, words = calibrate_together(folder, folders, evaluations, of_whom, pipeline.infer)
        summary |= {"quality": told} if told else {}
        summary["notes"] += words
        if pipeline.infer.overlap == "auto":
            found = [overlap.read_choice(result.folder) for result in results.values()]
            together = overlap.choose_together(one for one in found if one)
            overlap.write_choice(folder, together)
            summary["notes"].append(together.said())
        write_json(folder / "summary.json", summary)
    return CrossValidated(folder, summary, file)


def _held(folder: Path) -> AbstractContextManager[None]:
    """The folder of all folds, for a moment: folds may be trained side by side, each holds its own."""
    return locked(make_folder(folder), instead=_ANOTHER, wait_s=30)


def _spread(between: Mapping[str, Any]) -> str:
    return "" if between["std"] is None else f" ± {number(between['std'])} ({between['n']} folds)"
