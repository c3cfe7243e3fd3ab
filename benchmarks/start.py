"""What medfuse takes around its work: `--help`, `check`, and `infer` of one small scan above its network.

    python benchmarks/start.py RUN IMAGE FILE [--against CHECKOUT] [--rounds 5] [--threads 2]

RUN is a trained run, IMAGE a small scan, FILE a pipeline. Each command is a process of its own, in turns with
the same of another CHECKOUT of medfuse where one is named, so that both meet the same machine. Every
checkout has a cache folder of its own: the first `infer` finds it empty, and is a row of its own. The
network's own time is that of the later ones of some copies of the scan in one call, by which time nothing is
left to be found out. CPU is user and system together: it misleads less than the wall where others are at
work. The result is a block of Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from medfuse.core.device import processor
from medfuse.volumes.endings import ending

_COPIES = 4
_HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Taken:
    """Of one process: seconds by the clock, and of the processors."""

    wall: float
    cpu: float


@dataclass
class Checkout:
    """One state of medfuse with a cache of its own, what each command took, and its network's own seconds."""

    name: str
    place: Path
    cache: Path
    threads: int
    network: float = 0.0
    taken: dict[str, list[Taken]] = field(default_factory=lambda: defaultdict(list))

    def call(self, *words: str | Path) -> Taken:
        """`medfuse WORDS`, in a process of its own. Raises RuntimeError with what it said where it fails."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.place),
            "MEDFUSE_CACHE": str(self.cache),
            "OMP_NUM_THREADS": str(self.threads),
        }
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "medfuse", *map(str, words)]
        done = subprocess.run(command, env=environment, cwd=self.cache, capture_output=True, text=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def infer(self, run: Path, images: Path) -> tuple[Taken, list[float]]:
        """One call, and the seconds of the network for each of its cases."""
        with tempfile.TemporaryDirectory() as output:
            taken = self.call("infer", run, "-i", images, "-o", output, "-q")
            cases = json.loads((Path(output) / "manifest.json").read_text(encoding="utf-8"))["cases"]
            return taken, [case["seconds_in"]["network"] for case in cases.values()]


def measure(given: argparse.Namespace, checkouts: list[Checkout], folder: Path) -> None:
    copies = folder / "copies"
    copies.mkdir()
    for number in range(_COPIES):
        shutil.copy(given.image, copies / f"copy_{number}{ending(given.image)}")
    for checkout in checkouts:
        taken, _ = checkout.infer(given.run, given.image)
        checkout.taken["`infer`, its first call on this machine"].append(taken)
        _, each = checkout.infer(given.run, copies)
        checkout.network = median(each[1:])
    for number in range(given.rounds):
        for checkout in checkouts if number % 2 else checkouts[::-1]:
            checkout.taken["`--help`"].append(checkout.call("--help"))
            checkout.taken["`check FILE`"].append(checkout.call("check", given.file))
            checkout.taken["`infer`"].append(checkout.infer(given.run, given.image)[0])


def rows(checkouts: list[Checkout]) -> Iterator[str]:
    yield "| command | medfuse | median | above the network | CPU | all |"
    yield "|---|---|---|---|---|---|"
    for what in checkouts[0].taken:
        for checkout in checkouts:
            found = checkout.taken[what]
            wall, cpu = median(one.wall for one in found), median(one.cpu for one in found)
            above = f"{wall - checkout.network:.2f} s" if "infer" in what else ""
            every = ", ".join(f"{one.wall:.2f}" for one in found)
            yield f"| {what} | {checkout.name} | {wall:.2f} s | {above} | {cpu:.2f} s | {every} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout of medfuse")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.run, given.image, given.file = (path.resolve() for path in (given.run, given.image, given.file))
    places = {"this": _HERE, **({"the other": given.against.resolve()} if given.against else {})}
    with tempfile.TemporaryDirectory() as made:
        folder, checkouts = Path(made), []
        for number, (name, place) in enumerate(places.items()):
            cache = folder / f"cache_{number}"
            cache.mkdir()
            checkouts.append(Checkout(name, place, cache, given.threads))
        measure(given, checkouts, folder)
    said = f"`python benchmarks/start.py {given.run} {given.image} {given.file}`"
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}, {given.threads} threads: {said}\n")
    own = ", ".join(f"{1000 * one.network:.0f} ms ({one.name})" for one in checkouts)
    print(f"The network's own time on this scan: {own}.\n")
    for line in rows(checkouts):
        print(line)


if __name__ == "__main__":
    main()
