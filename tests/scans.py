"""Three scans in a folder, and a network of one line that labels them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medfuse.api import Case
from medfuse.core.prepared import Prepared
from medfuse.infer.folder import infer_cases
from medfuse.infer.ledger import Outcome, Progress
from medfuse.infer.plan import Way
from medfuse.infer.probabilities import ProbabilityFormat
from medfuse.infer.recipe import Recipe
from medfuse.infer.settings import InferSettings
from medfuse.volumes.read import read_volume

AFFINE = np.diag([-10.0, 10.0, 10.0, 1.0])  # a voxel is one millilitre; the first axis runs right to left


def prepare(case: Case) -> Prepared:
    volume = read_volume(case.images[0])
    array = volume.geometry.turn.apply(volume.array).astype(np.float32)
    return Prepared(case.name, np.ascontiguousarray(array[None]), volume.geometry, case.images[0])


def network(windows: Tensor) -> Tensor:
    """Class 1 where the image is above 0."""
    return torch.cat([-windows, windows], dim=1)


@dataclass
class Scans:
    """Three scans in a folder, and a way to send them through."""

    folder: Path
    cases: list[Case] = field(default_factory=list)
    seen: list[Progress] = field(default_factory=list)

    def __post_init__(self) -> None:
        for n, name in enumerate("abc"):
            array = np.full((4, 5, 6), -1.0, np.float32)
            array[0, : n + 1] = 1
            path = self.folder / "scans" / f"{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, AFFINE), path)
            self.cases.append(Case(name, (path,)))

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def manifest(self) -> dict[str, Any]:
        content = json.loads((self.output / "manifest.json").read_text())
        assert isinstance(content, dict)
        return content

    def infer(
        self,
        *,
        weights: Sequence[str] = ("abc",),
        settings: InferSettings | None = None,
        prepare: Callable[[Case], Prepared] = prepare,
        network: Callable[[Tensor], Tensor] = network,
        output: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
        probabilities: ProbabilityFormat | None = None,
        way: Way | None = None,
        overwrite: bool = False,
    ) -> Outcome:
        labels = {"background": 0, "liver": 5}
        recipe = Recipe(
            tuple(weights), labels, (4, 4, 4), settings or InferSettings(), probabilities=probabilities
        )
        return infer_cases(
            self.cases,
            prepare=prepare,
            networks=[network],
            recipe=recipe,
            output=output or self.output,
            plan=lambda cases: {case.name: way for case in cases} if way else {},
            progress=progress or self.seen.append,
            overwrite=overwrite,
        )
