"""`medfuse run`: a pipeline file from its dataset to trained weights, their Dice and a report."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import typed
from medfuse.pipeline import Pipeline, Source, load_pipeline
from medfuse.runs.cascade import do_cascade
from medfuse.runs.run import located, open_run, read_dataset, refuse_soon, run_folder
from medfuse.runs.stages import do_stages

if TYPE_CHECKING:
    from medfuse.report.evaluate import Evaluation
    from medfuse.train.together import Together


@dataclass(frozen=True)
class RunResult:
    """What a finished run has to say."""

    folder: Path
    evaluation: Evaluation
    postprocess: tuple[str, ...] = ()

    def text(self) -> str:
        """The last lines: Dice per label on the held-out cases, and where everything is."""
        judged = self.evaluation.cases or self.evaluation.errors
        return "\n".join(
            [
                *(self._judged() if judged else self.evaluation.notes),
                *self.postprocess,
                f"report:      {self.folder / 'report.html'}",
                f"weights:     {self.folder / 'weights_last.safetensors'}",
                *([f"predictions: {self.folder / 'predictions'}"] if judged else []),
                f"new scans:   medfuse infer {typed(self.folder)} --input FOLDER --output FOLDER",
            ]
        )

    def values(self) -> dict[str, Any]:
        """The same for programs: the contents of summary.json, and places."""
        from medfuse.report.summary import summarise

        judged = self.evaluation.cases or self.evaluation.errors
        return {
            **summarise(self.evaluation),
            "folder": self.folder,
            "report": self.folder / "report.html",
            "weights": self.folder / "weights_last.safetensors",
            "predictions": self.folder / "predictions" if judged else None,
            "postprocess": self.postprocess,
        }

    def result(self) -> Result:
        """The same as what a verb returns; its page is the report."""
        return Result(self.text(), self.values(), page=self._page, rows=self._rows, found=self)

    def _page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    def _rows(self) -> list[dict[str, Any]]:
        """One for every case and label that were judged."""
        from medfuse.report.summary import summarise

        labels = {str(value): name for name, value in self.evaluation.labels.items()}
        return [
            {"case": case["name"], "label": labels[value], **measures}
            for case in summarise(self.evaluation)["metric_per_case"]
            for value, measures in case["metrics"].items()
        ]

    def _judged(self) -> list[str]:
        from medfuse.report.summary import foreground_text, interval_lines, lesion_lines, mean_text, summarise

        summary = summarise(self.evaluation)
        lines = [f"held-out cases: {len(self.evaluation.cases)}"]
        for name, value in self.evaluation.labels.items():
            lines.append(f"  Dice {name}: {mean_text(summary, str(value))}")
        lines.append(f"  mean foreground Dice: {foreground_text(summary)}")
        lines += [f"  {line}" for line in lesion_lines(summary)]
        return [*lines, *(f"  ({line})" for line in interval_lines(summary))]


def run_pipeline(
    file: Source,
    overrides: Iterable[str] = (),
    *,
    runs: Path = Path("runs"),
    folder: Path | None = None,
    retrain: bool = False,
    max_disk: int | None = None,
    reporter: Reporter,
) -> RunResult:
    """Every stage of a pipeline file, each of which carries on where an earlier run of it stopped.

    `folder` is the run's folder; see `run_folder` where it is not given. With `retrain` it is trained anew:
    what the folder holds is replaced once data and pipeline are found to be sound. `max_disk`: bytes that
    frozen maps may take (`train.frozen_maps`).
    """
    pipeline, document = load_pipeline(file, overrides)
    with located(document):
        info = read_dataset(pipeline)
        where = folder or run_folder(pipeline, runs)
        if not retrain:
            refuse_soon(pipeline, info, where)
        with (
            _together(pipeline) as together,
            open_run(
                pipeline, info, runs, where, reporter, together, retrain=retrain, max_disk=max_disk
            ) as run,
        ):
            judged = do_cascade(run) if pipeline.first else do_stages(run)
            return RunResult(where, judged.evaluation, judged.postprocess)


def _together(pipeline: Pipeline) -> AbstractContextManager[Together]:
    """The processes that train this pipeline, which `--devices` or torchrun started; or this one alone."""
    from medfuse.core.device import pick_device
    from medfuse.train.together import joined

    return joined(pick_device(pipeline.train.device))
