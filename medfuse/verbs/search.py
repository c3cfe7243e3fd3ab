"""`medfuse search`: which form of a pipeline is best in the time there is, and is that more than luck?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medfuse.core.files import write_json, write_text
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import yaml_text
from medfuse.pipeline import resolved
from medfuse.search.begin import open_study
from medfuse.search.final import train_all
from medfuse.search.result import Found
from medfuse.search.study import Study


def search_pipeline(
    file: Path,
    overrides: Iterable[str] = (),
    *,
    runs: Path = Path("runs"),
    retrain: bool = False,
    reporter: Reporter,
) -> Result:
    """Trials until the minutes or the trials are over, then the last trainings and the report.

    Whoever runs it again, or beside, goes on with the same search. Raises MedfuseError.
    """
    study, asked = open_study(file, overrides, runs=runs, retrain=retrain, reporter=reporter)
    from medfuse.data.store import Store
    from medfuse.runs.run import info_name

    store = Store(runs / "prepared" / info_name(asked.pipeline))
    with study.journal.session(), store.in_use(), asked.located():
        study.work()
        done = train_all(study)
    from medfuse.search.page import page
    from medfuse.search.result import found
    from medfuse.verbs.compare import _candidate

    made = found(study, done, lambda name, folders: _candidate(name, folders, ()))
    write_json(made.folder / "result.json", made.values())
    write_text(made.folder / "search.html", page(made))
    write_text(made.folder / "chosen.yaml", _chosen(study, made))
    return Result(made.text(), made.values())


def _chosen(study: Study, made: Found) -> str:
    """The pipeline of the best trial with every value, below what may be said of it."""
    asked = study.journal.asked()[made.chosen.number]
    pipeline = study.gate.admit(asked.values).pipeline
    values = {key: value for key, value in resolved(pipeline).items() if key not in ("search", "name")}
    return "".join(f"# {line}\n" for line in made.conclusion()) + yaml_text(values)
