"""Compares the export of logits to a label map on the input's grid with nnU-Net's own, in seconds.

    python benchmarks/export.py [--classes 61] [--coarse 171 171 270] [--fine 512 512 405]
        [--nnunet-python PATH] [--nnunet-classes N] [--rounds 3]

PATH is the Python of an environment that has nnunetv2; without it only medfuse is measured. nnU-Net holds
every class at full size; where memory is short, --nnunet-classes measures it on the first N and says by how
much the result was multiplied, as its time is that of one class after the other. Logits are synthetic: a few
smooth blobs per class, and noise. The voxels that differ from interpolation and argmax are counted.
The result is a block of Markdown for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from side_by_side import stand_in_for_torchvision
from torch import Tensor
from torch.nn import functional as F

from medfuse.core.device import processor
from medfuse.core.geometry import Geometry
from medfuse.infer.export import to_label_map

Shape = tuple[int, int, int]

NNUNET = """
import sys, time
import numpy as np
import torch
import nnunetv2.inference.export_prediction as peer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

source, target, threads, *fine = sys.argv[1:]
fine = [int(n) for n in fine]
logits = np.load(source)
spacing = [f / c for f, c in zip(fine, logits.shape[1:])]
resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}  # of its default plans
configuration = ConfigurationManager({
    "architecture": {},  # no network is built; without it the handler takes the plans for old ones
    "spacing": spacing,
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": resampling,
})
plans = PlansManager({"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]})
labels = LabelManager({"background": 0, **{f"l{n}": n for n in range(1, len(logits))}}, None)
facts = {
    "spacing": [1.0, 1.0, 1.0],
    "shape_after_cropping_and_before_resampling": fine,
    "shape_before_cropping": fine,
    "bbox_used_for_cropping": [[0, n] for n in fine],
}
given = torch.from_numpy(logits)
began = time.perf_counter()
made = peer.convert_predicted_logits_to_segmentation_with_correct_shape(
    given, plans, configuration, labels, facts, num_threads_torch=int(threads)
)
print(time.perf_counter() - began)
np.save(target, made)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--classes", type=int, default=61)
    parser.add_argument("--coarse", type=int, nargs=3, default=[171, 171, 270])
    parser.add_argument("--fine", type=int, nargs=3, default=[512, 512, 405])
    parser.add_argument("--nnunet-python", type=Path)
    parser.add_argument("--nnunet-classes", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    fine: Shape = (given.fine[0], given.fine[1], given.fine[2])
    logits = blobs(given.classes, given.coarse)
    labels, ours = exported(logits, fine), []
    theirs, how = [], ""
    for _ in range(given.rounds):
        began = time.perf_counter()
        exported(logits, fine)
        ours.append(time.perf_counter() - began)
        if given.nnunet_python:
            some = given.nnunet_classes or given.classes
            seconds, how, other = nnunet(given.nnunet_python, logits[:some], fine)
            theirs.append(seconds * given.classes / some)
    print(block())
    print(
        f"- {given.classes} classes, {given.coarse} → {given.fine}, median of {given.rounds} taking turns\n"
    )
    print("| | seconds | against medfuse | voxels other than interpolation and argmax |")
    print("|---|---|---|---|")
    wanted = winners(logits, fine)
    print(f"| medfuse | {median(ours):.2f} | 1 | {(labels != wanted).sum():,} of {labels.size:,} |")
    if theirs:
        some = given.nnunet_classes or given.classes
        scaled = f" ({some} classes, × {given.classes / some:.1f})" if some != given.classes else ""
        wanted = wanted if some == given.classes else winners(logits[:some], fine)
        print(
            f"| nnU-Net{scaled} | {median(theirs):.2f} | {median(theirs) / median(ours):.1f} × "
            f"| {(other != wanted).sum():,} of {labels.size:,} |"
        )
        print(f"\nnnU-Net was loaded {how}.")


def blobs(classes: int, shape: list[int]) -> Tensor:
    """Logits (classes, x, y, z): smooth in space, the background ahead in about half of it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(classes, *shape)
    for number in range(classes):
        field = torch.randn((1, 1, 7, 7, 9), generator=generator)
        logits[number] = F.interpolate(4 * field, shape, mode="trilinear")[0, 0]
        logits[number] += 0.1 * torch.randn(shape, generator=generator)
    logits[0] += 8
    return logits


def exported(logits: Tensor, fine: Shape) -> npt.NDArray[Any]:
    return to_label_map(logits, Geometry(fine, np.eye(4)), range(len(logits)))


def winners(logits: Tensor, fine: Shape) -> npt.NDArray[Any]:
    """Interpolation and argmax, one class at a time."""
    best = torch.full(fine, -torch.inf)
    label = torch.zeros(fine, dtype=torch.int16)
    for number, one in enumerate(logits):
        value = F.interpolate(one[None, None], fine, mode="trilinear", align_corners=False)[0, 0]
        label.masked_fill_(value > best, number)
        torch.maximum(best, value, out=best)
    return label.numpy()


def nnunet(python: Path, logits: Tensor, fine: Shape) -> tuple[float, str, npt.NDArray[Any]]:
    """Seconds of nnU-Net's own conversion, how it was made to load, and the label map."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "logits.npy", Path(folder) / "labels.npy"
        np.save(source, logits.numpy())
        command = [python, "-c", NNUNET, source, target, torch.get_num_threads(), *fine]
        stand_in = stand_in_for_torchvision(python, Path(folder))
        environment = {**os.environ, "PYTHONPATH": ":".join(map(str, stand_in))}
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, env=environment
        )
        if done.returncode:
            sys.exit(done.stderr)
        how = "with a stand-in for torchvision" if stand_in else "as installed"
        return float(done.stdout.strip().splitlines()[-1]), how, np.load(target)


def block() -> str:
    """Where and how it was measured."""
    return (
        f"- {date.today()}, {processor()}, {os.cpu_count()} cores ({torch.get_num_threads()} threads), load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}\n"
        f"- `python benchmarks/export.py {shlex.join(sys.argv[1:])}`"
    )


if __name__ == "__main__":
    main()
