"""Does quality without a reference tell bad label maps? On the hippocampus, and on a corrupted copy of it.

    python benchmarks/quality.py DATA [--out runs/quality_benchmark] [--minutes 2.5 | --steps N]
                                 [--cases 200] [--seed 1]

DATA is the folder of the Medical Segmentation Decathlon's Task04 with a splits_final.json. Each of its folds
is trained for so many minutes by pipelines/hippocampus.yaml, and judges the cases that it has not seen. Then
a copy of every case is corrupted (noise, a crop, a header with another spacing, a blur as motion leaves it;
mild to strong, always the same), and goes through the network that has not seen the case. What is expected
of a case, and its bound, are from cases of other folds, which are never corrupted. The same command goes on
where it was stopped. The result is a block of Markdown for docs/benchmarks.md, and OUT/results.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.api import Case
from medfuse.core.device import processor
from medfuse.core.reporter import Reporter
from medfuse.quality.calibration import JudgedCase, calibrated
from medfuse.quality.conformal import LEVEL
from medfuse.quality.honesty import BASELINES, OURS, Honesty, judged, told
from medfuse.quality.judge import Judge
from medfuse.quality.usual import UsualNumbers
from medfuse.report.evaluate import evaluate_pairs
from medfuse.report.pairs import Pair
from medfuse.runs.quality import grain_among, judged_cases
from medfuse.verbs.folds import run_folds

PIPELINE = Path(__file__).parents[1] / "pipelines" / "hippocampus.yaml"
SETTINGS = ("infer.compare_heads=true", "infer.mirror=[x]")
KINDS = ("noise", "crop", "spacing", "motion")

Voxels = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/quality_benchmark"))
    parser.add_argument("--minutes", type=float, default=2.5, help="of training, for each fold")
    parser.add_argument("--steps", type=int, help="of training, in place of minutes, whatever else runs")
    parser.add_argument("--cases", type=int, default=0, help="take so many cases; all where 0")
    parser.add_argument("--seed", type=int, default=1, help="of the corruption")
    given = parser.parse_args()
    began, out = time.monotonic(), given.out.resolve()
    data = chosen(given.data.resolve(), out / "data", given.cases) if given.cases else given.data.resolve()
    splits = json.loads((data / "splits_final.json").read_text())
    budget = ("null", given.steps) if given.steps else (given.minutes, "null")
    limits = (f"train.minutes={budget[0]}", f"train.steps={budget[1]}")
    overrides = [f"data.root={data}", *limits, "name=hippocampus", *SETTINGS]
    run_folds(PIPELINE, overrides, runs=out, reporter=Reporter())
    folders = {fold: out / "hippocampus" / f"fold_{fold}" for fold in range(len(splits))}
    clean = clean_cases(data, splits, folders)
    corrupted, kinds = corrupted_cases(data, splits, folders, out / "corrupted", given.seed)
    results = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "training": f"{given.steps} steps" if given.steps else f"{given.minutes:g} minutes",
        "cases": sum(len(one["val"]) for one in splits),
        "wall_minutes": round((time.monotonic() - began) / 60, 1),
        "clean": {name: figures(judged(own)) for name, own in with_mean(clean).items()},
        "corrupted": {
            name: figures(of_others(own, with_mean(corrupted)[name]))
            for name, own in with_mean(clean).items()
        },
        "shifts": shifts(clean, corrupted, kinds),
    }
    (out / "results.json").write_text(json.dumps(results, indent=1))
    print(block(results))


def chosen(data: Path, folder: Path, count: int) -> Path:
    """A folder of so many cases of `data`, evenly from all folds; files are linked, not copied."""
    splits = json.loads((data / "splits_final.json").read_text())
    names = {name for one in splits for name in sorted(one["val"])[: count // len(splits)]}
    listing = json.loads((data / "dataset.json").read_text())
    listing["training"] = [
        {what: str((data / path).resolve()) for what, path in one.items()}
        for one in listing["training"]
        if Path(one["image"]).name.removesuffix(".nii.gz") in names
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for what in ("imagesTr", "labelsTr"):
        (folder / what).mkdir(exist_ok=True)
        for name in names:
            link = folder / what / f"{name}.nii.gz"
            if not link.exists():
                link.symlink_to((data / what / link.name).resolve())
    for one in listing["training"]:
        one.update(
            {w: f"./{k}/{Path(one[w]).name}" for w, k in (("image", "imagesTr"), ("label", "labelsTr"))}
        )
    (folder / "dataset.json").write_text(json.dumps(listing))
    kept = [{k: [name for name in v if name in names] for k, v in one.items()} for one in splits]
    (folder / "splits_final.json").write_text(json.dumps(kept))
    return folder


def clean_cases(
    data: Path, splits: Sequence[Mapping[str, Any]], folders: Mapping[int, Path]
) -> dict[str, list[JudgedCase]]:
    """Class → the cases as they are, each by the fold that has not seen it."""
    evaluations = {}
    for fold, folder in folders.items():
        pairs = [
            Pair(n, folder / "predictions" / f"{n}.nii.gz", data / "labelsTr" / f"{n}.nii.gz")
            for n in splits[fold]["val"]
        ]
        evaluations[fold] = evaluate_pairs(pairs, labels_of(data))
    return judged_cases(folders, evaluations, {})


def corrupted_cases(
    data: Path, splits: Sequence[Mapping[str, Any]], folders: Mapping[int, Path], out: Path, seed: int
) -> tuple[dict[str, list[JudgedCase]], dict[str, str]]:
    """Class → the corrupted copies, each by the fold that has not seen the case; and case → what was done."""
    from medfuse.trained.loading import load_trained

    made: dict[str, list[JudgedCase]] = {}
    kinds: dict[str, str] = {}
    for fold, folder in folders.items():
        cases = []
        for name in splits[fold]["val"]:
            kinds[name] = corrupt_files(data, name, out, seed)
            cases.append(Case(name, (out / "images" / f"{name}.nii.gz",)))
        model = load_trained([folder / "weights_last.safetensors"], overrides=[s[6:] for s in SETTINGS])
        place = out / f"fold_{fold}"
        outcome = replace(model, calibration=None).infer(cases, place / "predictions", Reporter())
        if outcome.failed:
            raise SystemExit(f"{len(outcome.failed)} cases failed: {next(iter(outcome.failed.items()))}")
        pairs = [
            Pair(c.name, place / "predictions" / c.images[0].name, out / "labels" / c.images[0].name)
            for c in cases
        ]
        found = judged_cases({fold: place}, {fold: evaluate_pairs(pairs, labels_of(data))}, {})
        for name, own in found.items():
            made.setdefault(name, []).extend(own)
    return made, kinds


def labels_of(data: Path) -> dict[str, int]:
    said = json.loads((data / "dataset.json").read_text())["labels"]
    return {name: int(value) for value, name in said.items() if int(value) != 0}


def corrupt_files(data: Path, name: str, out: Path, seed: int) -> str:
    """Write the corrupted image and its label, unless they are there; what was done to it."""
    import nibabel as nib

    random = np.random.default_rng([seed, *name.encode()])
    kind, strength = KINDS[random.integers(len(KINDS))], float(random.uniform(0.1, 1.0))
    image, label = out / "images" / f"{name}.nii.gz", out / "labels" / f"{name}.nii.gz"
    if not (image.is_file() and label.is_file()):
        one, other = (nib.load(data / f"{what}Tr" / f"{name}.nii.gz") for what in ("images", "labels"))
        voxels = np.asarray(one.dataobj, np.float32)
        labels = np.asarray(other.dataobj, np.uint8)
        voxels, labels, affine = corrupted(voxels, labels, np.asarray(one.affine), kind, strength, random)
        for path, array in ((image, voxels), (label, labels)):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"part.{path.name}")
            nib.save(nib.Nifti1Image(array, affine), part)
            part.replace(path)
    return kind


def corrupted(
    voxels: Voxels, labels: Labels, affine: Affine, kind: str, strength: float, random: np.random.Generator
) -> tuple[Voxels, Labels, Affine]:
    """A scan as bad days make it; `strength` from 0 to 1."""
    if kind == "noise":
        return (
            (voxels + random.normal(0, 1.2 * strength * voxels.std(), voxels.shape)).astype(np.float32),
            labels,
            affine,
        )
    if kind == "crop":
        axis, first = int(random.integers(3)), bool(random.integers(2))
        cut = int(voxels.shape[axis] * 0.5 * strength)
        part = slice(cut, None) if first else slice(0, voxels.shape[axis] - cut)
        where = tuple(part if a == axis else slice(None) for a in range(3))
        return voxels[where], labels[where], affine
    if kind == "spacing":
        factor = (1 + strength) ** (1 if random.integers(2) else -1)
        return voxels, labels, affine @ np.diag([factor, factor, factor, 1.0])
    return moved(voxels, strength, random), labels, affine


def moved(voxels: Voxels, strength: float, random: np.random.Generator) -> Voxels:
    """As if the head had moved a few times: lines of k-space are of shifted heads."""
    lines = np.fft.fftn(voxels)
    axis = int(random.integers(3))
    n = voxels.shape[axis]
    frequencies = np.meshgrid(*(np.fft.fftfreq(size) for size in voxels.shape), indexing="ij")
    order = np.fft.ifftshift(np.arange(n))
    for _ in range(3):
        shift = random.normal(0, 4 * strength, 3)
        phase = np.exp(-2j * np.pi * sum(f * s for f, s in zip(frequencies, shift)))
        begin = int(random.integers(n))
        chosen_lines = order[begin : begin + max(1, int(n * 0.35 * strength))]
        where = tuple(chosen_lines if a == axis else slice(None) for a in range(3))
        lines[where] = (lines * phase)[where]
    return np.abs(np.fft.ifftn(lines)).astype(np.float32)


def with_mean(cases: Mapping[str, Sequence[JudgedCase]]) -> dict[str, list[JudgedCase]]:
    """Each class by itself, and the mean over all of them for the cases in which each was found."""
    by_case = {name: {case.name: case for case in own} for name, own in cases.items()}
    everywhere = set.intersection(*(set(own) for own in by_case.values()))
    return {
        **{name: [*own] for name, own in cases.items()},
        "mean": [_mean([own[name] for own in by_case.values()]) for name in sorted(everywhere)],
    }


def _mean(classes: Sequence[JudgedCase]) -> JudgedCase:
    first = classes[0]
    scores: dict[str, float | None] = {}
    for name in first.scores:
        values = [case.scores.get(name) for case in classes]
        known = [abs(value) if name == "volume" else value for value in values if value is not None]
        scores[name] = float(np.mean(known)) if len(known) == len(values) else None
    return replace(first, scores=scores, dice=float(np.mean([case.dice for case in classes])))


def of_others(clean: Sequence[JudgedCase], corrupted: Sequence[JudgedCase]) -> Honesty:
    """What clean cases of other folds say of corrupted ones: no bound where these are of another kind, and
    the order of quality.csv, in which those that should be looked at come before all others."""
    order, lower = np.full(len(corrupted), np.nan), np.full(len(corrupted), np.nan)
    for part in {case.part for case in corrupted}:
        made = calibrated([case for case in clean if case.part != part])
        assert made is not None, "there are enough cases"
        judge = Judge(calibration={"it": made}, grain=grain_of_others(clean, part))
        for n, case in enumerate(corrupted):
            if case.part == part:
                said = judge.of_case({"it": dict(case.scores)}, dict(case.scores))["it"]
                assert said.expected is not None, "what is nowhere is left out before"
                order[n] = said.expected - said.look  # as quality.csv lists them
                lower[n] = np.nan if said.lower is None else said.lower
    return told(corrupted, order, lower)


def grain_of_others(clean: Sequence[JudgedCase], part: str) -> UsualNumbers | None:
    """What is usual of the images of clean cases of other folds."""
    return grain_among({"it": [case for case in clean if case.part != part]})


def figures(one: Honesty | None) -> dict[str, Any]:
    if one is None:
        return {}
    found = asdict(one)
    del found["curve"]
    return found


def shifts(
    clean: Mapping[str, Sequence[JudgedCase]],
    corrupted: Mapping[str, Sequence[JudgedCase]],
    kinds: Mapping[str, str],
) -> dict[str, Any]:
    """How many are said to be of another kind than those of training, and the mean Dice by what was done."""
    from medfuse.quality.judge import rough_of, shifts_of

    (name, first), *_ = corrupted.items()
    grains = {part: grain_of_others(clean[name], part) for part in {case.part for case in first}}

    def said(cases: Sequence[JudgedCase]) -> int:
        return sum(bool(shifts_of(case.scores) or rough_of(case.scores, grains[case.part])) for case in cases)

    by_kind = {}
    for kind in KINDS:
        own = [case for case in first if kinds[case.name] == kind]
        if own:
            by_kind[kind] = {
                "cases": len(own),
                "dice": float(np.mean([case.dice for case in own])),
                "said": said(own),
            }
    return {"clean": {"cases": len(clean[name]), "said": said(clean[name])}, **by_kind}


def block(results: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"- {results['date']}, {results['processor']}; {results['cases']} cases, "
        f"{results['training']} of training a fold, "
        f"{results['wall_minutes']:g} minutes in all",
        f"- settings of inference: {', '.join(SETTINGS)}",
        "",
        "| cases | class | area, expected | area, entropy | area, volume | less entropy | less volume | "
        f"at the {LEVEL:.0%} bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what in ("clean", "corrupted"):
        for name, one in results[what].items():
            if not one:
                continue
            areas = " | ".join(_interval(one["areas"][key]) for key in (OURS, *BASELINES))
            ahead = " | ".join(_interval(one["ahead"][key]) for key in BASELINES)
            covered = "no bound" if one["covered"] is None else f"{one['covered']:.1%} of {one['bounded']}"
            lines.append(f"| {what} ({one['cases']}) | {name} | {areas} | {ahead} | {covered} |")
    lines += ["", "| what was done | cases | mean Dice | said to be of another kind |", "|---|---|---|---|"]
    for kind, one in results["shifts"].items():
        dice = f"{one['dice']:.3f}" if "dice" in one else ""
        lines.append(f"| {kind} | {one['cases']} | {dice} | {one['said']} |")
    return "\n".join(lines)


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f})"


if __name__ == "__main__":
    main()
