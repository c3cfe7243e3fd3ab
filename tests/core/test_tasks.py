"""Tasks are done once, by whoever takes part; what may pass is tried again, what may not is told."""

import time
from pathlib import Path

import pytest

from medfuse.core.board import ATTEMPTS, Board
from medfuse.core.errors import DataError, MedfuseError, OutputError
from medfuse.core.leading import lead
from medfuse.core.lock import InUse, locked
from medfuse.core.reporter import Reporter
from medfuse.core.tasks import FOLDER, Kind, Task, Tasks, faults, installed, take_part, write_tasks

QUIET = Reporter(quiet=True)


def share(folder: Path, count: int = 3, **changed) -> list[Task]:
    tasks = [Task(name=f"task {n}", given={"n": n}) for n in range(count)]
    (folder / FOLDER).mkdir(parents=True)
    given = {"medfuse": installed(), "kind": "k", "where": folder, "began": "now", "workers": 1}
    write_tasks(folder, Tasks(**{**given, "tasks": tuple(tasks), **changed}))
    return tasks


def part(folder: Path, do, **more) -> dict[int, dict]:
    count = len((folder / FOLDER / "tasks.json").read_text().split('"name"')) - 1
    take_part(folder, lambda name: Kind(do), QUIET, **more)
    return dict(Board(folder / FOLDER, count, make=False).records())


def test_every_task_is_done_once_and_what_it_made_is_kept(tmp_path):
    share(tmp_path)
    asked = []
    records = part(tmp_path, lambda given, reporter: asked.append(given["n"]) or {"twice": 2 * given["n"]})
    assert asked == [0, 1, 2]
    assert {n: record["made"] for n, record in records.items()} == {n: {"twice": 2 * n} for n in range(3)}


def test_a_mistake_of_the_users_is_not_tried_again_and_the_others_go_on(tmp_path):
    tasks = share(tmp_path)

    def do(given, reporter):
        if given["n"] != 1:
            raise DataError("data.csv:3: odd", f"case {given['n']}")
        return {}

    records = part(tmp_path, do)
    assert [records[n]["state"] for n in range(3)] == ["failed", "done", "failed"]
    assert faults(tasks, records) == [
        "data.csv:3: odd (task 0, task 2)",
        "case 0 (task 0)",
        "case 2 (task 2)",
    ]


def test_what_may_pass_is_tried_again_and_set_aside_with_its_reasons(tmp_path):
    tasks = share(tmp_path, 2)
    tried = []

    def do(given, reporter):
        tried.append(given["n"])
        if given["n"] == 0 or len(tried) == 2:
            raise OutputError("the disk is full") from OSError(28, "full")
        return {}

    records = part(tmp_path, do)
    assert tried.count(0) == ATTEMPTS
    assert records[1]["state"] == "done"
    assert faults(tasks, records) == ["set aside after 3 attempts: the disk is full (task 0)"]


def test_a_task_waits_while_another_process_holds_what_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("medfuse.core.tasks._WATCH_S", 0.01)
    share(tmp_path, 1)
    times = []

    def do(given, reporter):
        times.append(time.monotonic())
        if len(times) < 4:
            raise InUse("runs/a: is in use by process 3; wait")
        return {}

    assert part(tmp_path, do)[0]["state"] == "done"
    assert len(times) == 4


def test_paths_start_where_the_leader_is(tmp_path):
    (tmp_path / "there").mkdir()
    share(tmp_path / "there")
    before = Path.cwd()
    records = part(tmp_path / "there", lambda given, reporter: {"at": str(Path.cwd())})
    assert records[0]["made"]["at"] == str(tmp_path / "there")
    assert Path.cwd() == before


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"medfuse": "0.0.1"}, r"a fleet of medfuse 0\.0\.1 works there"),
        ({"where": Path("/no/such/place")}, "/no/such/place: is not there; workers need the folders"),
    ],
)
def test_a_worker_that_would_do_otherwise_is_refused(changed, line, tmp_path):
    share(tmp_path, **changed)
    with pytest.raises(OutputError, match=line):
        take_part(tmp_path, lambda name: Kind(lambda given, reporter: {}), QUIET)


@pytest.mark.parametrize("text", ["", "[1]", '{"tasks": 3}'])
def test_damaged_tasks_name_the_folder_to_remove(text, tmp_path):
    share(tmp_path)
    (tmp_path / FOLDER / "tasks.json").write_text(text)
    with pytest.raises(OutputError, match=r"remove .*\.fleet, and run the same command again"):
        take_part(tmp_path, lambda name: Kind(lambda given, reporter: {}), QUIET)


class Inside:
    """A crew whose one worker works in this process, or ends at once."""

    def __init__(self, folder: Path, do=None) -> None:
        self.folder, self.do, self.added, self.over = folder, do, 0, 0

    def __len__(self) -> int:
        return 0

    def ended(self):
        if self.do:
            take_part(self.folder, lambda name: Kind(self.do), QUIET)
            return []
        return [("", "its worker was killed by signal 9")]

    def add(self) -> None:
        self.added += 1

    def end(self) -> None:
        self.over += 1


def test_who_leads_collects_what_was_made_and_leaves_nothing(tmp_path):
    def do(given, reporter):
        reporter.say(f"line {given['n']}")
        reporter.say_once("the same line")
        return {"n": given["n"]}

    said = []
    reporter = Reporter(quiet=True)
    reporter.say = said.append
    tasks = [Task(name=f"task {n}", given={"n": n}) for n in range(3)]
    crew = Inside(tmp_path, do)
    records = lead(tmp_path, "k", tasks, lambda count: crew, 2, what="tasks", reporter=reporter)
    assert [records[n]["made"]["n"] for n in range(3)] == [0, 1, 2]
    assert said.count("the same line") == 1
    assert {"task 0: line 0", "task 1: line 1", "task 2: line 2"} <= {*said}
    assert (crew.over, [*tmp_path.iterdir()]) == (1, [])


def test_workers_that_cannot_work_at_all_end_it_with_their_reason(tmp_path):
    crew = Inside(tmp_path)
    with pytest.raises(MedfuseError, match="end one after another: its worker was killed by signal 9"):
        lead(
            tmp_path,
            "k",
            [Task(name="a", given={})],
            lambda count: crew,
            1,
            what="tasks",
            reporter=QUIET,
        )
    assert (crew.over, [*tmp_path.iterdir()]) == (1, [])


@pytest.mark.parametrize("keep", [False, True])
def test_workers_that_cannot_be_started_leave_no_work_behind(keep, tmp_path):
    def refuse(count):
        raise MedfuseError("no cluster answers")

    how = {"what": "tasks", "reporter": QUIET, "keep": keep}
    with pytest.raises(MedfuseError, match="no cluster answers"):
        lead(tmp_path, "k", [Task(name="a", given={})], refuse, 1, **how)
    assert not [*tmp_path.iterdir()]


def test_two_do_not_lead_in_one_folder(tmp_path):
    (tmp_path / FOLDER).mkdir()
    with locked(tmp_path / FOLDER), pytest.raises(InUse, match="or give it another name"):
        lead(
            tmp_path,
            "k",
            [Task(name="a", given={})],
            lambda count: Inside(tmp_path),
            1,
            what="tasks",
            reporter=QUIET,
            instead="give it another name",
        )


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("other", [False, True])
def test_what_an_earlier_call_has_done_counts_where_the_tasks_are_the_same(keep, other, tmp_path):
    asked = []

    def do(given, reporter):
        if [*asked] == [0, 1]:
            raise KeyboardInterrupt
        asked.append(given["n"])
        return {"n": given["n"]}

    def call(last):
        tasks = [Task(name=f"task {n}", given={"n": n}) for n in (0, 1, 2, last)]
        how = {"what": "tasks", "reporter": QUIET, "keep": keep}
        return lead(tmp_path, "k", tasks, lambda count: Inside(tmp_path, do), 1, **how)

    with pytest.raises(KeyboardInterrupt):
        call(3)
    asked[:] = ["again"]
    records = call(4 if other else 3)
    assert asked[1:] == ([2, 3] if keep and not other else [0, 1, 2, 4 if other else 3])
    assert [records[n]["made"]["n"] for n in range(4)] == [0, 1, 2, 4 if other else 3]
    assert [*tmp_path.iterdir()] == []
