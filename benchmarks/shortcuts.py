"""What `infer.skip_air` and `infer.adaptive_overlap` save, and what they cost in Dice.

    python benchmarks/shortcuts.py WEIGHTS --images FOLDER --labels FOLDER [--adaptive-overlap 0.25]

The weights predict every image without and with each shortcut; label maps are judged by the labels, which the
network should not have seen. The result is a block of Markdown for docs/benchmarks.md.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from side_by_side import heading

from medfuse.core.reporter import Reporter
from medfuse.report.evaluate import evaluate_folders
from medfuse.report.summary import summarise
from medfuse.verbs.infer import infer_volumes

SETTINGS = "runtime.use=torch", "runtime.precision=fp32"  # so that nothing but the windows differs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--adaptive-overlap", type=float, default=0.25)
    given = parser.parse_args()
    adaptive = f"adaptive_overlap={given.adaptive_overlap}"
    rows, plain = [], {}
    for shortcuts in ((), ("skip_air=true",), (adaptive,), ("skip_air=true", adaptive)):
        dice, windows, seconds = measured(given, shortcuts)
        plain = plain or dice
        change = max(abs(dice[name] - plain[name]) for name in dice)
        scores = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
        rows.append(
            f"| {', '.join(shortcuts) or 'none'} | {windows} | {seconds:.1f} | {scores} | {change:.4f} |"
        )
    print(heading(rounds=1, threads=torch.get_num_threads()) + "\n")
    table = "| shortcuts | windows run | seconds in the network | mean Dice | largest change |"
    print("\n".join([table, "|---|---|---|---|---|", *rows]))


def measured(given: argparse.Namespace, shortcuts: tuple[str, ...]) -> tuple[dict[str, float], int, float]:
    """The mean Dice of every label, windows run and seconds in the network."""
    quiet = Reporter(quiet=True)
    with tempfile.TemporaryDirectory() as name:
        output, settings = Path(name), (*SETTINGS, *shortcuts)
        done = infer_volumes([given.weights], [given.images], output, overrides=settings, reporter=quiet)
        assert done.code == 0, done
        manifest = json.loads((output / "manifest.json").read_text())
        labels = {name: value for name, value in manifest["labels"].items() if value}
        judged = evaluate_folders(output, given.labels, labels, reporter=quiet)
    cases = manifest["cases"].values()
    summary = summarise(judged)
    dice = {name: summary["mean"][str(value)]["Dice"] for name, value in judged.labels.items()}
    windows = sum(case["windows_run"] for case in cases)
    return dice, windows, sum(case["seconds_in"]["network"] for case in cases)


if __name__ == "__main__":
    main()
