"""`medfuse search`: which form of a pipeline is best in the time there is, and is that more than luck?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medfuse.core.errors import DataError
from medfuse.core.files import write_json, write_text
from medfuse.core.leading import lead
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.tasks import FOLDER, Kind, Task, faults
from medfuse.core.text import yaml_text
from medfuse.pipeline import resolved
from medfuse.searching.begin import Asked, open_study
from medfuse.searching.final import train_all
from medfuse.searching.result import Found
from medfuse.searching.study import Study
from medfuse.verbs.crews import ALONE, Workers


def search_pipeline(
    file: Path,
    overrides: Iterable[str] = (),
    *,
    runs: Path = Path("runs"),
    retrain: bool = False,
    workers: Workers = ALONE,
    reporter: Reporter,
) -> Result:
    """Trials until the minutes or the trials are over, then the last trainings and the report.

    `workers`: who trains them, each a trial at a time. Whoever runs it again, or beside, goes on with the
    same search. Raises MedfuseError.
    """
    overrides = [*overrides]
    study, asked = open_study(file, overrides, runs=runs, retrain=retrain, reporter=reporter)
    with _at_work(study, asked, runs):
        if workers.are_others:
            given = {"file": str(file.resolve()), "overrides": overrides, "runs": str(runs.resolve())}
            _led(study, asked, given, workers, reporter)
        study.work()
        done = train_all(study)
    from medfuse.searching.page import page
    from medfuse.searching.result import found
    from medfuse.verbs.compare import candidate_of

    made = found(study, done, lambda name, folders: candidate_of(name, folders, ()))
    shown = page(made)
    write_json(made.folder / "result.json", made.values())
    write_text(made.folder / "search.html", shown)
    write_text(made.folder / "chosen.yaml", _chosen(study, made))
    return Result(made.text(), made.values(), page=lambda: shown, rows=made.table, found=made)


@contextmanager
def _at_work(study: Study, asked: Asked, runs: Path) -> Iterator[None]:
    """Minutes are counted, and prepared cases stay, whatever plans there are of them."""
    from medfuse.data.store import Store
    from medfuse.runs.run import info_name

    store = Store(runs / "prepared" / info_name(asked.pipeline))
    with study.journal.session(), store.in_use(), asked.located():
        yield


def _led(study: Study, asked: Asked, given: Mapping[str, Any], workers: Workers, reporter: Reporter) -> None:
    """Workers do trials and the last trainings; each is a task that ends when there is nothing left to do."""
    folder = study.journal.folder
    tasks = [Task(name=f"worker {n + 1}", given={**given, "part": n}) for n in range(workers.count)]
    command = ["work", str(folder.resolve()), "--quiet"]
    start = workers.starter(command, folder / FOLDER, asked.pipeline.train.device)
    instead = "give the search another name (--set name=…)"
    how: dict[str, Any] = {"what": "workers", "reporter": reporter, "instead": instead}
    records = lead(folder, "search", tasks, start, workers.count, **how)
    if lines := faults(tasks, records):
        raise DataError(*lines)


def join(given: Mapping[str, Any], reporter: Reporter) -> Mapping[str, Any]:
    """Be one of several workers of a search."""
    runs = Path(given["runs"])
    study, asked = open_study(
        Path(given["file"]), given["overrides"], runs=runs, joins=True, reporter=reporter
    )
    with _at_work(study, asked, runs):
        study.work()
        train_all(study)
    return {"part": given["part"]}


def how_far(given: Mapping[str, Any]) -> str:
    """How many trainings of any trial are done, which grows while somebody gets on."""
    folders = Path(given["runs"]).glob("*-search/told")
    return str(sum(1 for folder in folders for _ in folder.glob("*.json")))


SEARCHING = Kind(join, how_far)


def _chosen(study: Study, made: Found) -> str:
    """The pipeline of the best trial with every value, below what may be said of it."""
    asked = study.journal.asked()[made.chosen.number]
    pipeline = study.gate.admit(asked.values).pipeline
    values = {key: value for key, value in resolved(pipeline).items() if key not in ("search", "name")}
    return "".join(f"# {line}\n" for line in made.conclusion()) + yaml_text(values)
