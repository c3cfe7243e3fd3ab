"""A search in processes of its own, killed at random moments: no trial is lost, none is made twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from phantoms import PIPELINE, write_dataset

KILLS = int(os.environ.get("MEDFUSE_TEST_SEARCH_KILLS", 20))
OF_THE_CLOCK = ("seconds", "seconds_per_case", "memory", "trained", "at")
SEARCH = """\
infer: {{runtime: torch}}
search:
  trials: 10
  seeds: 1
  rungs: 2
  method: {method}
  space:
    model.fusion.decoded.use: [unet_decoder, fpn, unet_plus_plus]
    model.aux.schedule: [{{use: constant, weight: 0.5}}, none]
    train.learning_rate: {{log: [1e-4, 1e-1]}}
"""


def write(home: Path, method: str) -> Path:
    data = write_dataset(home / "cubes", cases=8)
    names = [f"cube_{n:02d}" for n in range(8)]
    (data / "splits_final.json").write_text(json.dumps([{"train": names[:6], "val": names[6:]}]))
    text = PIPELINE.format(root=data).replace("steps: 4,", "steps: 6, deterministic: true, state_every: 2,")
    (home / "cubes.yaml").write_text(text + SEARCH.format(method=method))
    return home / "cubes.yaml"


def begun(file: Path, workers: int) -> subprocess.Popen:
    words = [sys.executable, "-m", "medfuse", "search", file, "-q", "--runs", file.parent / "runs"]
    words += ["--workers", workers] if workers > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*map(str, words)], env=environment, start_new_session=True)


def facts(folder: Path) -> dict[Path, int]:
    """Files of trials, and when each was written."""
    found = {}
    for path in folder.rglob("*"):
        try:
            if "sessions" not in path.parts and not path.name.startswith("."):
                found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def workers_of(process: subprocess.Popen) -> list[int]:
    try:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []
    return [int(one) for one in found]


def kill_again_and_again(file: Path, workers: int, chance: random.Random) -> int:
    """The whole of it, or one of its workers, once it has made some files more; until it ends by itself."""
    kills, process, folder = 0, begun(file, workers), file.parent / "runs" / "cubes-search"
    while kills < KILLS:
        before, wanted = facts(folder), chance.randint(1, 12)
        while process.poll() is None:
            if sum(before.get(path) != at for path, at in facts(folder).items()) >= wanted:
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is not None:
            break
        alone = workers_of(process) if chance.random() < 0.5 else []
        if alone:
            os.kill(chance.choice(alone), signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process = begun(file, workers)
        kills += 1
    assert process.wait() == 0
    return kills


def trials(file: Path) -> dict[str, object]:
    """What was asked and told, without what a clock says."""
    found, folder = {}, file.parent / "runs" / "cubes-search"
    for path in sorted([*folder.glob("asked/*.json"), *folder.glob("told/*.json")]):
        record = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = {k: v for k, v in record.items() if k not in OF_THE_CLOCK}
    return found


@pytest.mark.slow  # each life imports torch
@pytest.mark.parametrize(("method", "workers"), [("tpe", 1), ("random", 2)])
def test_a_search_killed_at_random_moments_makes_the_same_trials(method, workers, tmp_path):
    """By workers, too, where what is proposed does not hang on which of them is first."""
    undisturbed, killed = write(tmp_path / "whole", method), write(tmp_path / "killed", method)
    assert begun(undisturbed, 1).wait() == 0
    kills = kill_again_and_again(killed, workers, random.Random(workers))
    assert kills >= KILLS // 2
    assert trials(killed) == trials(undisturbed)
    assert sum(name.startswith("asked") for name in trials(killed)) == 10
    both = [
        json.loads((f.parent / "runs" / "cubes-search" / "result.json").read_text())
        for f in (undisturbed, killed)
    ]
    assert both[0]["chosen"] == both[1]["chosen"]
    assert both[0]["outer_dice"] == both[1]["outer_dice"]
    print(f"killed {kills} times")
