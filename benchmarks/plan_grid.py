"""Plans that somebody who knows the field would try by hand, as rules that any dataset gives numbers to.

A plan of a grid is five words. `dimensions`: 3, 2.5 or 2. `patch`: `whole` covers the median case, or its
slice in 2-D and 2.5-D, as far as MOST_VOXELS go; `half` has half as many voxels; or its sides. `width`:
channels of the first stage. `batch`: patches a step, doubled while these have fewer than LEAST_VOXELS.
`scale`: how strongly patches are turned and scaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

from medfuse.api import DatasetInfo, ImageInfo
from medfuse.core.topology import plan_strides
from medfuse.data.detect import detect
from medfuse.data.fingerprint import take_fingerprint
from medfuse.data.plan import make_plan, median_shape, plan_patch
from medfuse.data.settings import PreprocessSettings, SampleSettings, SplitSettings
from medfuse.data.split import patients

MOST_VOXELS = {2: 512**2, 3: 96**3}
"""Of a patch: what memory and patience allow."""
LEAST_VOXELS = 2**16
"""Of a step: small patches are cheap, and few of them teach little."""
SLICES = 4
"""Slices of a 2.5-D patch."""
RATE_TIMES_WIDTH = 0.08
STRENGTHS: Mapping[str, Mapping[str, Any]] = {
    "mild": {"rotate": 0.5, "rotate_degrees": 20, "scale": 0.5, "scale_range": [0.8, 1.25]},
    "strong": {"rotate": 0.5, "rotate_degrees": 30, "scale": 0.7, "scale_range": [0.7, 1.4]},
}


@dataclass(frozen=True)
class Plan:
    """One plan of a grid; see above."""

    dimensions: str
    patch: str | tuple[int, ...]
    width: int
    batch: int
    scale: str

    @property
    def name(self) -> str:
        patch = self.patch if isinstance(self.patch, str) else "x".join(map(str, self.patch))
        return f"{self.dimensions}d-{patch}-w{self.width}-b{self.batch}-{self.scale}"


DEFAULT = tuple(
    Plan(*words)
    for words in (
        ("2", "whole", 8, 4, "strong"),
        ("2", "whole", 16, 2, "strong"),
        ("2", "whole", 16, 4, "mild"),
        ("2", "whole", 16, 4, "strong"),
        ("2", "whole", 16, 8, "strong"),
        ("2", "whole", 24, 2, "mild"),
        ("2", "whole", 24, 4, "strong"),
        ("2", "half", 16, 4, "strong"),
        ("2", "half", 24, 4, "mild"),
        ("2", "half", 24, 8, "strong"),
        ("2.5", "whole", 8, 2, "strong"),
        ("2.5", "whole", 16, 1, "strong"),
        ("2.5", "whole", 16, 2, "mild"),
        ("2.5", "whole", 24, 2, "strong"),
        ("2.5", "half", 16, 2, "strong"),
        ("3", "whole", 8, 2, "mild"),
        ("3", "whole", 8, 2, "strong"),
        ("3", "whole", 16, 2, "mild"),
        ("3", "whole", 16, 2, "strong"),
        ("3", "whole", 16, 4, "mild"),
        ("3", "whole", 24, 2, "strong"),
        ("3", "half", 16, 2, "strong"),
        ("3", "half", 16, 4, "mild"),
        ("3", "half", 24, 2, "mild"),
    )
)


def read_grid(given: str) -> tuple[Plan, ...]:
    """`default`, or a YAML file that lists mappings of a plan's five words. Raises ValueError."""
    if given == "default":
        return DEFAULT
    plans = []
    for number, entry in enumerate(yaml.safe_load(Path(given).read_text()), 1):
        words = {"dimensions", "patch", "width", "batch", "scale"}
        if not isinstance(entry, dict) or entry.keys() != words:
            raise ValueError(f"{given}: plan {number} is {entry}; give it {', '.join(sorted(words))}")
        patch = entry["patch"] if isinstance(entry["patch"], str) else tuple(entry["patch"])
        dimensions = (
            f"{entry['dimensions']:g}" if isinstance(entry["dimensions"], float) else entry["dimensions"]
        )
        plan = Plan(str(dimensions), patch, int(entry["width"]), int(entry["batch"]), entry["scale"])
        known = {"dimensions": ("3", "2.5", "2"), "scale": (*STRENGTHS,)}
        if isinstance(patch, str):
            known["patch"] = ("whole", "half")
        for word, allowed in known.items():
            if getattr(plan, word) not in allowed:
                raise ValueError(
                    f"{given}: plan {number}: {word} is {entry[word]}; one of {', '.join(allowed)}"
                )
        plans.append(plan)
    return tuple(plans)


@dataclass(frozen=True)
class Facts:
    """What the rules need of a dataset. `data` and `split` are sections of a pipeline."""

    data: Mapping[str, Any]
    split: Mapping[str, Any]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


def look_at(data: Path) -> Facts:
    """As `medfuse init` looks at a dataset."""
    found = detect(data)
    labelled = [case for case in found.info.cases if case.label]
    fingerprint = take_fingerprint(
        labelled,
        found.info,
        tolerance_mm=PreprocessSettings().tolerance_mm,
        progress=lambda done, total: None,
    )
    plan = make_plan(fingerprint, found.info, PreprocessSettings(), SampleSettings())
    settings = {
        key: str(value) if isinstance(value, Path) else value for key, value in found.settings.items()
    }
    settings["root"] = str(Path(settings["root"]).resolve())
    return Facts(settings, split_of(found.info), median_shape(fingerprint, plan.spacing_mm), plan.spacing_mm)


def split_of(info: DatasetInfo) -> dict[str, int]:
    """The dataset's own folds, or as many as its patients allow."""
    folds = SplitSettings().folds
    few = len({*patients(info.cases, SplitSettings()).values()})
    return {"fold": 0} if info.splits or few >= folds else {"fold": 0, "folds": max(2, few)}


def patch_of(plan: Plan, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """The sides that the word `patch` means for a dataset of this median case."""
    dims = 3 if plan.dimensions == "3" else 2
    if not isinstance(plan.patch, str):
        return plan.patch
    sides = plan_patch(shape[:dims], spacing_mm[:dims], MOST_VOXELS[dims])
    if plan.patch == "half":
        sides = plan_patch(shape[:dims], spacing_mm[:dims], prod(sides) / 2)
    return (*sides, min(SLICES, shape[2])) if plan.dimensions == "2.5" else sides


def batch_of(plan: Plan, patch: Sequence[int]) -> int:
    """How many such patches a step sees."""
    batch = plan.batch
    while batch * prod(patch) < LEAST_VOXELS:
        batch *= 2
    return batch


def pipeline(plan: Plan, facts: Facts, *, minutes: float) -> dict[str, Any]:
    """The whole pipeline file, but for its name."""
    patch = patch_of(plan, facts.shape, facts.spacing_mm)
    encoder: dict[str, Any] = {"use": "unet_encoder", "base_channels": plan.width}
    seen = patch
    if plan.dimensions == "2.5":
        encoder, seen = {"use": "slices", "neighbours": 1, "of": encoder}, patch[:2]
    model: dict[str, Any] = {
        "backbones": {"encoder": encoder},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
        "head": {"input": "decoded"},
    }
    if len(plan_strides(ImageInfo(1, seen, tuple(facts.spacing_mm[: len(seen)])))) > 2:
        schedule = {"use": "constant", "weight": 0.5, "ratio": 0.5}
        model["aux"] = {"heads": ["decoded.*"], "schedule": schedule}
    return {
        "data": dict(facts.data),
        "split": dict(facts.split),
        "sample": {
            "patch_size": list(patch),
            "batch_size": batch_of(plan, patch),
            "foreground": 0.33,
        },
        "augment": {**STRENGTHS[plan.scale], "blur": 0.1, "low_resolution": 0},
        "model": model,
        "loss": "dice_ce",
        "train": {
            "minutes": minutes,
            "steps_per_epoch": 50,
            "optimizer": "adamw",
            "learning_rate": float(f"{RATE_TIMES_WIDTH / plan.width:.2g}"),
            "warmup": 0.05,
            "decay": "cosine",
        },
    }
