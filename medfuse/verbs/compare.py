"""`medfuse compare`: several pipelines trained the same way, or finished runs, held against the first."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from medfuse.core.errors import DataError, MedfuseError, OutputError, PipelineError, Problem
from medfuse.core.files import file_hash, make_folder, write_text
from medfuse.core.json_text import read_json, validated
from medfuse.core.labels import from_json
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.seal import refuse_others, write_own_json
from medfuse.pipeline import load_pipeline
from medfuse.runs.folder import WEIGHTS
from medfuse.verbs.crews import ALONE, Workers
from medfuse.verbs.trainings import Training, train_all

if TYPE_CHECKING:
    from medfuse.report.candidates import Candidate
    from medfuse.report.compare import Comparison


_NOTHING_HELD_OUT = (
    "all: nothing is held out, so there is nothing to compare by; with --set split.fold=0 the folds of "
    "--folds are held out"
)


def compare_pipelines(
    inputs: Sequence[Path],
    *,
    seeds: int = 1,
    folds: Sequence[int] = (0,),
    overrides: Iterable[str] = (),
    runs: Path = Path("runs"),
    output: Path | None = None,
    overwrite: bool = False,
    trust: str | Iterable[str] = (),
    retrain: bool = False,
    max_disk: int | None = None,
    margin: float | None = None,
    workers: Workers = ALONE,
    reporter: Reporter,
) -> Result:
    """Train every pipeline file with each seed and fold, read every run folder, compare with the first.

    Training that is finished is not repeated, unless it is to be (`retrain`). Runs of one pipeline
    (NAME-foldF-seedS) are one candidate. Those that agree on what is frozen share its maps, of which each
    run may keep `max_disk` bytes. `margin`: a difference in Dice that does not matter. `workers`: who trains,
    each one training at a time.
    Raises MedfuseError where there is nothing to compare, and PipelineError for every faulty file at once.
    """
    from medfuse.report.compare import compare
    from medfuse.report.comparison_text import READING, table
    from medfuse.report.paired import MARGIN

    files = [path for path in inputs if not path.is_dir()]
    overrides = tuple(overrides)
    names = _names(files, overrides)
    trainings: dict[str, Training] = {}
    runs_of: dict[str, list[Path]] = {}
    for path in inputs:
        if path.is_dir():
            runs_of.setdefault(_base(path.name), []).append(path)
            continue
        name = names[path]
        for fold in folds:
            for seed in range(1, seeds + 1):
                here = f"{name}-fold{fold}-seed{seed}"
                trainings[here] = Training(
                    file=path,
                    overrides=(*overrides, f"name={here}", f"seed={seed}", f"split.fold={fold}"),
                    runs=runs,
                    folder=runs / here,
                    retrain=retrain,
                    max_disk=max_disk,
                )
                runs_of.setdefault(name, []).append(runs / here)
    if len(runs_of) < 2:
        given = f"only {', '.join(runs_of)}" if runs_of else "nothing"
        raise MedfuseError(
            f"{given} is given; name two or more pipeline files or run folders of different pipelines"
        )
    folder = output or runs / "comparisons" / "-against-".join([*runs_of][:4])
    refuse_other_comparisons(folder, overwrite=overwrite)  # before hours of training
    words = {"what": "trainings", "instead": "choose another --output"}
    train_all(trainings, folder, workers, **words, reporter=reporter)
    try:
        candidates = [candidate_of(name, folders, trust) for name, folders in runs_of.items()]
        comparison = compare(candidates, MARGIN if margin is None else margin)
    except (ValueError, KeyError) as error:
        raise DataError(f"cannot be compared: {error}; give runs on the same cases and labels") from error
    notes = [f"{name}: {', '.join(map(str, folders))}" for name, folders in runs_of.items()]
    values, page = write_comparison(folder, comparison, notes, overwrite=overwrite)
    text = "\n".join([table(comparison), "", *READING, "", f"page: {folder / 'comparison.html'}"])
    said = {"folder": folder, **values, "runs": runs_of}
    return Result(text, said, page=lambda: page, rows=comparison.rows, found=comparison)


def write_comparison(
    folder: Path,
    comparison: Comparison,
    sources: Sequence[str],
    more: Mapping[str, Any] = MappingProxyType({}),
    *,
    overwrite: bool,
) -> tuple[dict[str, Any], str]:
    """comparison.json, with `more` beside it, and comparison.html, which says the `sources`; both as written.

    Raises OutputError as `refuse_other_comparisons` does.
    """
    from medfuse.report.comparison import page as comparison_page

    refuse_other_comparisons(folder, overwrite=overwrite)
    make_folder(folder)
    page, values = comparison_page(comparison, sources), {**comparison.to_json(), **more}
    digest = hashlib.sha256(page.encode()).hexdigest()
    write_own_json(folder / "comparison.json", {**values, "page_sha256": digest})
    write_text(folder / "comparison.html", page)
    return values, page


def refuse_other_comparisons(folder: Path, *, overwrite: bool) -> None:
    """Raises OutputError where there is a comparison that medfuse did not write, or somebody changed."""
    table, page = folder / "comparison.json", folder / "comparison.html"
    refuse_others(table, overwrite=overwrite)
    if page.is_file() and not overwrite:
        said = read_json(table).get("page_sha256") if table.is_file() else None
        if said != file_hash(page):
            raise OutputError(
                f"{page}: is not what medfuse wrote, or was changed since, and stays; choose another "
                "--output, or give --overwrite"
            )


def _names(files: Sequence[Path], overrides: Iterable[str]) -> dict[Path, str]:
    """What each file's pipeline is called. Raises PipelineError with the problems of all files."""
    found: dict[Path, str] = {}
    faults: list[str] = []
    for path in files:
        try:
            pipeline, document = load_pipeline(path, overrides)
            if pipeline.split.fold == "all":
                raise document.located(PipelineError([Problem(("split", "fold"), _NOTHING_HELD_OUT)]))
            found[path] = re.sub(r"[^\w.-]+", "_", pipeline.name)  # a file may be called anything
        except MedfuseError as error:  # also of a file that is not there
            faults += error.lines
    if faults:
        raise PipelineError((), faults)
    if twice := sorted({name for name in found.values() if [*found.values()].count(name) > 1}):
        raise MedfuseError(f"two pipelines are called {', '.join(twice)}; give one another `name`")
    return found


def _base(name: str) -> str:
    return re.sub(r"-fold\d+-seed\d+$", "", name)


def candidate_of(
    name: str, folders: Sequence[Path], trust: str | Iterable[str], *, weights: Path | None = None
) -> Candidate:
    """One model out of the folders of its trainings; `weights`: where they do not lie there."""
    from medfuse.report.candidates import Candidate
    from medfuse.train.log import read_rows

    summaries = [_summary(folder) for folder in folders]
    ends = [_last(read_rows(folder / "metrics.jsonl")) for folder in folders]
    parameters, gflops, maps = _cost(weights or folders[0] / WEIGHTS, trust)
    return Candidate(
        name,
        dice_of_cases(summaries),
        len(folders),
        parameters,
        gflops,
        _mean(end["seconds"] for end in ends),
        _mean(end["step"] for end in ends),
        maps_mib=maps,
        seconds_per_case=_mean(seconds for folder in folders for seconds in _seconds(folder)),
        cases=_mean(count for folder in folders for count in _learned_from(folder)),
        patients=patients_of(summaries),
        slots=slots_of(summaries),
    )


def _mean(values: Iterable[float]) -> float | None:
    found = [*values]
    return sum(found) / len(found) if found else None


def dice_of_cases(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Label → case → its Dice in each training (the contents of a summary.json) where it is defined."""
    return {
        label: {case: [dice for _, dice in found] for case, found in cases.items()}
        for label, cases in _by_training(summaries).items()
    }


def slots_of(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """As `dice_of_cases`: the how manieth of the trainings that judged the case each value is of."""
    return {
        label: {case: [slot for slot, _ in found] for case, found in cases.items()}
        for label, cases in _by_training(summaries).items()
    }


def _by_training(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    labels = {label: str(value) for label, value in from_json(summaries[0]["labels"]).items()}
    found: dict[str, dict[str, list[tuple[int, float]]]] = {label: {} for label in labels}
    judged: Counter[str] = Counter()
    for summary in summaries:
        for case in summary["metric_per_case"]:
            name = case["name"]
            for label, value in labels.items():
                dice = case["metrics"][value]["Dice"]
                if dice is not None:
                    found[label].setdefault(name, []).append((judged[name], dice))
            judged[name] += 1
    return found


def patients_of(summaries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Case → patient, of cases whose patient is known."""
    cases = (case for summary in summaries for case in summary["metric_per_case"])
    return {case["name"]: case["patient"] for case in cases if case.get("patient")}


class _Judged(BaseModel):
    """A case of summary.json: value of a label → measure → number."""

    name: str
    patient: str | None = None
    metrics: dict[str, dict[str, float | None]]


class _Summary(BaseModel):
    """summary.json, as far as it is compared."""

    labels: dict[str, int | list[int]] = Field(min_length=1)
    metric_per_case: list[_Judged] = Field(min_length=1)


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.exists():
        raise DataError(
            f"{folder}: has no summary.json, so it is no finished run; finish it with `medfuse run`"
        )
    remedy = "write it anew with `medfuse run`"
    summary: dict[str, Any] = read_json(path, remedy=remedy)
    if isinstance(summary, dict) and summary.get("metric_per_case") == []:
        raise DataError(
            f"{folder}: no held-out case is judged there, as with split.fold: all, so there is nothing to "
            "compare by; give runs that hold some out"
        )
    validated(_Summary, summary, str(path), remedy=remedy)
    return summary


def _last(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Where training ended."""
    return next((row for row in reversed(rows) if "seconds" in row), {"seconds": 0.0, "step": 0})


def _seconds(folder: Path) -> list[float]:
    """How long each held-out case took, where its record is there."""
    from medfuse.infer.manifest import NAME, read_manifest

    try:
        _, content = read_manifest(folder / "predictions" / NAME)
    except (MedfuseError, OSError):
        return []
    found = (entry.get("seconds") for entry in content.get("cases", {}).values())
    return [float(seconds) for seconds in found if isinstance(seconds, int | float)]


def _learned_from(folder: Path) -> list[int]:
    """How many cases trained it, where its record is there."""
    from medfuse.runs.records import DATA, TrainedOn, read_record

    path = folder / DATA
    return [len(read_record(TrainedOn, path).train)] if path.is_file() else []


def _cost(weights: Path, trust: str | Iterable[str]) -> tuple[int, float, float]:
    """Parameters, GFLOP, and MiB of all maps in fp32, of one patch without auxiliary heads."""
    from medfuse.model.layers import find_layers
    from medfuse.model.segmenter import build_segmenter
    from medfuse.trained.loading import graph_of

    graph = graph_of(weights, trust)
    network, *layers = find_layers(lambda: build_segmenter(graph), graph.image)
    inside = {layer.name.rpartition(".")[0] for layer in layers}
    own = (layer for layer in layers if layer.name not in inside and not layer.same_as)
    maps = sum(prod(layer.map_size) for layer in own if layer.map_size)
    return network.parameters, network.flops / 1e9, 4 * maps / 2**20
