"""Does a network that learned elsewhere help here? Frozen ImageNet features beside a plan from scratch.

    python benchmarks/pretrained.py DATASET [--minutes 5] [--cases 4 16 160] [--seeds 1] [--work FOLDER]

For each number of training cases, the held-out cases being those of fold 0:

- `scratch`: what `medfuse init DATASET --minutes M` plans, trained for M minutes;
- `imagenet FUSION`: EfficientNet-Lite0 with its ImageNet weights, frozen, its maps computed once and kept,
  and three fusions of its taps, each trained for a third of M minutes, the filling of the cache included;
- `random FUSION`: the same network with fresh weights, frozen too: what the fusions do by themselves.

All is done by `medfuse compare`, so that a program that was stopped goes on, and every difference is that of
the same cases with an interval (95 %, bootstrap over cases) against `scratch`. The best of three is chosen by
the cases that judge, which flatters it: all three are in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

MEDFUSE = (sys.executable, "-m", "medfuse")
FUSIONS: Mapping[str, Mapping[str, Any]] = {
    "unet_decoder": {"use": "unet_decoder", "inputs": ["image", "encoder.*"], "channels": 16},
    "fpn": {"use": "fpn", "inputs": ["encoder.*"], "channels": 32},
    "hypercolumn": {"use": "hypercolumn", "inputs": ["image", "encoder.*"], "channels": 16},
}
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--cases", type=int, nargs="+", default=[4, 16, 160], help="training cases")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"))
    given = parser.parse_args()
    data, work = given.dataset.resolve(), given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    print(f"{data.name}, {given.minutes:g} minutes each, {circumstances()}\n")
    print("| training cases | network | Dice | against `scratch` | steps | minutes |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for cases in given.cases:
        for row in rows(data, work / f"{data.name}-{given.minutes:g}min-{cases}", cases, given):
            print(row, flush=True)


def rows(data: Path, work: Path, cases: int, given: argparse.Namespace) -> Iterator[str]:
    """One for each network that learned from so many cases."""
    work.mkdir(exist_ok=True)
    train = write_split(data, work / "split.json", cases)
    files = [plan(data, work, given.minutes)]
    sample = yaml.safe_load(files[0].read_text())
    for kind, pretrained in (("imagenet", True), ("random", False)):
        for name, fusion in FUSIONS.items():
            files.append(work / f"{kind}_{name}.yaml")
            made = frozen(sample, fusion, pretrained=pretrained, minutes=given.minutes / len(FUSIONS))
            files[-1].write_text(yaml.safe_dump(made, sort_keys=False))
    words = [*MEDFUSE, "compare", *files, "--seeds", given.seeds, "--runs", work / "runs", "--overwrite"]
    do([*words, "--set", f"split.file={work / 'split.json'}"], work / "log.txt")
    table = next((work / "runs" / "comparisons").glob("*/comparison.json"))
    yield from told(json.loads(table.read_text()), len(train))


def write_split(data: Path, file: Path, cases: int) -> Sequence[str]:
    """The first fold with so many of its training cases, a larger number with all of a smaller."""
    from medfuse.data.detect import detect
    from medfuse.data.settings import SplitSettings
    from medfuse.data.split import choose_split

    found = detect(data)
    split = choose_split(found.info, SplitSettings(folds=min(5, len(found.info.cases))))
    names = sorted(split.train)
    random.Random(SEED).shuffle(names)
    file.write_text(json.dumps([{"train": names[:cases], "val": sorted(split.validation)}]))
    return names[:cases]


def plan(data: Path, work: Path, minutes: float) -> Path:
    """What `medfuse init` plans, written once."""
    file = work / "scratch.yaml"
    if not file.exists():
        do([*MEDFUSE, "init", data, "--minutes", f"{minutes:g}", "--output", file], work / "log.txt")
    return file


def frozen(
    scratch: Mapping[str, Any], fusion: Mapping[str, Any], *, pretrained: bool, minutes: float
) -> dict[str, Any]:
    """Slices seen as three colours by a frozen network; data, spacing and folds of the other plan."""
    seen: dict[str, Any] = {"use": "efficientnet", "size": "lite0"}
    if pretrained:
        seen["pretrained"] = True
    patch = [*scratch["sample"]["patch_size"]]
    return {
        "data": scratch["data"],
        "split": scratch["split"],
        "preprocess": {**scratch["preprocess"], "normalize": "unit"},
        "sample": {"patch_size": patch, "batch_size": 2, "foreground": 0.33},
        "model": {
            "backbones": {"encoder": {"use": "slices", "neighbours": 1, "channels": "each", "of": seen}},
            "fusion": {"fused": dict(fusion)},
            "head": {"input": "fused"},
        },
        "loss": "dice_ce",
        "train": {
            "minutes": round(minutes, 3),
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "warmup": 0.05,
            "decay": "cosine",
            "parts": {"backbones.encoder.*": {"freeze": "always"}},
            "frozen_maps": {},
        },
    }


def told(comparison: Mapping[str, Any], cases: int) -> Iterator[str]:
    """Rows of the table out of a comparison.json; the first candidate is the one that others are held to."""
    label = comparison["labels"][0]
    against = {row["candidate"]: row for row in comparison["differences"] if row["label"] == label}
    for candidate in comparison["candidates"]:
        name, row = candidate["name"], against.get(candidate["name"])
        difference = f"{row['difference']:+.3f} ({row['low']:+.3f} … {row['high']:+.3f})" if row else ""
        minutes = f"{candidate['seconds'] / 60:.1f}"
        cells = (f"{cases}", name, f"{candidate['mean'][label]:.4f}", difference)
        yield f"| {' | '.join(cells)} | {candidate['steps']:.0f} | {minutes} |"


def do(command: Sequence[object], log: Path) -> None:
    """Its messages are added to `log`."""
    words = [str(word) for word in command]
    with open(log, "a") as file:
        print(f"$ {shlex.join(words)}", file=file, flush=True)
        if subprocess.run(words, stdout=file, stderr=subprocess.STDOUT).returncode:
            file.flush()
            sys.exit(f"{[line for line in log.read_text().splitlines() if line.strip()][-1]} ({log})")


def circumstances() -> str:
    from importlib.metadata import version

    from medfuse.core.device import processor

    return (
        f"{date.today()}, {os.cpu_count()} cores of {processor()}, torch {version('torch')}, "
        f"`python {shlex.join(sys.argv)}`"
    )


if __name__ == "__main__":
    main()
