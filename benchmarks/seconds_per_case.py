"""Does `medfuse init --seconds-per-case` keep its word: the time of a scan, and the Dice that it costs?

    python benchmarks/seconds_per_case.py DATA --minutes 4 --seconds 1.5 0.8 --out FOLDER
    python benchmarks/seconds_per_case.py DATA --minutes 4 --shares 0.6 0.4 --out FOLDER

Plans DATA without a limit and for each of the seconds, trains every plan on fold 0, labels the held-out cases
with each (one after another, in a process that has started; other cases too where fewer than --cases are held
out, for their time alone), and holds both against what `init` said. Each step stays in FOLDER, and the same
command does what is left; a limit that no plan keeps to is told in the table. With --shares limits are shares
of what the plan without one is foretold to take. Takes about --minutes for each plan. Prints Markdown for
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from side_by_side import heading

from medfuse.api import Case, Split
from medfuse.core.files import write_json
from medfuse.core.reporter import Reporter
from medfuse.data.split import choose_split, patients
from medfuse.pipeline import Pipeline, load_pipeline
from medfuse.report.evaluate import evaluate_folders
from medfuse.report.intervals import mean_interval
from medfuse.runs.models import load_model

UNLIMITED = "no limit"
WELL_BEYOND = 100_000
"""Seconds of a scan that do not bind: the plan is that without a limit, and its time is foretold."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="of planning and training each plan")
    of_time = parser.add_mutually_exclusive_group(required=True)
    of_time.add_argument("--seconds", type=float, nargs="+", help="limits of a scan's time")
    of_time.add_argument("--shares", type=float, nargs="+", help="limits, of what a scan takes without one")
    parser.add_argument("--out", type=Path, required=True, help="a folder for all that is made")
    parser.add_argument("--cases", type=int, default=12, help="that are timed, if not more are held out (12)")
    given = parser.parse_args()
    free = row_of(given.out / "no_limit", None, given)
    if "error" in free["plan"]:
        sys.exit(free["plan"]["error"])
    whole = free["plan"]["seconds_per_case"]["median"]
    limits = given.seconds or [round(share * whole, 3) for share in given.shares]
    rows = [free]
    for limit in sorted(limits, reverse=True):
        rows.append(row_of(given.out / f"within_{limit:g}", limit, given))
    print(report(rows, given))


def row_of(folder: Path, limit: float | None, given: argparse.Namespace) -> dict[str, Any]:
    """What was foretold of a plan, and what came of it: whatever is there already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"limit": limit, "plan": planned(folder, limit, given)}
    if "error" not in row["plan"]:
        run = trained(folder)
        row |= labelled(folder, run, given.cases)
    return row


def planned(folder: Path, limit: float | None, given: argparse.Namespace) -> dict[str, Any]:
    """What `medfuse init` says of the plan that it wrote, or why there is none."""
    kept = folder / "init.json"
    if not kept.exists():
        (folder / "plan.yaml").unlink(missing_ok=True)
        seconds = WELL_BEYOND if limit is None else limit
        how = ["--minutes", f"{given.minutes:g}", "--seconds-per-case", f"{seconds:g}", "--json"]
        done = medfuse("init", given.data, "-o", folder / "plan.yaml", *how)
        said = json.loads(done.stdout)
        if done.returncode:
            said = {"error": "; ".join(error["message"] for error in said["errors"])}
        write_json(kept, said)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def trained(folder: Path) -> Path:
    """The run of the plan; one that was begun is carried on."""
    run = folder / "runs" / "plan"
    if not (run / "summary.json").exists():
        done = medfuse("run", folder / "plan.yaml", "--runs", folder / "runs", "--quiet")
        if done.returncode:
            sys.exit(done.stderr or done.stdout)
    return run


def medfuse(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medfuse", *map(str, words)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)


def labelled(folder: Path, run: Path, count: int) -> dict[str, Any]:
    """Seconds and Dice of each case, labelled by a process that has started."""
    kept = folder / "labelled.json"
    if not kept.exists():
        pipeline, _ = load_pipeline(folder / "plan.yaml")
        held, others, info_patients = sides(pipeline)
        cases = [*held, *others[: max(0, count - len(held))]]
        model, quiet = load_model([run], reporter=Reporter(quiet=True)), Reporter(quiet=True)
        model.infer([cases[0]], folder / "labels" / "first", quiet, overwrite=True)  # which starts everything
        seconds = {}
        for case in cases:
            began = time.perf_counter()
            outcome = model.infer([case], folder / "labels" / case.name, quiet, overwrite=True)
            seconds[case.name] = time.perf_counter() - began
            assert not outcome.failed, outcome.failed
        labels = {name: value for name, value in model.plan.labels.items() if value != 0}
        dice = {case.name: dice_of(folder / "labels" / case.name, case, labels) for case in held}
        who = {name: info_patients.get(name, name) for name in dice}
        write_json(kept, {"seconds": seconds, "dice": dice, "patients": who})
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def sides(pipeline: Pipeline) -> tuple[list[Case], list[Case], Mapping[str, str]]:
    """Held-out cases, those of training, and whose all are."""
    info = pipeline.data.read()
    split: Split = choose_split(info, pipeline.split)
    by_name = {case.name: case for case in info.cases}
    held, others = ([by_name[name] for name in names] for names in (split.validation, split.train))
    return held, others, patients(info.cases, pipeline.split)


def dice_of(output: Path, case: Case, labels: Mapping[str, Any]) -> float | None:
    """The mean over labels of a case's Dice."""
    assert case.label is not None
    truth = output / "truth"
    truth.mkdir(exist_ok=True)
    (name,) = (path.name for path in output.iterdir() if path.name.startswith(f"{case.name}."))
    link = truth / f"{case.name}{''.join(case.label.suffixes[-2:]) if '.nii' in name else case.label.suffix}"
    if not link.exists():
        link.symlink_to(case.label.resolve())
    (judged,) = evaluate_folders(output, truth, dict(labels), reporter=Reporter(quiet=True)).cases
    values = [judged.metrics[label].dice for label in labels if label in judged.metrics]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def report(rows: Sequence[Mapping[str, Any]], given: argparse.Namespace) -> str:
    table = [
        "| limit | plan | s foretold | taken: median (all) | ratio | Dice lost, foretold | found | held |",
        "|---|---|---|---|---|---|---|---|",
        *(line_of(row, rows[0]) for row in rows),
    ]
    what = (
        f"`init --minutes {given.minutes:g}` of {given.data.name}, each plan trained on fold 0 and cases "
        "labelled one by one; seconds from a scan's file to its label map, in a process that has started; "
        "Dice paired by held-out case against the plan without a limit, with 95 % intervals; held: whether "
        "what was found lies within the interval that was foretold."
    )
    return "\n".join([heading(rounds=1, threads=torch.get_num_threads()), "", what, "", *table])


def line_of(row: Mapping[str, Any], free: Mapping[str, Any]) -> str:
    plan = row["plan"]
    name = UNLIMITED if row["limit"] is None else f"{row['limit']:g} s"
    if "error" in plan:
        return f"| {name} | none: {plan['error']} | | | | | | |"
    told, taken = plan["seconds_per_case"], [*row["seconds"].values()]
    spacing = "×".join(f"{mm:g}" for mm in told["spacing_mm"])
    patch = "×".join(map(str, plan["patch_size"]))
    network = f"{plan['dimensions']}-D, {plan['channels']} channels"
    shape = f"{network}, {patch} of {spacing} mm, overlap {told['overlap']:g}"
    times = f"{told['median']:.3f} | {median(taken):.3f} ({min(taken):.3f} … {max(taken):.3f})"
    lost = losses(row, free) if row is not free else "| |"
    return f"| {name} | {shape} | {times} | {told['median'] / median(taken):.2f} | {lost} |"


def losses(row: Mapping[str, Any], free: Mapping[str, Any]) -> str:
    """Foretold and found, and whether what was found lies within the interval that was foretold."""
    both = [name for name, value in row["dice"].items() if None not in (value, free["dice"].get(name))]
    lost = [free["dice"][name] - row["dice"][name] for name in both]
    found = (
        mean_interval(lost, [row["patients"][name] for name in both], bounds=(-1.0, 1.0)) if both else None
    )
    told = row["plan"]["seconds_per_case"].get("loss")
    seen = f"{found.value:+.4f}{found.limits_text()}" if found else "–"
    if not told or told.get("low") is None:
        binds = row["plan"]["seconds_per_case"]["binds"]
        return f"{'not measured' if binds and not told else 'none'} | {seen} | –"
    held = found is not None and told["low"] <= found.value <= told["high"]
    return f"{told['dice']:+.4f} [{told['low']:.4f}, {told['high']:.4f}] | {seen} | {'yes' if held else 'no'}"


if __name__ == "__main__":
    main()
