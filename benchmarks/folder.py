"""A folder of CTs, `.nii.gz` to `.nii.gz`: how much of the wall time is the network's?

    python benchmarks/folder.py [--cases 20] [--shape 160 160 96] [--levels 4] [--window 64] [--classes 3]

The scans are soft blobs at 1 mm, the network a random U-Net for 1.5 mm. The result is a block of Markdown for
docs/benchmarks.md.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from memory import SPACING_MM, write_scan
from random_unet import random_unet
from side_by_side import chosen_runtime, heading

from medfuse import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 160, 96])
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--classes", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, scans = Path(name), Path(name) / "scans"
        model = random_unet(
            folder / "unet.safetensors",
            levels=given.levels,
            window=given.window,
            classes=given.classes,
            spacing_mm=SPACING_MM,
        )
        scans.mkdir()
        x, y, z = given.shape
        coarse = round(x / SPACING_MM), round(y / SPACING_MM), round(z / SPACING_MM)
        for number in range(given.cases):
            write_scan(scans / f"ct_{number:02d}.nii.gz", (x, y, z), coarse)
        said, predictor = chosen_runtime(), Predictor.load(model)
        predictor.files([scans / "ct_00.nii.gz"], folder / "warm")  # the runtime is chosen once per model
        began = time.perf_counter()
        outcome = predictor.files([scans], folder / "out")
        wall = time.perf_counter() - began
        assert not outcome.failed, outcome.failed
        cases = json.loads((folder / "out" / "manifest.json").read_text())["cases"].values()
        network = sum(case["seconds_in"]["network"] for case in cases)
    print(heading(rounds=1, threads=torch.get_num_threads()))
    print(
        f"- {given.cases} scans of {x}×{y}×{z}: {wall:.1f} s of wall time, {network:.1f} s of it in the "
        f"network ({said[-1]}): {wall / network:.3f} times"
    )


if __name__ == "__main__":
    main()
