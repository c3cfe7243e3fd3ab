"""Which scans to annotate next: those that `medfuse rank` names beside as many at random, trained alike.

    python benchmarks/rank.py DATA [--start 8] [--add 8] [--rounds 2] [--minutes 1 | --steps N] [--seeds 3]
                              [--held 40] [--pool 80] [--output runs/rank]

DATA is the folder of the Medical Segmentation Decathlon's Task04. For each seed cases are drawn that are held
out, that are annotated from the start, and a pool; both ways begin with the same network, and each round adds
as many cases to those it learns from. Run again it does what is left. The result is a block of Markdown for
docs/benchmarks.md: Dice of the held-out cases, and the difference with an interval over cases and seeds.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from side_by_side import heading

from medfuse.core.reporter import Reporter
from medfuse.report.intervals import mean_interval
from medfuse.verbs.rank import rank_pool
from medfuse.verbs.run import run_pipeline

PIPELINE = Path(__file__).parents[1] / "pipelines" / "hippocampus.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--start", type=int, default=8)
    parser.add_argument("--add", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--steps", type=int, help="of training, in place of minutes, whatever else runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held", type=int, default=40)
    parser.add_argument("--pool", type=int, default=80)
    parser.add_argument("--output", type=Path, default=Path("runs/rank"))
    given = parser.parse_args()
    cases = sorted(
        path.name.removesuffix(".nii.gz") for path in (given.data / "imagesTr").glob("[!.]*.nii.gz")
    )
    dice: dict[tuple[str, int], list[list[float]]] = {}
    for seed in range(1, given.seeds + 1):
        drawn = random.Random(seed).sample(cases, given.held + given.start + given.pool)
        held, start = drawn[: given.held], drawn[given.held : given.held + given.start]
        pool = drawn[given.held + given.start :]
        place = given.output / f"seed_{seed}"
        first = trained(given, place / "start", start, held, seed)
        for way in ("ranked", "random"):
            known, run = list(start), first
            dice.setdefault((way, 0), []).append(dice_of(run, held))
            for number in range(1, given.rounds + 1):
                here = place / f"{way}_{number}"
                rest = [case for case in pool if case not in known]
                known += chosen(given, way, run, here, rest, known, seed * 100 + number)
                run = trained(given, here, known, held, seed)
                dice.setdefault((way, number), []).append(dice_of(run, held))
    print(heading(rounds=1, threads=2) + "\n")
    print("| annotated | ranked | at random | difference |\n|---|---|---|---|")
    for number in range(given.rounds + 1):
        ranked, others = (np.array(dice[way, number]).T for way in ("ranked", "random"))
        count = given.start + number * given.add
        said = "the same network" if number == 0 else interval(ranked - others)
        print(f"| {count} | {interval(ranked)} | {interval(others)} | {said} |")


def interval(values: np.ndarray) -> str:
    """Of (cases, seeds). Each seed has its own held-out cases, so they stand for each other."""
    found = mean_interval(values.reshape(-1), bounds=None)
    assert found is not None
    return f"{values.mean():.4f} [{found.low:.4f}, {found.high:.4f}]"


def trained(
    given: argparse.Namespace, folder: Path, train: Sequence[str], held: Sequence[str], seed: int
) -> Path:
    """A run that learns from `train` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    split = folder / "split.json"
    split.write_text(json.dumps([{"train": list(train), "val": list(held)}]))
    minutes, steps = ("null", given.steps) if given.steps else (given.minutes, "null")
    overrides = [
        f"data.root={given.data.resolve()}",
        f"split.file={split.resolve()}",
        "split.fold=0",
        f"train.minutes={minutes}",
        f"train.steps={steps}",
        f"seed={seed}",
        "name=run",
        "report.viewer=false",
    ]
    return run_pipeline(PIPELINE, overrides, runs=folder, reporter=Reporter(quiet=True)).folder


def chosen(
    given: argparse.Namespace,
    way: str,
    run: Path,
    folder: Path,
    pool: Sequence[str],
    known: Sequence[str],
    seed: int,
) -> list[str]:
    if way == "random":
        return random.Random(seed).sample(list(pool), given.add)
    images = given.data.resolve() / "imagesTr"
    for name, cases in (("pool", pool), ("labelled", known)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for case in cases:
            link = folder / name / f"{case}.nii.gz"
            if not link.is_symlink():
                link.symlink_to(images / link.name)
    ranking = rank_pool(
        run,
        [folder / "pool"],
        folder / "ranking",
        number=given.add,
        labelled=[folder / "labelled"],
        reporter=Reporter(quiet=True),
    )
    return [row["case"] for row in ranking.values["chosen"]]


def dice_of(run: Path, held: Sequence[str]) -> list[float]:
    """The mean foreground Dice of each held-out case."""
    summary = json.loads((run / "summary.json").read_text())
    found = {
        case["name"]: float(np.mean([row["Dice"] for row in case["metrics"].values()]))
        for case in summary["metric_per_case"]
    }
    return [found[case] for case in held]


if __name__ == "__main__":
    main()
