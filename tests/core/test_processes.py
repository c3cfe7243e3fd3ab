"""Processes that are started together."""

import json
import os
import sys
import time

import pytest

from medfuse.core import processes
from medfuse.core.errors import MedfuseError
from medfuse.core.processes import run_together


@pytest.fixture
def script(monkeypatch):
    """Makes `run_together` run some Python, which knows os, sys, time and its RANK as `rank`."""

    def use(code: str) -> None:
        lines = f"import os, sys, time\nrank = int(os.environ['RANK'])\n{code}"
        monkeypatch.setattr(processes, "_COMMAND", (sys.executable, "-c", lines))

    return use


def test_each_knows_its_place(script, tmp_path):
    script("import json; json.dump(dict(os.environ), open(f'{sys.argv[1]}/{rank}', 'w'))")
    run_together([str(tmp_path)], devices=2)
    first, second = (json.loads((tmp_path / name).read_text()) for name in "01")
    assert [first["LOCAL_RANK"], second["LOCAL_RANK"]] == ["0", "1"]
    assert first["WORLD_SIZE"] == second["WORLD_SIZE"] == first["LOCAL_WORLD_SIZE"] == "2"
    assert first["MASTER_PORT"] == second["MASTER_PORT"]


def test_a_second_machine_counts_on(script, tmp_path, monkeypatch):
    for name, value in {"NODE_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1234"}.items():
        monkeypatch.setenv(name, value)
    script("open(f'{sys.argv[1]}/{rank}', 'w').write(os.environ['WORLD_SIZE'])")
    run_together([str(tmp_path)], devices=2, nodes=2)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"2": "4", "3": "4"}


def test_several_machines_must_know_where_to_meet():
    with pytest.raises(MedfuseError, match=r"NODE_RANK, MASTER_ADDR, MASTER_PORT must be set .* torchrun"):
        run_together([], devices=1, nodes=2)


def test_where_one_fails_all_end_and_its_reason_is_told(script):
    script("if rank: sys.exit('disk full')\ntime.sleep(600)")
    began = time.monotonic()
    with pytest.raises(MedfuseError, match=r"^process 1: disk full$"):
        run_together([], devices=2)
    assert time.monotonic() - began < 60


def test_the_first_has_spoken_for_itself(script):
    script("if rank == 0: sys.exit(3)\ntime.sleep(600)")
    with pytest.raises(SystemExit) as ended:
        run_together([], devices=2)
    assert ended.value.code == 3


def test_a_killed_process_is_told(script):
    script("if rank: os.kill(os.getpid(), 9)\ntime.sleep(600)")
    with pytest.raises(MedfuseError, match=r"process 1 was killed by signal 9; most often memory ran out"):
        run_together([], devices=2)


def test_nothing_is_left_running(script, tmp_path):
    script("open(f'{sys.argv[1]}/{os.getpid()}', 'w')\nif rank: sys.exit(1)\ntime.sleep(600)")
    with pytest.raises((MedfuseError, SystemExit)):
        run_together([str(tmp_path)], devices=2)
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)
