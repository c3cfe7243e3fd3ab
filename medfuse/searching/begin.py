"""The beginning of a search: file, data and splits, held against those of a search that goes on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medfuse.api import DatasetInfo, Split
from medfuse.core.document import Document
from medfuse.core.errors import MedfuseError, PipelineError, Problem
from medfuse.core.files import make_folder, reported, write_json
from medfuse.core.json_text import read_json
from medfuse.core.reporter import Reporter
from medfuse.pipeline import Pipeline, parse_pipeline, problems_of
from medfuse.runs.changes import identity
from medfuse.runs.problems import placed_split
from medfuse.runs.records import FINGERPRINT
from medfuse.runs.run import read_dataset
from medfuse.searching.admitted import Gate
from medfuse.searching.budget import inner_split, plan_budget, seeds_of
from medfuse.searching.combination import Space
from medfuse.searching.journal import Journal
from medfuse.searching.proposals import load_optuna
from medfuse.searching.study import Study
from medfuse.searching.trial import Bench
from medfuse.space.dimensions import read_dimension
from medfuse.space.settings import SearchSettings

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint

PIPELINE_KEY = "pipeline"
"""By which a file that has only a search names its pipeline."""
INNER, OUTER = "inner.json", "outer.json"


@dataclass(frozen=True)
class Asked:
    """A search as its file, or its two files, say it."""

    settings: SearchSettings
    pipeline: Pipeline
    document: Document
    own: Document
    name: str

    @contextmanager
    def located(self) -> Iterator[None]:
        """Add places to problems: those of the search stand in its own file."""
        try:
            yield
        except PipelineError as error:
            lines: list[str] = []
            for document in dict.fromkeys((self.document, self.own)):
                mine = [p for p in error.problems if self._stands_in(p) is document]
                lines += document.located(PipelineError(mine)).lines if mine else ()
            raise PipelineError(error.problems, lines or None) from None

    def _stands_in(self, problem: Problem) -> Document:
        return self.own if problem.path[:1] == ("search",) else self.document


def read_search(file: Path, overrides: Iterable[str] = ()) -> Asked:
    """Read a pipeline with a `search:` section, or a file of `pipeline:` and `search:`.

    Raises MedfuseError with every problem, located.
    """
    overrides = [*overrides]
    own = Document.load(file)
    if PIPELINE_KEY not in own.data:
        for override in overrides:
            own.override(override)
        pipeline = parse_pipeline(own, default_name=file.stem)
        if pipeline.search is None:
            raise MedfuseError(
                f"{own.locate(('search',))}: has no `search:`, which says what may be tried; write one below "
                "it, or let `medfuse init DATA --search` write a file that has one"
            )
        return Asked(pipeline.search, pipeline, own, own, pipeline.name)
    of_search = [o for o in overrides if o.startswith(("search.", "search=", f"{PIPELINE_KEY}="))]
    for override in of_search:
        own.override(override)
    named = own.data[PIPELINE_KEY]
    if not isinstance(named, str):
        raise MedfuseError(f"{own.locate((PIPELINE_KEY,))}: pipeline: give the path of a pipeline file")
    base = getattr(named, "base", file.resolve().parent)
    where = Path(base, Path(named).expanduser())
    document = Document.load(where, [o for o in overrides if o not in of_search])
    document.data.pop("search", None)
    problems = [
        Problem((key,), "unknown key (known: pipeline, search)", at_key=True)
        for key in own.data
        if key not in (PIPELINE_KEY, "search")
    ]
    settings = None
    try:
        if "search" not in own.data:
            problems.append(Problem(("search",), "required key is missing; add `search:`"))
        else:
            settings = SearchSettings.model_validate(own.data["search"])
    except ValidationError as error:
        found = problems_of(error, SearchSettings, own.data["search"])
        problems += [Problem(("search", *p.path), p.message, p.at_key) for p in found]
    if problems:
        raise own.located(PipelineError(problems))
    assert settings is not None
    pipeline = parse_pipeline(document, default_name=where.stem)
    return Asked(settings, pipeline, document, own, file.stem)


def gate_of(asked: Asked, info: DatasetInfo) -> Gate:
    """What lets combinations of the space through."""
    dimensions = {key: read_dimension(value) for key, value in asked.settings.space.items()}
    document = asked.document.copy()
    document.data.pop("search", None)
    return Gate(Space(document, asked.name, dimensions), info)


def space_lines(pipeline: Pipeline, document: Document, info: DatasetInfo) -> list[str]:
    """What `check` says of a pipeline's `search`, where it has one. Raises PipelineError."""
    if (settings := pipeline.search) is None:
        return []
    asked = Asked(settings, pipeline, document, document, pipeline.name)
    _refuse_unsound(asked, gate_of(asked, info))
    budget, said = plan_budget(settings, pipeline)
    seeds = seeds_of(settings, pipeline)
    keys = ", ".join(settings.space)
    lines = [
        f"search: {keys}; some combination admits every value; rungs of {budget}, then {len(seeds)} seeds"
    ]
    return [*lines, *([said] if said else [])]


def _refuse_unsound(asked: Asked, gate: Gate) -> None:
    """Raises PipelineError with all that is wrong with seeds, minutes, the split, and values of the space."""
    given = asked.settings, asked.pipeline
    problems: list[Problem] = []
    for look in (partial(seeds_of, *given), partial(plan_budget, *given), gate.refuse_hopeless):
        try:
            look()
        except PipelineError as error:
            problems += error.problems
    if asked.pipeline.split.fold == "all":
        what = "all: nothing is held out, so nothing could judge what is chosen; give a fold"
        problems.append(Problem(("split", "fold"), what))
    if problems:
        raise PipelineError([*dict.fromkeys(problems)])


def open_study(
    file: Path,
    overrides: Iterable[str],
    *,
    runs: Path,
    retrain: bool = False,
    joins: bool = False,
    reporter: Reporter,
) -> tuple[Study, Asked]:
    """A study, new or carried on, with all that it stands on looked at. Raises MedfuseError.

    `joins`: whether somebody else has opened it, so that values need not be tried out again.
    """
    asked = read_search(file, overrides)
    with asked.located():
        return _opened(asked, runs, retrain, joins, reporter), asked


def _opened(asked: Asked, runs: Path, retrain: bool, joins: bool, reporter: Reporter) -> Study:
    settings, pipeline = asked.settings, asked.pipeline
    if settings.method == "tpe":
        load_optuna()
    info = read_dataset(pipeline)
    from medfuse.model.verify import Verified

    gate, verified = gate_of(asked, info), Verified()
    gate.verified = verified
    gate.admit({})
    if not joins:
        _refuse_unsound(asked, gate)
    seeds = seeds_of(settings, pipeline)
    budget, said = plan_budget(settings, pipeline)
    folder = runs / (re.sub(r"[^\w.-]+", "_", asked.name) + "-search")
    journal = Journal(folder)
    make_folder(folder)
    if retrain:
        with reported(folder):
            for one in folder.iterdir():
                shutil.rmtree(one) if one.is_dir() else one.unlink()
    seen, hashes = _look(pipeline, info, folder, reporter)
    outer = placed_split(pipeline, info, seen.cases)
    from medfuse.data.split import patients

    inner = inner_split(outer, patients(info.cases, pipeline.split), settings.inner, settings.seed)
    journal.claim(
        {
            "pipeline": {**identity(pipeline), "infer": pipeline.model_dump(mode="json")["infer"]},
            "budget": {budget.key: list(budget.amounts)},
            "search": settings.model_dump(mode="json", exclude={"minutes", "trials", "margin"}),
            "seeds": list(seeds),
            "data": hashes,
            "inner": _as_json(inner),
            "outer": _as_json(outer),
        }
    )
    journal.make()
    write_json(folder / INNER, [_as_json(inner)])
    write_json(folder / OUTER, [_as_json(outer)])
    study = Study(
        settings,
        gate,
        budget,
        journal,
        Bench(info, seen, runs, verified),
        (folder / INNER).resolve(),
        reporter,
    )
    if any(one.number == 0 for one in journal.told()):
        study.settle_reference()
    for line in (
        said,
        f"trials learn from {len(inner.train)} cases and are judged by {len(inner.validation)}; "
        f"{len(outer.validation)} others judge what is chosen; each rung: {budget}",
    ):
        if line and not joins:
            reporter.say(line)
    return study


def _as_json(split: Split) -> dict[str, Any]:
    return {"train": list(split.train), "val": list(split.validation)}


def _look(
    pipeline: Pipeline, info: DatasetInfo, folder: Path, reporter: Reporter
) -> tuple[Fingerprint, dict[str, Any]]:
    """What the files of the dataset are like, and their hashes by case; read once for a whole search."""
    from medfuse.data.fingerprint import Fingerprint, hash_files, take_fingerprint

    labelled = [case for case in info.cases if case.label]
    path = folder / FINGERPRINT
    if path.exists():
        seen = Fingerprint.from_json(read_json(path, remedy=f"remove {path}"))
        now = hash_files(labelled)
    else:
        with reporter.track(f"checking {len(labelled)} cases", len(labelled)) as advance:
            seen = take_fingerprint(
                labelled,
                info,
                tolerance_mm=pipeline.preprocess.tolerance_mm,
                pixel_mm=pipeline.preprocess.pixel_mm,
                progress=lambda done, _: advance(done, ""),
            )
        now = {file: digest for case in seen.cases for file, digest in case.files.items()}
        write_json(path, seen.to_json())
    hashes = {
        case.name: [now[str(path)] for path in (*case.images, case.label) if path is not None]
        for case in labelled
    }
    return seen, hashes
