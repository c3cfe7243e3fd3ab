"""Trains pipelines/hippocampus.yaml on fold 0 and prints what it reached, with machine, date and command.

    python benchmarks/hippocampus.py DATA [--set train.minutes=20]

DATA is the folder of the Medical Segmentation Decathlon's Task04 with a splits_final.json. The result is a
block of Markdown for docs/benchmarks.md.
"""

import argparse
import json
import time
from pathlib import Path

from medfuse.core.reporter import Reporter
from medfuse.verbs.run import run_pipeline

PIPELINE = Path(__file__).parents[1] / "pipelines" / "hippocampus.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="a.b=c")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    began = time.monotonic()
    overrides = [f"data.root={given.data}", *given.overrides]
    result = run_pipeline(PIPELINE, overrides, runs=given.runs, reporter=Reporter())
    minutes = (time.monotonic() - began) / 60
    print(block(result.folder, minutes))


def block(folder: Path, minutes: float) -> str:
    """The result as Markdown."""
    lock = json.loads((folder / "lock.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = max(row["step"] for row in rows)
    seconds = max(row["seconds"] for row in rows)
    waits = [row["wait_share"] for row in rows if "wait_share" in row]
    machine = lock["machine"]
    dice = {name: summary["mean"][str(value)]["Dice"] for name, value in summary["labels"].items()}
    return "\n".join(
        [
            f"- {lock['started']}, {machine['processor']}, {machine['cores']} cores, "
            f"torch {lock['packages']['torch']}",
            f"- command: `{lock['command']}`",
            f"- {minutes:.1f} minutes of wall time in all, {steps} steps in {seconds / 60:.1f} minutes "
            f"({steps / seconds:.2f} steps/s), {sum(waits) / len(waits):.0%} of the time waiting for data",
            f"- mean foreground Dice {summary['foreground_mean']['Dice']:.4f} over {summary['cases']} cases: "
            + ", ".join(f"{name} {value:.4f}" for name, value in dice.items()),
        ]
    )


if __name__ == "__main__":
    main()
