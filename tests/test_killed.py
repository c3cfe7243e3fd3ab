"""Whole runs in processes of their own: killed at random moments, and several together."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from phantoms import write_dataset, write_pipeline

from medfuse.core.files import file_hash
from medfuse.model.weights import load_weights

KILLS = int(os.environ.get("MEDFUSE_TEST_KILLS", 3))

LIFE = """
import os, signal, sys, threading
from contextlib import contextmanager
from pathlib import Path
from medfuse.core.reporter import Reporter
from medfuse.verbs.run import run_pipeline

file, runs, at, delay = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

class Dying(Reporter):
    @contextmanager
    def track(self, what, total):
        def advance(done, note):
            if what == "training" and done >= at:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        yield advance

run_pipeline(Path(file), sys.argv[5:], runs=Path(runs), reporter=Dying(quiet=True))
"""
NEVER = 2000  # thousandths of training
CHANGES = ["train.steps=24", "train.steps_per_epoch=8", "train.state_every=3", "train.average=0.9"]


def live(file, runs, *, at=NEVER, delay=0.0) -> int:
    """Run a pipeline in a process that dies `delay` seconds after `at` thousandths of training; its code."""
    changes = [*CHANGES, "train.deterministic=true", "sample.workers=1"]
    words = [sys.executable, "-c", LIFE, file, runs, at, delay, *changes]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.run([*map(str, words)], env=environment, check=False).returncode


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    home = tmp_path_factory.mktemp("cubes")
    return write_pipeline(home / "cubes.yaml", write_dataset(home / "cubes"))


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_files(cubes, tmp_path):
    assert live(cubes, tmp_path / "whole") == 0
    lines = (tmp_path / "whole" / "cubes" / "metrics.jsonl").read_text().splitlines()
    step = max(json.loads(line).get("seconds", 0) for line in lines) / 24
    chance = random.Random(os.environ.get("MEDFUSE_TEST_SEED", "1"))
    for kill in range(KILLS):
        at = int(1000 * (kill + chance.random()) / KILLS)
        assert live(cubes, tmp_path / "killed", at=at, delay=step * chance.random()) == -signal.SIGKILL
    assert live(cubes, tmp_path / "killed") == 0
    for kind in ("last", "best"):
        name = f"cubes/weights_{kind}.safetensors"
        assert file_hash(tmp_path / "killed" / name) == file_hash(tmp_path / "whole" / name)


@pytest.mark.slow
def test_two_processes_run_what_one_runs(cubes, tmp_path):
    for devices in (1, 2):
        words = ["run", cubes, "--devices", devices, "--runs", tmp_path / str(devices)]
        command = [sys.executable, "-m", "medfuse", *map(str, words)]
        assert subprocess.run(command, check=False).returncode == 0
    one, two = (load_weights(tmp_path / n / "cubes" / "weights_last.safetensors")[0] for n in "12")
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert (tmp_path / "2" / "cubes" / "report.html").exists()
