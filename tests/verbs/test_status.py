"""`medfuse status` says where an output folder stands, and changes nothing there."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import medfuse as installed
from medfuse.core.board import Board
from medfuse.core.files import write_json
from medfuse.core.reporter import Reporter
from medfuse.core.tasks import Task, Tasks, write_tasks
from medfuse.core.told import Told
from medfuse.infer.fleet_files import FOLDER, Listed, Work, write_work


@pytest.fixture
def output(tmp_path) -> Path:
    """Ten cases that a fleet has worked on for a minute: two are done, and one is set aside."""
    (tmp_path / FOLDER).mkdir()
    began = (datetime.now(UTC) - timedelta(seconds=60)).isoformat(timespec="seconds")
    cases = tuple(Listed(name=f"c{n}", images=(Path(f"c{n}.nii.gz"),)) for n in range(10))
    write_work(
        tmp_path,
        Work(medfuse=installed.__version__, facts={}, how={}, cases=cases, began=began, workers=2),
    )
    board = Board(tmp_path / FOLDER, 10)
    for state in ("done", "done", "failed"):
        more = {"reason": "set aside"} if state == "failed" else {}
        board.settle(board.take(), {"state": state, **more})
    return tmp_path


def test_a_fleet_at_work(output, medfuse):
    board = Board(output / FOLDER, 10)
    board.doing(case="c4", done=1, of=8)
    before = {str(path) for path in output.rglob("*")}
    with board.joined():
        said = json.loads(medfuse("status", output, "--json").out)
        text = medfuse("status", output).out
    assert {str(path) for path in output.rglob("*")} == before
    assert (said["done"], said["left"], said["failed"]) == (2, 7, {"c2": "set aside"})
    assert said["running"] == ["c4"]
    assert said["minutes_left"] == pytest.approx(7 / 3, rel=0.2)
    assert "2 done, 1 failed" in text
    assert "7 to do, by 1 worker," in text
    assert "c4, window 1 of 8" in text


def test_an_empty_record_which_a_crash_leaves_settles_nothing(output, medfuse):
    (output / FOLDER / "records" / "1.json").write_text("")
    assert "1 done, 1 failed" in medfuse("status", output).out


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"state": 3}', '"done"'])
def test_a_damaged_record_names_the_folder_to_remove(output, medfuse, text):
    (output / FOLDER / "records" / "1.json").write_text(text)
    said = medfuse("status", output)
    assert said.code == 2
    assert "1.json" in said.err
    assert f"remove {output / FOLDER}, and run the same command again" in said.err


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"host": 1}'])
def test_a_worker_whose_file_is_damaged_is_none(output, medfuse, text):
    (output / FOLDER / "workers" / "somebody").write_text(text)
    assert "by 0 workers" in medfuse("status", output).out


def test_records_of_cases_that_there_are_not_are_left_out(output, medfuse):
    (output / FOLDER / "records" / "10.json").write_text('{"state": "done"}')
    assert "2 done, 1 failed" in medfuse("status", output).out


@pytest.fixture
def folds(tmp_path) -> Path:
    """Four folds: one was trained in ten minutes, one has failed, one is half trained by its worker."""
    tasks = [Task(name=f"fold {n}", given={}) for n in range(4)]
    (tmp_path / FOLDER).mkdir()
    where = {"kind": "train", "where": tmp_path, "began": "now", "workers": 1, "tasks": tuple(tasks)}
    write_tasks(tmp_path, Tasks(medfuse=installed.__version__, **where))
    board = Board(tmp_path / FOLDER, 4)
    board.settle(board.take(), {"state": "done", "made": {}, "seconds": 600.0})
    board.settle(board.take(), {"state": "failed", "lines": ["data.csv:3: why"]})
    return tmp_path


def test_folds_that_workers_train(folds, medfuse):
    board = Board(folds / FOLDER, 4)
    told = Told(board, board.take(), "fold 2", Reporter(quiet=True))
    with board.joined(), told.track("training", 1000) as advance:
        advance(500, "step 20")
        board._beat()
        said = json.loads(medfuse("status", folds, "--json").out)
        text = medfuse("status", folds).out
    assert (said["done"], said["left"], said["failed"]) == (1, 2, {"fold 1": "data.csv:3: why"})
    assert said["running"] == ["fold 2"]
    assert said["minutes_left"] == pytest.approx(20)
    assert "1 of 4 done, 1 failed" in text
    assert "fold 2, training 50 %, step 20" in text
    assert "fold 1: data.csv:3: why" in text


def test_a_run_folder_and_that_of_folds(finished_run, tmp_path, medfuse):
    assert "step 4 of 4: finished" in medfuse("status", finished_run.folder).out
    shutil.copytree(finished_run.folder, tmp_path / "fold_0")
    shutil.copytree(finished_run.folder, tmp_path / "fold_1")
    half = tmp_path / "fold_1"
    (half / "summary.json").unlink()
    rows = (half / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text("".join(row for row in rows if json.loads(row)["step"] <= 1))
    said = json.loads(medfuse("status", tmp_path, "--json").out)
    assert said["finished"] is False
    assert [said["runs"][fold]["share"] for fold in ("fold_0", "fold_1")] == [1, 0.25]
    assert said["runs"]["fold_1"]["minutes_left"] >= 0
    assert "fold_1: step 1 of 4, about" in medfuse("status", tmp_path).out


def test_a_folder_that_is_finished_and_one_that_is_not(tmp_path, medfuse):
    about = {"medfuse": "0.1.0", "cases": {"a": {"file": "a.nii.gz"}}, "failed": {"b": "why"}}
    write_json(tmp_path / "manifest.json", {**about, "finished": "2026-01-01T00:00:00+00:00"})
    said = medfuse("status", tmp_path)
    assert (said.code, "1 done, 1 failed" in said.out, "b: why" in said.out) == (0, True, True)
    assert "finished at 2026-01-01" in said.out
    write_json(tmp_path / "manifest.json", {**about, "finished": None})
    assert "run the same command again" in medfuse("status", tmp_path).out


def test_words_of_parts_are_true(tmp_path, medfuse):
    about = {"medfuse": "0.1.0", "cases": {"a": {"file": "a.nii.gz"}}, "failed": {}, "finished": None}
    for parts, told in (
        (
            {"count": 2, "ended": [0]},
            "not finished: of --shard 0/2 to 1/2 1 ended: 0/2; still to be begun: 1/2",
        ),
        ({"count": 2, "ended": [0, 1]}, "not finished: of --shard 0/2 to 1/2 2 ended: 0/2, 1/2\n"),
        ({"count": "2"}, "run the same command again"),
        (3, "run the same command again"),
    ):
        write_json(tmp_path / "manifest.json", {**about, "parts": parts})
        assert told in medfuse("status", tmp_path).out


def test_where_nothing_is_shared_a_worker_is_told_why(tmp_path, finished_run, medfuse):
    def said(place) -> str:
        told = medfuse("work", place)
        assert (told.code, told.err.count("\n")) == (2, 1)
        return told.err

    (tmp_path / "file").touch()
    (tmp_path / "done").mkdir()
    (tmp_path / "half").mkdir()
    about = {"medfuse": "0.1.0", "cases": {}}
    write_json(tmp_path / "done" / "manifest.json", {**about, "finished": "2026-01-01T00:00:00+00:00"})
    write_json(tmp_path / "half" / "manifest.json", {**about, "finished": None})
    assert "none: no such folder" in said(tmp_path / "none")
    assert "file: is a file" in said(tmp_path / "file")
    assert "is a file" in medfuse("status", tmp_path / "file").err
    assert "done: nothing is left to do there" in said(tmp_path / "done")
    assert "nothing is left to do there" in said(finished_run.folder)
    assert "it is not finished; the command that began it carries on" in said(tmp_path / "half")
    assert "no workers share anything there; `--workers 2` of" in said(tmp_path)


def test_what_is_no_output_folder_is_a_line(tmp_path, medfuse):
    for place in (tmp_path, tmp_path / "none"):
        said = medfuse("status", place)
        assert said.code == 2
        assert "output folder of `medfuse infer`" in said.err
