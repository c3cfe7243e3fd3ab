"""Plants faults into sound datasets, and counts those that `medfuse doctor` finds, and what it finds besides.

    python benchmarks/doctor.py hippocampus phantoms organs channels
    python benchmarks/doctor.py phantoms --kinds shift flip --each 10

A dataset is a folder that `medfuse init` knows, or phantoms that are made: `phantoms` and `organs` of
sample_data/make_phantoms.py, and `channels`, the first as three channels of made-up MR. A tenth of the cases
at most is at fault at a time; the thresholds of the doctor know nothing of what is planted here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.ndimage import affine_transform

from medfuse.api import Case, DatasetInfo
from medfuse.data.detect import detect
from medfuse.data.doctor.doctor import diagnose, examine_all
from medfuse.data.doctor.exam import Exam
from medfuse.data.settings import PreprocessSettings

Array = npt.NDArray[Any]
Random = np.random.Generator


@dataclass(frozen=True)
class Files:
    """A case in memory, in the order of its files: images, label, and their affines."""

    images: tuple[Array, ...]
    label: Array
    affine: npt.NDArray[np.float64]
    label_affine: npt.NDArray[np.float64]

    @classmethod
    def of(cls, case: Case) -> Files:
        images, label = [nib.load(path) for path in case.images], nib.load(case.label)
        return cls(
            tuple(np.asarray(image.dataobj) for image in images),
            np.asarray(label.dataobj),
            images[0].affine,
            label.affine,
        )

    def write(self, folder: Path, case: Case) -> Case:
        paths = []
        for number, image in enumerate(self.images):
            paths.append(folder / f"{case.name}_{number}.nii")
            nib.save(nib.Nifti1Image(np.asarray(image, _dtype(image)), self.affine), paths[-1])
        label = folder / f"{case.name}_label.nii"
        nib.save(nib.Nifti1Image(np.asarray(self.label, np.int16), self.label_affine), label)
        return replace(case, images=tuple(paths), label=label)


def _dtype(image: Array) -> np.dtype:
    return np.dtype(np.float32 if image.dtype.kind == "f" or image.dtype.itemsize > 4 else image.dtype)


def _extent(label: Array, axis: int) -> tuple[int, int]:
    there = np.flatnonzero(label.any(axis=tuple(a for a in range(3) if a != axis)))
    return int(there[0]), int(there[-1]) + 1


def _moved(label: Array, axis: int, voxels: int) -> Array:
    moved = np.zeros_like(label)
    source, target = [slice(None)] * 3, [slice(None)] * 3
    n = label.shape[axis]
    source[axis] = slice(max(0, -voxels), n - max(0, voxels))
    target[axis] = slice(max(0, voxels), n + min(0, voxels))
    moved[tuple(target)] = label[tuple(source)]
    return moved


def shift(files: Files, others: Sequence[Files], random: Random) -> Files:
    """Of the label, by an eighth to a third of its length along an axis, three voxels at least."""
    axis = int(random.integers(3))
    low, high = _extent(files.label, axis)
    voxels = max(3, round((high - low) * random.uniform(0.12, 0.35)))
    return replace(files, label=_moved(files.label, axis, voxels * int(random.choice([-1, 1]))))


def flip(files: Files, others: Sequence[Files], random: Random) -> Files:
    """Of the label alone."""
    return replace(files, label=np.flip(files.label, int(random.integers(3))))


def scale(files: Files, others: Sequence[Files], random: Random) -> Files:
    """Of the label about its middle, as after resampling by a wrong spacing."""
    by = float(random.choice([random.uniform(0.6, 0.75), random.uniform(1.35, 1.6)]))
    middle = np.array([np.mean(_extent(files.label, axis)) - 0.5 for axis in range(3)])
    label = affine_transform(files.label, np.eye(3) / by, middle - middle / by, order=0)
    return replace(files, label=label)


def orientation(files: Files, others: Sequence[Files], random: Random) -> Files:
    """Voxels of image and label turned round, and neither header."""
    axis = int(random.integers(3))
    images = tuple(np.flip(image, axis) for image in files.images)
    return replace(files, images=images, label=np.flip(files.label, axis))


def permuted(files: Files, others: Sequence[Files], random: Random) -> Files:
    values = [v for v in np.unique(files.label) if v]
    if len(values) < 2:
        raise Impossible
    one, other = random.choice(values, 2, replace=False)
    label = files.label.copy()
    label[files.label == one], label[files.label == other] = other, one
    return replace(files, label=label)


def cut(files: Files, others: Sequence[Files], random: Random) -> Files:
    """Nothing is labelled beyond a plane through the middle third of the label."""
    axis = int(random.integers(3))
    low, high = _extent(files.label, axis)
    at = round(low + (high - low) * random.uniform(0.35, 0.65))
    return _without(files, axis, slice(at, None) if random.random() < 0.5 else slice(None, at))


def gap(files: Files, others: Sequence[Files], random: Random) -> Files:
    """One to three slices in the middle of the label are not labelled."""
    axis = int(random.integers(3))
    low, high = _extent(files.label, axis)
    at = round(low + (high - low) * random.uniform(0.4, 0.6))
    return _without(files, axis, slice(at, at + int(random.integers(1, 4))))


def _without(files: Files, axis: int, slices: slice) -> Files:
    """Nothing is labelled in those slices."""
    label, where = files.label.copy(), [slice(None)] * 3
    where[axis] = slices
    label[tuple(where)] = 0
    return replace(files, label=label)


def copy(files: Files, others: Sequence[Files], random: Random) -> Files:
    """Another case, in another unit, type and order of axes."""
    other = others[int(random.integers(len(others)))]
    turn = ornt_transform(
        axcodes2ornt(nib.aff2axcodes(other.affine)), axcodes2ornt(random.choice(["RAS", "LPS", "PSR", "ASL"]))
    )
    gain, offset = random.uniform(0.5, 2), random.uniform(0, 20)
    images = tuple(
        np.asarray(nib.apply_orientation(image, turn) * gain + offset, np.float32) for image in other.images
    )
    affine = other.affine @ inv_ornt_aff(turn, other.label.shape)
    return Files(images, nib.apply_orientation(other.label, turn), affine, affine)


def not_hu(files: Files, others: Sequence[Files], random: Random) -> Files:
    hu = np.asarray(files.images[0], np.float64)
    if hu.min() > -500:
        raise Impossible
    way = int(random.integers(4))
    made = [
        lambda: hu + 1024,
        lambda: (np.clip(hu, -1024, 1500) + 1024) / 2524,
        lambda: np.clip((hu + 160) / 400, 0, 1) * 255,
        lambda: np.where(hu < 0, hu + 65536, hu),
    ][way]()
    return replace(files, images=(np.asarray(made, np.float32), *files.images[1:]))


def spacing(files: Files, others: Sequence[Files], random: Random) -> Files:
    """1 mm, as where nobody says it; where it is that in truth, a factor of two to four along an axis."""
    mm = np.linalg.norm(files.affine[:3, :3], axis=0)
    new = np.ones(3)
    if np.allclose(mm, 1, rtol=0.25):
        new[int(random.integers(3))] = random.uniform(2, 4)
    affine = files.affine.copy()
    affine[:3, :3] = affine[:3, :3] / mm * new
    return replace(files, affine=affine, label_affine=affine)


def grid(files: Files, others: Sequence[Files], random: Random) -> Files:
    affine, label = files.label_affine.copy(), files.label
    if random.random() < 0.5:
        affine[:3, 3] += random.uniform(2, 9, 3)
    else:
        label = label[:-1, :, 1:]
    return replace(files, label=label, label_affine=affine)


def empty(files: Files, others: Sequence[Files], random: Random) -> Files:
    return replace(files, label=np.zeros_like(files.label))


def channels(files: Files, others: Sequence[Files], random: Random) -> Files:
    n = len(files.images)
    if n < 2:
        raise Impossible
    order = np.arange(n)
    while (order == np.arange(n)).all():
        order = random.permutation(n)
    return replace(files, images=tuple(files.images[i] for i in order))


def inverted(files: Files, others: Sequence[Files], random: Random) -> Files:
    """As MONOCHROME1 that was not turned over."""
    images = (np.asarray(image, np.float64) for image in files.images)
    return replace(files, images=tuple(image.max() + image.min() - image for image in images))


def modality(files: Files, others: Sequence[Files], random: Random) -> Files:
    """Other tissue is bright, by one of three curves that rise and fall."""
    curves = ([0.0, 1.0, 0.7, 0.3, 0.1], [0.3, 1.0, 0.1, 0.8, 0.2], [0.6, 0.1, 0.9, 0.2, 0.5])
    heights = curves[int(random.integers(3))]
    made = []
    for image in files.images:
        low, high = np.percentile(image, (1, 99))
        position = np.clip((np.asarray(image, np.float64) - low) / max(high - low, 1e-9), 0, 1)
        made.append(
            800 * np.interp(position, np.linspace(0, 1, 5), heights) + random.normal(0, 8, image.shape)
        )
    return replace(files, images=tuple(made))


def unfit(files: Files, others: Sequence[Files], random: Random) -> Files:
    """The label of another case, cropped or filled up."""
    other = others[int(random.integers(len(others)))].label
    label = np.zeros_like(files.label)
    cut = tuple(slice(0, min(a, b)) for a, b in zip(label.shape, other.shape))
    label[cut] = other[cut]
    return replace(files, label=label)


def value(files: Files, others: Sequence[Files], random: Random) -> Files:
    label = files.label.copy()
    label[label == random.choice([v for v in np.unique(label) if v])] = 77
    return replace(files, label=label)


class Impossible(Exception):
    """A fault that a case cannot have."""


KINDS: dict[Callable[[Files, Sequence[Files], Random], Files], set[str]] = {
    shift: {"shift"},
    flip: {"flip"},
    scale: {"scale"},
    orientation: {"orientation"},
    permuted: {"permuted", "left_right"},
    cut: {"cut", "missing"},
    gap: {"gap"},
    copy: {"copy"},
    not_hu: {"not_hu"},
    spacing: {"spacing"},
    grid: {"grid"},
    empty: {"empty"},
    channels: {"channels"},
    inverted: {"inverted", "not_hu"},
    modality: {"modality", "inverted", "not_hu", "unfit"},
    value: {"value"},
    unfit: {"unfit", "shift", "flip", "scale"},
}
"""How a fault is planted, and by which words the doctor tells of it. Of another patient's label whatever is
said of how it lies is right; where all anatomies are alike, much of it cannot be told."""


@dataclass
class Counts:
    planted: int = 0
    named: int = 0
    told: int = 0
    alarms: int = 0
    sound: int = 0


def plant(
    exams: Sequence[Exam], info: DatasetInfo, fault: Callable, each: int, seed: int, verbose: bool
) -> Counts:
    """Rounds with faults in a tenth of the cases, until so many are planted."""
    random, counts = np.random.default_rng(seed), Counts()
    before = alarms(exams, info)
    at_once = max(1, min(each, len(exams) // 10))
    for _ in range(100):
        chosen = random.permutation(len(exams))[: min(at_once, each - counts.planted)]
        with tempfile.TemporaryDirectory() as folder:
            cases = []
            for n in chosen:
                rest = [i for i in random.permutation(len(exams))[:4] if i not in chosen]
                others = [Files.of(exams[i].case) for i in rest] or [Files.of(exams[n - 1].case)]
                try:
                    cases.append(
                        (n, fault(Files.of(exams[n].case), others, random).write(Path(folder), exams[n].case))
                    )
                except Impossible:
                    continue
            if not cases:
                return counts
            mixed = list(exams)
            for (n, _), exam in zip(cases, examined([case for _, case in cases], info)):
                mixed[n] = exam
            found = diagnose(mixed, info).findings
        planted = {exams[n].name for n, _ in cases}
        for name in planted:
            kinds = {
                f.kind
                for f in found
                if f.case == name or (f.kind == "copy" and f"image of {name} " in f.what)
            }
            counts.planted += 1
            counts.named += bool(kinds & KINDS[fault])
            counts.told += bool(kinds)
            if verbose and not kinds & KINDS[fault]:
                print(f"  {fault.__name__} {name}: {kinds or 'nothing'}", flush=True)
        copied = {f.case for f in found if f.kind == "copy"}
        counts.alarms += len({f.case for f in found} - planted - before - copied)
        counts.sound += len(exams) - len(planted)
        if counts.planted >= each:
            break
    return counts


def alarms(exams: Sequence[Exam], info: DatasetInfo) -> set[str]:
    return {finding.case for finding in diagnose(exams, info).findings}


def examined(cases: Sequence[Case], info: DatasetInfo) -> list[Exam]:
    return examine_all(cases, info, tolerance_mm=PreprocessSettings().tolerance_mm, progress=lambda *_: None)


def made(name: str, folder: Path, cases: int, seed: int) -> Path:
    """Phantoms of a kind, as a dataset in `folder`."""
    script = Path(__file__).parents[1] / "sample_data/make_phantoms.py"
    root = folder / name
    more = ["--organs"] if name == "organs" else []
    words = [
        sys.executable,
        script,
        "--out",
        root,
        "--cases",
        cases,
        "--test-cases",
        0,
        "--seed",
        seed,
        *more,
    ]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    if name == "channels":
        in_channels(root)
    return root


def in_channels(root: Path) -> None:
    """Each image as three files of made-up MR: images/CASE_0000.nii, …; a table lists them."""
    random = np.random.default_rng(3)
    curves = ([0, 0.9, 0.4, 0.6, 0.1], [0, 0.3, 0.9, 0.5, 0.2], [0, 0.1, 0.3, 0.9, 0.5])
    lines = ["case,channel_0,channel_1,channel_2,label"]
    for path in sorted((root / "imagesTr").glob("*.nii.gz")):
        name, image = path.name.removesuffix(".nii.gz"), nib.load(path)
        hu, files = np.asarray(image.dataobj), []
        for number, curve in enumerate(curves):
            voxels = np.interp(hu, [-900, -100, 40, 110, 500], curve) * random.uniform(300, 900)
            voxels += random.normal(0, 12, voxels.shape)
            files.append(f"imagesTr/{name}_{number}.nii")
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), image.affine), root / files[-1])
        path.unlink()
        lines.append(",".join([name, *files, f"labelsTr/{path.name}"]))
    (root / "dataset.json").unlink()
    (root / "cases.csv").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plants faults and counts how many are found.")
    parser.add_argument("data", nargs="+", help="folders, or phantoms, organs, channels")
    parser.add_argument("--kinds", nargs="+", default=[fault.__name__ for fault in KINDS])
    parser.add_argument("--each", type=int, default=20, help="faults of a kind in each dataset")
    parser.add_argument("--cases", type=int, default=60, help="phantoms that are made of each kind")
    parser.add_argument("--seed", type=int, default=1, help="of phantoms and of what is planted")
    parser.add_argument("--verbose", action="store_true", help="name what was not found")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in given.data:
            known = name in ("phantoms", "organs", "channels")
            root = made(name, Path(folder), given.cases, 6 + given.seed) if known else Path(name)
            table(root, given.kinds, given.each, given.seed, given.verbose)


def table(root: Path, kinds: Sequence[str], each: int, seed: int, verbose: bool) -> None:
    info = detect(root).info
    cases = [case for case in info.cases if case.label]
    began = time.perf_counter()
    exams = examined(cases, info)
    seconds = time.perf_counter() - began
    found = diagnose(exams, info).findings
    took = f"{seconds:.1f} s to read, {time.perf_counter() - began - seconds:.1f} s to judge"
    print(f"{root.name}: {len(cases)} cases, {took}; found in it as it is: {len({f.case for f in found})}")
    for finding in found:
        print(f"  {finding.line}")
    print(f"{'planted':14}{'cases':>7}{'named':>7}{'told':>7}{'false alarms':>15}")
    for fault in (fault for fault in KINDS if fault.__name__ in kinds):
        c = plant(exams, info, fault, each, seed, verbose)
        if c.planted:
            rate = f"{c.alarms} of {c.sound}"
            print(f"{fault.__name__:14}{c.planted:7}{c.named:7}{c.told:7}{rate:>15}", flush=True)


if __name__ == "__main__":
    main()
