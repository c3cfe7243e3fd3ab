"""Peak memory of `medfuse infer` above the loaded model: many classes, a large CT, a cheap network.

    python benchmarks/memory.py [--classes 118] [--shape 512 512 824] [--coarse 341 341 540] [--window 96]
                                [--max-memory 2.5GiB] [--times 1 2]

The scan is written as `.nii.gz` and read, resampled, predicted, resampled back and written as any other; only
the network is small, as its speed is not what is measured, and leans to class 0, so that most voxels are
background as in a scan. `--times 1 2` does it again at twice the length. Linux only. The result is a block of
Markdown for docs/benchmarks.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from random_unet import random_unet
from side_by_side import forget_peak, heading, peak_rss

from medfuse import Predictor

SPACING_MM = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--classes", type=int, default=118)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 824])
    parser.add_argument("--coarse", type=int, nargs=3, default=[341, 341, 540])
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--max-memory", default=None)
    parser.add_argument("--times", type=int, nargs="+", default=[1])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.max_memory)
        return
    import torch

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_unet(
            folder / "unet.safetensors",
            levels=2,
            channels=8,
            background=2.0,
            window=given.window,
            classes=given.classes,
            spacing_mm=SPACING_MM,
        )
        for times in given.times:
            shape = (*given.shape[:2], given.shape[2] * times)
            write_scan(folder / "scan.nii.gz", shape, (*given.coarse[:2], given.coarse[2] * times))
            command = [sys.executable, __file__, "--measure", name]
            command += ["--max-memory", given.max_memory] if given.max_memory else []
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append((shape, json.loads(said.splitlines()[-1])))
    print(heading(rounds=1, threads=torch.get_num_threads()) + "\n")
    print("| scan | classes | peak above the loaded model, GiB | minutes |\n|---|---|---|---|")
    for shape, answer in rows:
        size = "×".join(map(str, shape))
        print(f"| {size} | {given.classes} | {answer['peak'] / 2**30:.2f} | {answer['seconds'] / 60:.1f} |")


def measure(folder: Path, limit: str | None) -> None:
    """In a process of its own: loads the model, infers the scan, says how much more memory that took."""
    predictor = Predictor.load(folder / "unet.safetensors", device="cpu")
    forget_peak()
    before, began = peak_rss(), time.perf_counter()
    outcome = predictor.files([folder / "scan.nii.gz"], folder / "out", max_memory=limit)
    assert not outcome.failed, outcome.failed
    print(json.dumps({"peak": peak_rss() - before, "seconds": time.perf_counter() - began}))


def write_scan(path: Path, shape: tuple[int, int, int], coarse: tuple[int, int, int]) -> None:
    """Soft blobs in Hounsfield units, with spacings that make a grid of `coarse` of it.

    Smooth, as random weights would turn noise into labels that change from voxel to voxel.
    """
    random = np.random.default_rng(0)
    blobs = random.normal(size=[n // 64 + 2 for n in shape]) * 400
    x, y, z = (
        np.stack([np.interp(np.linspace(0, n - 1, size), range(n), row) for row in np.eye(n)], 1)
        for n, size in zip(blobs.shape, shape)
    )  # (size, n) each: linear interpolation
    voxels = np.empty(shape, np.int16)
    for k, row in enumerate(z):
        voxels[..., k] = x @ (blobs @ row) @ y.T
    spacing = [c * SPACING_MM / n for c, n in zip(coarse, shape)]
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)


if __name__ == "__main__":
    main()
