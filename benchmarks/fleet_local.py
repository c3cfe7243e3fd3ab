"""What several workers cost and gain on this machine, in turns, so that all meet the same machine.

    python benchmarks/fleet_local.py RUN IMAGES [--rounds 3] [--cases 200] [--seconds 0.2]

First `medfuse infer` on a folder by one process with two threads, and by `--workers 2`. Then engines alone,
with cases that sleep: seconds until the first case is taken, what a case costs above its sleep, and the share
of linear speed that several workers reach; `ray` on a cluster of one node for each worker, where Ray is
installed. The result is a block of Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from medfuse import Command, registry
from medfuse.core.board import Board
from medfuse.core.device import processor

_WORKER = """
import sys, time
from pathlib import Path
from medfuse.core.board import Board
folder, cases, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
board = Board(folder, cases)
with board.joined():
    while board.left:
        while (number := board.take()) is not None:
            time.sleep(seconds)
            board.settle(number, {"state": "done"})
        time.sleep(0.05)
"""


class Sleeping(Command):
    """Workers whose cases only sleep."""

    @property
    def words(self) -> list[str]:
        return [sys.executable, "-c", _WORKER, *self.arguments]


def slept(engine: str, workers: int, cases: int, seconds: float) -> tuple[float, float]:
    """Seconds until the first case is taken, and from then until the last is settled."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        board = Board(folder, cases)
        command = Sleeping((str(folder), str(cases), str(seconds)), folder, "cpu")
        options = {} if engine == "local" else {"cores": 1}
        began = time.time()
        crew = registry.get("medfuse.engines", engine)(**options).start(command, workers)
        try:
            while board.left:
                for name, reason in crew.ended():
                    raise RuntimeError(f"{name}: {reason}")
                time.sleep(0.2)
        finally:
            first = min(path.stat().st_mtime for path in (folder / "claims").iterdir())
            last = max(path.stat().st_mtime for path in (folder / "records").iterdir())
            crew.end()
        return first - began, last - first


def engine_rows(cases: int, seconds: float) -> Iterator[str]:
    yield "| engine | workers | until the first case | above its sleep, each case | of linear |"
    yield "|---|---|---|---|---|"
    for engine in ("local", *(["ray"] if find_spec("ray") else [])):
        for workers in (1, 2, 4):
            with _cluster(engine, workers):
                start, wall = slept(engine, workers, cases, seconds)
            above = 1000 * (wall * workers / cases - seconds)
            share = 100 * cases * seconds / (wall * workers)
            yield f"| {engine} | {workers} | {start:.1f} s | {above:.1f} ms | {share:.0f} % |"


@contextmanager
def _cluster(engine: str, nodes: int) -> Iterator[None]:
    """Of Ray, one node for each worker."""
    if engine != "ray":
        yield
        return
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level=40)
    try:
        yield
    finally:
        ray.shutdown()
        made.shutdown()


def infer_rows(run: Path, images: Path, rounds: int) -> Iterator[str]:
    ways = {"one process, two threads": [], "`--workers 2`": ["--workers", "2"]}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, words in ways.items():
            taken = _inferred(run, images, words)
            if number:  # the first only warms up
                seconds[name].append(taken)
    alone = median(seconds["one process, two threads"])
    yield "| `medfuse infer` | median | to one process | all |"
    yield "|---|---|---|---|"
    for name, found in seconds.items():
        every = ", ".join(f"{one:.1f}" for one in found)
        yield f"| {name} | {median(found):.1f} s | {median(found) / alone:.2f} | {every} |"


def _inferred(run: Path, images: Path, words: list[str]) -> float:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "medfuse", "infer", str(run), "-i", str(images), "-o", output, "-q"]
        began = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        subprocess.run([*command, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.2)
    given = parser.parse_args()
    said = f"`python benchmarks/fleet_local.py {given.run} {given.images}`"
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}: {said}\n")
    for line in infer_rows(given.run, given.images, given.rounds):
        print(line, flush=True)
    print(f"\n{given.cases} cases of {given.seconds} s:\n")
    for line in engine_rows(given.cases, given.seconds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
