"""Writes the datasets on which `medfuse init` is measured: nobody tuned a plan for them.

    python benchmarks/plan_sets.py OUT [--set NAME …] [--source path/to/Task04_Hippocampus] [--seed 1]

Each becomes a folder of OUT in the Medical Segmentation Decathlon's layout, with a splits_final.json:

    hearts             short-axis MR: thick stacks, fields of view that differ by a factor of two, and things
                       that are hearts in all but their place
    hearts_lost        the same, of which the files say 1 × 1 × 1 mm
    hippocampus_5mm    the hippocampus in slices of 5 mm
    hippocampus_8mm    … of 8 mm
    hippocampus_fov    … at random places of larger fields of view, among things of the same grey
    organs             CT phantoms: thick slices, organs told apart by where they are, tumours of ten voxels

Those of the hippocampus are made from --source, the Decathlon's Task04. The same seed makes the same voxels.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hearts
import nibabel
import numpy as np
import numpy.typing as npt
from scipy.ndimage import zoom

Volume = npt.NDArray[Any]
FOLDS = 5
BESIDE = Path("data/hippocampus")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--set", dest="sets", nargs="+", choices=list(SETS), default=list(SETS), metavar="NAME"
    )
    parser.add_argument(
        "--source", type=Path, default=BESIDE, help=f"Task04_Hippocampus; {BESIDE} if not given"
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in given.sets:
        if (given.out / name / "splits_final.json").exists():
            parser.error(f"{given.out / name}: is there already; remove it to make it anew")
        if name.startswith("hippocampus") and not (given.source / "dataset.json").is_file():
            parser.error(f"{given.source}: no dataset.json of the hippocampus; name its folder by --source")
    for name in given.sets:
        SETS[name](given.out / name, given)
        print(given.out / name, flush=True)


# ---- hearts


def write_hearts(folder: Path, *, patients: int, seed: int, lost: bool) -> None:
    """Two frames of each patient, who trains or judges as a whole. `lost`: the files tell no spacing."""
    names = [f"patient_{patient:03d}" for patient in range(1, patients + 1)]
    for number, name in enumerate(names):
        for phase, image, label, scanner in hearts.frames(seed, number):
            affine = hearts.affine(scanner, lost=lost)
            save(folder, f"{name}_{phase}", image, label, affine)
    cases = {name: [f"{name}_{phase}" for phase in hearts.PHASES] for name in names}
    labels = {str(value): name for name, value in hearts.LABELS.items()}
    describe(folder, [case for of in cases.values() for case in of], {"0": "MRI"}, labels)
    write_splits(folder, [cases[names[i]] for i in np.random.default_rng(seed).permutation(patients)])


# ---- the hippocampus


def write_thick(folder: Path, source: Path, *, slices: int, only: int | None = None) -> None:
    """Stacks of slices that average `slices` voxels along z; a label is that of most of them."""
    for name, image, label in read_cases(source, only):
        blocks = np.ascontiguousarray(image.dataobj, np.float32), np.asarray(label.dataobj)
        begin, averaged, most = thick(*blocks, slices)
        affine = image.affine @ np.diag([1.0, 1, slices, 1])
        affine[:3, 3] = image.affine[:3] @ [0, 0, begin + (slices - 1) / 2, 1]
        save(folder, name, averaged, most, affine)
    copy_description(folder, source, only)


def thick(image: Volume, label: Volume, slices: int) -> tuple[int, Volume, Volume]:
    """Where the voxels along z begin that are used, their means in blocks, and what most of each is."""
    blocks = max(1, image.shape[2] // slices)
    begin = max(0, image.shape[2] - blocks * slices) // 2
    end = begin + blocks * slices
    parts = [a[:, :, begin:end].reshape(*a.shape[:2], blocks, -1) for a in (image, label)]
    counts = [(parts[1] == value).sum(-1) for value in range(int(label.max()) + 1)]
    return begin, parts[0].mean(-1), np.argmax(counts, axis=0).astype(np.uint8)


def write_in_field(folder: Path, source: Path, *, seed: int, only: int | None = None) -> None:
    """Each case at a random place of 64 to 112 voxels a side, among blobs of the hippocampus' own grey."""
    for number, (name, image, label) in enumerate(read_cases(source, only)):
        rng = np.random.default_rng([seed, number])
        voxels, classes = np.asarray(image.dataobj, np.float32), np.asarray(label.dataobj)
        sides = np.maximum(rng.integers(64, 113, 3), np.array(voxels.shape) + 8)
        corner = np.array([rng.integers(0, n - m + 1) for n, m in zip(sides, voxels.shape)])
        placed = in_field(voxels, classes, sides, corner, rng)
        wide = np.zeros(sides, np.uint8)
        wide[tuple(slice(at, at + n) for at, n in zip(corner, classes.shape))] = classes
        affine = image.affine.copy()
        affine[:3, 3] = image.affine[:3] @ [*(-corner), 1]
        save(folder, name, placed, wide, affine)
    copy_description(folder, source, only)


def in_field(
    image: Volume, label: Volume, sides: Volume, corner: Volume, rng: np.random.Generator
) -> npt.NDArray[np.int16]:
    """`image` with soft borders in a textured field with decoys; 500 is about its 99.5th percentile."""
    image = image * (500 / max(float(np.percentile(image, 99.5)), 1e-6))
    inside = image[label > 0] if label.any() else image
    mean, spread = float(inside.mean()), float(inside.std())
    coarse = rng.standard_normal([-(-int(n) // 5) + 1 for n in sides], np.float32)
    texture = zoom(coarse, 5, order=1)[tuple(slice(0, int(n)) for n in sides)]
    field = np.float32(image.mean()) + np.float32(1.3 * image.std()) * texture
    for _ in range(int(rng.integers(6, 14))):
        paint_decoy(field, mean + rng.normal(0, 0.3 * spread), rng)
    field += np.float32(0.4 * spread) * rng.standard_normal(field.shape, np.float32)
    where = tuple(slice(at, at + n) for at, n in zip(corner, image.shape))
    alpha = np.ones(image.shape, np.float32)
    for axis, n in enumerate(image.shape):
        edge = np.minimum(np.arange(n), np.arange(n)[::-1])
        ramp = np.clip((edge + 1) / 4, 0, 1).astype(np.float32)
        alpha *= ramp.reshape([-1 if a == axis else 1 for a in range(3)])
    field[where] += alpha * (image - field[where])
    return np.clip(np.round(field), 0, 2000).astype(np.int16)


def paint_decoy(field: npt.NDArray[np.float32], value: float, rng: np.random.Generator) -> None:
    """A turned ellipsoid about as large as a hippocampus, with soft edges."""
    radii = np.array([rng.uniform(4, 8), rng.uniform(8, 18), rng.uniform(4, 8)])[rng.permutation(3)]
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    centre = np.array([rng.uniform(0, n) for n in field.shape])
    reach = int(radii.max()) + 3
    where = tuple(slice(max(0, int(c) - reach), int(c) + reach) for c in centre)
    axes = [
        np.arange(*part.indices(n), dtype=np.float32) - c for part, n, c in zip(where, field.shape, centre)
    ]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ turn.astype(np.float32)
    level = np.sqrt(((offsets / radii.astype(np.float32)) ** 2).sum(-1))
    alpha = np.clip((1 - level) * np.float32(radii.mean() / 2) + np.float32(0.5), 0, 1)
    field[where] += alpha * (np.float32(value) - field[where])


def read_cases(
    source: Path, only: int | None
) -> Iterable[tuple[str, nibabel.Nifti1Image, nibabel.Nifti1Image]]:
    for name in case_names(source, only):
        yield name, *(nibabel.load(source / folder / f"{name}.nii.gz") for folder in ("imagesTr", "labelsTr"))


def case_names(source: Path, only: int | None = None) -> list[str]:
    """Of a Decathlon dataset: the first `only`, or all."""
    listed = json.loads((source / "dataset.json").read_text())["training"]
    return [Path(case["image"]).name.removesuffix(".nii.gz") for case in listed][:only]


def copy_description(folder: Path, source: Path, only: int | None) -> None:
    """Labels, channels and folds of the dataset that these cases are made from."""
    task, names = json.loads((source / "dataset.json").read_text()), case_names(source, only)
    describe(folder, names, task["modality"], task["labels"], licence=task.get("licence", ""))
    folds = json.loads((source / "splits_final.json").read_text())
    kept = [{side: [n for n in fold[side] if n in names] for side in ("train", "val")} for fold in folds]
    (folder / "splits_final.json").write_text(json.dumps(kept, indent=1) + "\n")


# ---- CT phantoms


def write_organs(folder: Path, *, cases: int, seed: int) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "sample_data"))
    from make_phantoms import ORGANS, make_dataset

    make_dataset(folder, cases=cases, test_cases=0, seed=seed, recipe=ORGANS)


# ---- files


def save(folder: Path, name: str, image: Volume, label: Volume, affine: Volume) -> None:
    """Compressed NIfTI without a time stamp, so that the same voxels give the same bytes."""
    for part, voxels in (("imagesTr", image), ("labelsTr", label)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        file = nibabel.Nifti1Image(voxels, affine)
        file.header.set_xyzt_units("mm")
        with (
            open(folder / part / f"{name}.nii.gz", "wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        ):
            packed.write(file.to_bytes())


def describe(
    folder: Path, names: Sequence[str], channels: dict[str, str], labels: dict[str, str], licence: str = ""
) -> None:
    """dataset.json, the Decathlon's."""
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    facts = {
        "name": folder.name,
        "description": "made by benchmarks/plan_sets.py",
        "licence": licence or "Apache-2.0",
        "tensorImageSize": "3D",
        "modality": channels,
        "labels": labels,
        "numTraining": len(names),
        "numTest": 0,
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n")


def write_splits(folder: Path, groups: Sequence[Sequence[str]]) -> None:
    """Folds that keep the cases of a group together."""
    everyone = {name for group in groups for name in group}
    parts = [range(len(groups))[k::FOLDS] for k in range(min(FOLDS, len(groups)))]
    held = [sorted(name for i in part for name in groups[i]) for part in parts]
    folds = [{"train": sorted(everyone - set(out)), "val": out} for out in held]
    (folder / "splits_final.json").write_text(json.dumps(folds, indent=1) + "\n")


def _hearts(folder: Path, given: argparse.Namespace, *, lost: bool) -> None:
    write_hearts(folder, patients=96, seed=given.seed, lost=lost)


def _thick(folder: Path, given: argparse.Namespace, *, slices: int) -> None:
    write_thick(folder, given.source, slices=slices)


def _in_field(folder: Path, given: argparse.Namespace) -> None:
    write_in_field(folder, given.source, seed=given.seed)


def _organs(folder: Path, given: argparse.Namespace) -> None:
    write_organs(folder, cases=40, seed=given.seed)


SETS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "hearts": partial(_hearts, lost=False),
    "hearts_lost": partial(_hearts, lost=True),
    "hippocampus_5mm": partial(_thick, slices=5),
    "hippocampus_8mm": partial(_thick, slices=8),
    "hippocampus_fov": _in_field,
    "organs": _organs,
}


if __name__ == "__main__":
    main()
