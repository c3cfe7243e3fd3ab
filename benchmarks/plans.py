"""`medfuse init` beside a grid of plans made by hand and beside nnU-Net, each trained for the same minutes.

    python benchmarks/plans.py SET… [--minutes 5 10 30] [--seeds 1] [--grid default] [--only 'init' '2d-*']
                               [--nnunet-python PATH] [--results runs/plans/results.jsonl] [--resume]
    python benchmarks/plans.py --table runs/plans/results.jsonl

A SET is any dataset that `medfuse init` reads; benchmarks/plan_sets.py writes some. On each, for all of
--minutes and seeds, three things are done: `init` is what `medfuse init SET --minutes N` plans, and then
what `medfuse run` makes of it; every plan of the grid (see plan_grid.py, or --grid FILE) is trained for as
long; and where --nnunet-python is given, nnU-Net is, by benchmarks/train.py. All are judged by the held-out
cases of fold 0.

One training at a time is a cell, and a line of --results as soon as it is done. With --resume the cells that
have a line are skipped, those that failed too: remove a line to try again. What is printed in the end is
Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from plan_table import table
from reached import reached

from medfuse.core.errors import MedfuseError

HERE = Path(__file__).resolve().parent
MEDFUSE = [sys.executable, "-m", "medfuse"]
FORETOLD = re.compile(r"about ([\d,]+) steps fit")
INIT, NNUNET = "init", "nnU-Net"

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training: `plan` is `init`, a plan of the grid, or a configuration of nnU-Net."""

    set: str
    minutes: float
    seed: int
    plan: str

    @property
    def name(self) -> str:
        return f"{re.sub(r'[^A-Za-z0-9]+', '_', self.plan)}_{self.minutes:g}min_{self.seed}".replace(".", "p")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="*", metavar="SET")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 10, 30])
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--grid", default="default", help="`default`, or a YAML file")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PLAN", help="plans, as globs")
    parser.add_argument("--nnunet-python", type=Path, help="of an environment that has nnunetv2")
    parser.add_argument("--nnunet-configurations", nargs="+", default=["3d_fullres"])
    parser.add_argument("--results", type=Path, default=Path("runs/plans/results.jsonl"))
    parser.add_argument("--resume", action="store_true", help="go on with what --results lacks")
    parser.add_argument(
        "--table", type=Path, metavar="RESULTS", help="print what was found, and train nothing"
    )
    given = parser.parse_args()
    if given.table:
        print(table(read_rows(given.table)))
        return
    if not given.sets:
        parser.error("name the folder of at least one set")
    if len({folder.resolve().name for folder in given.sets}) < len(given.sets):
        parser.error("two sets have folders of one name, by which results tell them apart; rename one")
    if given.results.exists() and not given.resume:
        parser.error(f"{given.results}: is there already; give --resume, or other --results")
    given.results.parent.mkdir(parents=True, exist_ok=True)
    for cell, row in measured(given):
        with open(given.results, "a") as file:
            file.write(json.dumps({**asdict(cell), **row}) + "\n")
    print(table(read_rows(given.results)))


def measured(given: argparse.Namespace) -> Iterator[tuple[Cell, Row]]:
    """Each cell that has no line yet, and what came of it."""
    from plan_grid import Facts, look_at, read_grid

    grid = {plan.name: plan for plan in read_grid(given.grid)}
    folders = {folder.resolve().name: folder.resolve() for folder in given.sets}
    nnunet = [f"{NNUNET} {name}" for name in given.nnunet_configurations] if given.nnunet_python else []
    plans = [plan for plan in (INIT, *grid, *nnunet) if any(fnmatch(plan, wanted) for wanted in given.only)]
    cells = list(all_cells(folders, given.minutes, range(1, given.seeds + 1), plans))
    left = missing(cells, read_rows(given.results))
    known: dict[str, Facts] = {}
    for number, cell in enumerate(left, 1):
        where = (
            f"{number} of {len(left)}: {cell.set}, {cell.plan}, {cell.minutes:g} minutes, seed {cell.seed}"
        )
        print(where, file=sys.stderr, flush=True)
        data, work = folders[cell.set], given.results.resolve().parent / cell.set
        work.mkdir(exist_ok=True)
        began, load = time.monotonic(), os.getloadavg()[0]
        try:
            if cell.plan == INIT:
                row = init_row(cell, data, work)
            elif cell.plan in grid:
                if cell.set not in known:
                    known[cell.set] = look_at(data)
                row = grid_row(cell, grid[cell.plan], known[cell.set], work)
            else:
                row = nnunet_row(cell, data, work, given.nnunet_python)
        except (Failed, MedfuseError) as failure:
            row = {"dice": None, "failed": str(failure)}
        print(f"  {row.get('failed') or row['dice']}", file=sys.stderr, flush=True)
        if "minutes" in row:
            row["training_minutes"] = row.pop("minutes")
        yield cell, {**row, "wall_minutes": (time.monotonic() - began) / 60, **circumstances(load)}


def all_cells(
    sets: Iterable[str], minutes: Iterable[float], seeds: Sequence[int], plans: Sequence[str]
) -> Iterator[Cell]:
    """Short trainings first, so that a table soon has all its rows."""
    sets = list(sets)
    for budget in minutes:
        for seed in seeds:
            for name in sets:
                for plan in plans:
                    yield Cell(name, budget, seed, plan)


def missing(cells: Iterable[Cell], rows: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """The cells that no row is about."""
    done = {Cell(row["set"], row["minutes"], row["seed"], row["plan"]) for row in rows}
    return [cell for cell in cells if cell not in done]


def read_rows(path: Path) -> list[Row]:
    """All lines; one that was being written when the program was stopped is taken out of the file."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


# ---- the three ways


class Failed(Exception):
    """A cell that came to nothing, with the last line of what was said."""


def init_row(cell: Cell, data: Path, work: Path) -> Row:
    """What `medfuse init` plans in how many seconds, and what its training reaches."""
    file = work / f"{cell.name}.yaml"
    file.unlink(missing_ok=True)
    began = time.monotonic()
    do(
        [*MEDFUSE, "init", data, "--minutes", f"{cell.minutes:g}", "--output", file],
        work / f"{cell.name}.log",
    )
    seconds = time.monotonic() - began
    text = file.read_text()
    found = FORETOLD.search(" ".join(line.strip(" #") for line in text.splitlines()))
    return {
        **trained(cell, file, work),
        "planning_seconds": seconds,
        "foretold": int(found[1].replace(",", "")) if found else None,
        "sample": yaml.safe_load(text)["sample"],
    }


def grid_row(cell: Cell, plan: Any, facts: Any, work: Path) -> Row:
    from plan_grid import pipeline

    file, settings = work / f"{cell.name}.yaml", pipeline(plan, facts, minutes=cell.minutes)
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return {**trained(cell, file, work), "sample": settings["sample"]}


def trained(cell: Cell, file: Path, work: Path) -> Row:
    """`medfuse run`, as a user starts it. What it leaves is read and removed, but for prepared cases."""
    folder = work / "runs" / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    settings = [f"name={cell.name}", f"seed={cell.seed}", "split.fold=0"]
    command = [*MEDFUSE, "run", file, "--runs", work / "runs", *(w for s in settings for w in ("--set", s))]
    do(command, work / f"{cell.name}.log")
    row = reached(folder)
    shutil.rmtree(folder)
    return row


def nnunet_row(cell: Cell, data: Path, work: Path, python: Path) -> Row:
    configuration = cell.plan.removeprefix(f"{NNUNET} ")
    command = [
        sys.executable,
        HERE / "train.py",
        "score",
        data,
        "--nnunet-python",
        python.absolute(),
        "--json",
    ]
    command += ["--minutes", f"{cell.minutes:g}", "--only", NNUNET, "--configuration", configuration]
    said = do([*command, "--work", work / f"nnunet_{configuration}"], work / f"{cell.name}.log")
    row: Row = json.loads(said.strip().splitlines()[-1])
    return row


def do(command: Sequence[object], log: Path) -> str:
    """What it printed; its messages are added to `log`. Raises Failed."""
    words = [str(word) for word in command]
    with open(log, "a") as file:
        print(f"$ {shlex.join(words)}", file=file, flush=True)
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=file, text=True)
    if done.returncode:
        last = [line for line in log.read_text().splitlines() if line.strip()][-1]
        raise Failed(f"{last} (exit code {done.returncode}; {log})")
    with open(log, "a") as file:
        file.write(done.stdout)
    return done.stdout


def circumstances(load: float) -> Row:
    """Where, when and how a row was measured."""
    from importlib.metadata import version

    from medfuse.core.device import processor

    return {
        "date": str(date.today()),
        "machine": processor(),
        "cores": os.cpu_count(),
        "load": load,
        "torch": version("torch"),
        "command": f"python {shlex.join(sys.argv)}",
    }


if __name__ == "__main__":
    main()
