"""A cascade on whole CT, beside the same fine network without: time, windows and Dice of held-out phantoms.

    python benchmarks/cascade.py --work FOLDER            all of it
    python benchmarks/cascade.py --work FOLDER --tiny     every line of it, on volumes of a few voxels
    python benchmarks/cascade.py --work FOLDER --int8     the cascade in int8, as far as its gate lets it

Phantoms of 512 × 512 × 400 voxels of 1.5 mm are made, a cascade is trained on some of them, and the others
are labelled with it and with all windows of its second stage, in turns. Each step stays in FOLDER, and the
same command does what is left. About two to three hours on two cores: the phantoms, training (--minutes, and
a third of it for the first stage), judging by the run, and ten minutes or more for each held-out phantom
without the cascade. Prints Markdown for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml
from side_by_side import heading

from medfuse.core.files import write_json
from medfuse.core.reporter import Reporter
from medfuse.report.evaluate import evaluate_folders
from medfuse.verbs.infer import infer_volumes
from medfuse.verbs.run import run_pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_data"))
import make_phantoms  # which lies beside the samples that it made

SEED = 23
WAYS: dict[str, tuple[str, ...]] = {"cascade": (), "all windows": ("windows=all",)}


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    shape: tuple[int, int, int]
    spacing_mm: float
    coarse_mm: float
    patch: int
    coarse_patch: int
    levels: int
    training: int
    held_out: int


WHOLE = Size((512, 512, 400), 1.5, 6.0, 96, 64, 5, 6, 2)
TINY = Size((64, 64, 50), 12.0, 24.0, 16, 16, 3, 4, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for all that is made")
    parser.add_argument("--tiny", action="store_true", help="go through every line on tiny volumes")
    parser.add_argument("--int8", action="store_true", help="quantise the second stage, for the cascade")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training the second stage (30)")
    parser.add_argument("--channels", type=int, default=16, help="of the finest level (16)")
    given = parser.parse_args()
    size = TINY if given.tiny else WHOLE
    data = make_data(given.work / "data", size)
    file = write_pipeline(given.work / "cascade.yaml", data, size, given)
    reporter = Reporter()
    run = run_pipeline(file, runs=given.work / "runs", reporter=reporter).folder
    fast = quantised(run, reporter) if given.int8 else ()
    rows = [*measured(given.work, run, data, size, fast)]
    print(report(rows, run, size, given))


def make_data(folder: Path, size: Size) -> Path:
    """Phantoms on grids of one size, in the Decathlon's layout, the last of them held out."""

    def whole(rng: np.random.Generator, index: int, shape: Any) -> make_phantoms.Grid:
        middle = np.array([rng.uniform(-40, 40), rng.uniform(-40, 40), rng.uniform(-80, 80)])
        return make_phantoms.lay_grid(index, np.array(size.shape), np.full(3, size.spacing_mm), middle)

    recipe = replace(make_phantoms.PHANTOMS, draw_grid=whole)
    names = [f"whole_{number}" for number in range(size.training + size.held_out)]
    for number, name in enumerate(names):
        label = folder / "labelsTr" / f"{name}.nii.gz"
        if not label.exists():  # which is written last
            image, truth = make_phantoms.make_case(SEED, number + number // 2, None, recipe)
            make_phantoms.save(image, folder / "imagesTr" / label.name)
            make_phantoms.save(truth, label.with_name(".unfinished.nii.gz"))
            label.with_name(".unfinished.nii.gz").rename(label)
    files = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    labels = {str(value): name for name, value in make_phantoms.LABELS.items()}
    write_json(folder / "dataset.json", {"modality": {"0": "CT"}, "labels": labels, "training": files})
    split = {"train": names[: size.training], "val": names[size.training :]}
    write_json(folder / "splits_final.json", [split])
    return folder


def write_pipeline(path: Path, data: Path, size: Size, given: argparse.Namespace) -> Path:
    def model(levels: int, channels: int) -> dict[str, Any]:
        return {
            "backbones": {"encoder": {"use": "unet_encoder", "base_channels": channels, "stages": levels}},
            "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
            "head": {"input": "decoded"},
        }

    def stage(mm: float, patch: int, levels: int, channels: int, **train: Any) -> dict[str, Any]:
        how = {"learning_rate": 0.01, "warmup": 0.05, "decay": "cosine", "steps_per_epoch": 25}
        return {
            "preprocess": {"spacing_mm": [mm] * 3},
            "sample": {"patch_size": [patch] * 3, "batch_size": 2, "foreground": 0.5},
            "model": model(levels, channels),
            "train": {**how, "validation_cases": 0, **train},
        }

    coarse = {"steps": 20} if given.tiny else {"minutes": given.minutes / 3}
    fine = {"steps": 20} if given.tiny else {"minutes": given.minutes}
    pipeline = {
        "name": "cascade",
        "data": {"use": "decathlon", "root": str(data.resolve())},
        "stages": [
            stage(size.coarse_mm, size.coarse_patch, min(4, size.levels), 8, **coarse),
            stage(size.spacing_mm, size.patch, size.levels, given.channels, **fine),
        ],
        "cascade": {"targets": "foreground", "folds": 2},
    }
    text = yaml.safe_dump(pipeline, sort_keys=False)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def quantised(run: Path, reporter: Reporter) -> tuple[str, ...]:
    """Settings by which the second stage computes in int8; none where its gate was not passed."""
    from medfuse.verbs.quantize import quantize_model

    said = quantize_model(run, reporter=reporter)
    print(said)
    return ("runtime.use=openvino", "runtime.precision=int8") if said.code == 0 else ()


def measured(
    work: Path, run: Path, data: Path, size: Size, fast: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """A row for each held-out phantom and way, which is kept once it is there. Ways take turns."""
    labels = {name: value for name, value in make_phantoms.LABELS.items() if value}
    names = json.loads((data / "splits_final.json").read_text())[0]["val"]
    for number, name in enumerate(names):
        for way in list(WAYS) if number % 2 == 0 else list(reversed(WAYS)):
            settings = (*WAYS[way], *(fast if way == "cascade" else ()))
            kind = f"{way} in int8" if way == "cascade" and fast else way
            output = work / "labels" / kind.replace(" ", "_") / name
            kept = output / "row.json"
            if not kept.exists():
                began = time.perf_counter()
                done = infer_volumes(
                    [run],
                    [data / "imagesTr" / f"{name}.nii.gz"],
                    output,
                    overrides=settings,
                    overwrite=True,
                    reporter=Reporter(),
                )
                seconds = time.perf_counter() - began
                assert done.code == 0, done
                write_json(kept, row_of(output, data, name, kind, labels, seconds))
            yield json.loads(kept.read_text())


def row_of(
    output: Path, data: Path, name: str, way: str, labels: Mapping[str, int], seconds: float
) -> dict[str, Any]:
    """seconds: from the command's start to its end, loading and reading included."""
    (case,) = json.loads((output / "manifest.json").read_text())["cases"].values()
    truth = output / "truth"
    truth.mkdir(exist_ok=True)
    link = truth / f"{name}.nii.gz"
    if not link.exists():
        link.symlink_to((data / "labelsTr" / link.name).resolve())
    (judged,) = evaluate_folders(output, truth, dict(labels), reporter=Reporter(quiet=True)).cases
    return {
        "case": name,
        "way": way,
        "seconds": seconds,
        "seconds_in": case["seconds_in"],
        "windows_run": case["windows_run"],
        "windows": case["windows"],
        "engines": case["engines"],
        "first_stage": case.get("first_stage", ""),
        "dice": {label: judged.metrics[label].dice for label in labels},
    }


def report(rows: list[dict[str, Any]], run: Path, size: Size, given: argparse.Namespace) -> str:
    table = ["| case | way | seconds | windows run | Dice |", "|---|---|---|---|---|"]
    for row in rows:
        dice = ", ".join(
            f"{label} {value:.4f}" if value is not None else f"{label} –"
            for label, value in row["dice"].items()
        )
        windows = f"{row['windows_run']} of {row['windows']}"
        table.append(f"| {row['case']} | {row['way']} | {row['seconds']:.1f} | {windows} | {dice} |")
    whole = {row["case"]: row for row in rows if row["way"] == "all windows"}
    fast = {row["case"]: row for row in rows if row["way"] != "all windows"}
    ratios = [whole[name]["seconds"] / fast[name]["seconds"] for name in whole]
    changes = [
        abs(whole[name]["dice"][label] - value)
        for name in whole
        for label, value in fast[name]["dice"].items()
        if value is not None and whole[name]["dice"][label] is not None
    ]
    notes = [
        note
        for note in json.loads((run / "summary.json").read_text())["notes"]
        if note.startswith("cascade:")
    ]
    what = (
        f"Phantoms of {' × '.join(map(str, size.shape))} voxels of {size.spacing_mm:g} mm, {size.training} "
        f"for training, {len(whole)} held out; {given.channels} channels, {size.levels} levels, windows of "
        f"{size.patch}³, a first stage at {size.coarse_mm:g} mm. Seconds of the whole command."
    )
    found = (
        f"ratio of seconds: median {median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)}); "
    )
    most = f"largest |ΔDice|: {max(changes):.5f}" if changes else "no label to judge by"
    lines = [heading(rounds=1, threads=torch.get_num_threads()), "", what, "", *table, "", found + most]
    return "\n".join([*lines, "", *notes])


if __name__ == "__main__":
    main()
