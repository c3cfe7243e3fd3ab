"""Folds that workers share end as those of one process do, whoever of them is killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from phantoms import write_dataset, write_pipeline

from medfuse.core.board import Board
from medfuse.core.crew import cores
from medfuse.core.files import file_hash
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.core.tasks import FOLDER
from medfuse.verbs.crews import Workers
from medfuse.verbs.folds import run_folds

QUIET = Reporter(quiet=True)
FOLDS = 3
STEPS = ["train.deterministic=true", "infer.runtime={use: torch, precision: fp32}"]


@pytest.fixture(scope="module")
def cubes(tmp_path_factory) -> Path:
    """A pipeline of three folds, each with two cases that it holds out."""
    home = tmp_path_factory.mktemp("shared")
    names = [f"cube_{i:02d}" for i in range(2 * FOLDS)]
    data = write_dataset(home / "cubes", cases=len(names))
    held = [names[2 * fold : 2 * fold + 2] for fold in range(FOLDS)]
    splits = [{"train": [n for n in names if n not in out], "val": out} for out in held]
    (data / "splits_final.json").write_text(json.dumps(splits))
    return write_pipeline(home / "cubes.yaml", data)


def command(cubes, runs, *more) -> list[str]:
    steps = [word for step in STEPS for word in ("--set", step)]
    words = ["run", cubes, "--folds", "all", "--runs", runs, "-q", *steps, *more]
    return [sys.executable, "-m", "medfuse", *map(str, words)]


def made_by(runs: Path) -> dict[str, str]:
    """What a cross-validation left, without its times and its place."""
    folder = runs / "cubes"
    summary = json.loads((folder / "summary.json").read_text().replace(str(runs), "RUNS"))
    weights = {str(path.relative_to(runs)): file_hash(path) for path in folder.glob("fold_*/weights_*")}
    maps = {str(path.relative_to(runs)): file_hash(path) for path in folder.glob("fold_*/predictions/*.gz")}
    return {"summary": summary, **weights, **maps}


@pytest.fixture(scope="module")
def one(cubes, tmp_path_factory) -> Path:
    """The runs of one process, with as many threads as each of two workers has."""
    runs = tmp_path_factory.mktemp("one")
    threads = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // 2))}
    subprocess.run(command(cubes, runs), check=True, timeout=300, env=threads)
    return runs


def test_two_workers_make_what_one_process_makes_and_leave_nothing_else(cubes, one, tmp_path, medfuse):
    said = subprocess.run(command(cubes, tmp_path, "--workers", 2), check=True, timeout=300)
    assert said.returncode == 0
    assert made_by(tmp_path) == made_by(one)
    here, there = ({p.name for p in (runs / "cubes").iterdir()} for runs in (tmp_path, one))
    assert here == there
    weights = tmp_path / "cubes" / "fold_1" / "weights_last.safetensors"
    before = weights.stat().st_mtime_ns
    again = run_folds(cubes, STEPS, runs=tmp_path, workers=Workers(count=2), reporter=QUIET)
    assert weights.stat().st_mtime_ns == before
    assert again.summary["cases"] == 2 * FOLDS


def test_a_fold_that_cannot_be_done_is_named_and_the_others_go_on(cubes, tmp_path, medfuse):
    broken = tmp_path / "cubes" / "fold_1"
    broken.mkdir(parents=True)
    (broken / "weights_last.safetensors").write_bytes(b"of somebody else")
    said = medfuse("run", cubes, "--folds", "all", "--runs", tmp_path, "--workers", 2, "-q", "--json")
    assert said.code == 2
    assert re.search(r"holds weights that no training here made;.*\(fold 1\)", said.err)
    assert "2 of 3 folds are done; run the same command to carry on" in said.err
    assert json.loads(said.out)["exit_code"] == 2
    done = {path.parent.name for path in (tmp_path / "cubes").glob("fold_*/summary.json")}
    assert done == {"fold_0", "fold_2"}
    assert not (tmp_path / "cubes" / FOLDER).exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--workers", "2"], "give --folds all, too"),
        (["--workers", "2", "--fold", "2"], "give --folds all, too"),
        (["--workers", "0", "--folds", "all"], "write a whole number from 1"),
        (["--workers", "2", "--folds", "all", "--devices", "2"], "leave out --devices"),
    ],
)
def test_workers_that_cannot_be_are_refused_before_any_work(words, reason, cubes, tmp_path, medfuse):
    said = medfuse("run", cubes, "--runs", tmp_path / "runs", *words)
    assert said.code == 2
    assert reason in said.err
    assert not (tmp_path / "runs").exists()


def test_two_that_lead_in_one_folder_are_told_apart(cubes, tmp_path, medfuse):
    (tmp_path / "cubes" / FOLDER).mkdir(parents=True)
    with locked(tmp_path / "cubes" / FOLDER):
        said = medfuse("run", cubes, "--folds", "all", "--runs", tmp_path, "--workers", 2)
    assert said.code == 2
    assert "is in use by process" in said.err
    assert "give the cross-validation another name" in said.err


KILLS = 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_whoever_is_killed_no_fold_is_lost_or_trained_otherwise(seed, cubes, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "STEPS", [*STEPS, "train.steps=60", "train.state_every=3"])
    threads = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // 2))}
    subprocess.run(command(cubes, tmp_path / "one"), check=True, timeout=600, env=threads)
    chance = random.Random(seed)
    words = command(cubes, tmp_path / "many", "--workers", 2)
    leader, killed = subprocess.Popen(words), {"leader": 0, "worker": 0}
    while leader.poll() is None and sum(killed.values()) < KILLS:
        time.sleep(chance.uniform(1, 4))
        fleet = tmp_path / "many" / "cubes" / FOLDER
        alive = [w.pid for w in Board(fleet, FOLDS, make=False).workers() if w.is_alive and w.doing]
        if not alive or leader.poll() is not None:
            continue
        if chance.random() < 0.3:
            leader.kill()
            leader.wait()
            killed["leader"] += 1
            leader = subprocess.Popen(words)
        else:
            os.kill(chance.choice(alive), signal.SIGKILL)
            killed["worker"] += 1
    assert leader.wait(timeout=600) == 0, killed
    assert sum(killed.values()) == KILLS, killed
    assert made_by(tmp_path / "many") == made_by(tmp_path / "one")
    assert not (tmp_path / "many" / "cubes" / FOLDER).exists()
