"""What a run folder says of how its weights were made, typed: read before training goes on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

import medfuse
from medfuse import registry
from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.device import processor
from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import read_json, validated
from medfuse.core.labels import LabelValue
from medfuse.pipeline import Pipeline, resolved, with_stages

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan

PIPELINE, DATA, LOCK, PLAN = "pipeline.json", "data.json", "lock.json", "plan.json"
FINGERPRINT, RESOLVED = "fingerprint.json", "resolved.yaml"
TRANSFER, PINNED = "transfer.json", "pinned.json"
_REMEDY = "put the file back as it was, or train this run anew with --retrain"
_PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "lightning-fabric", "blosc2")


class Record(BaseModel):
    """A file of a run folder, or a part of one."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class CaseHashes(Record):
    """SHA-256 of a case's files, wherever they lie. `label` is None for cases that get pseudo-labels."""

    images: tuple[str, ...]
    label: str | None


class TrainedOn(Record):
    """data.json: what the weights were made from. A run has one, as long as it has weights.

    cases: all that have a label, as `auto` values are planned from all of them, and those that pseudo-labels
    are made for. teacher: the hash of the weights that make them, where that is another run. before: those
    of the first stage of a cascade, of which it is the second. taught_by: the hash of the weights of the
    teacher of a distillation.
    """

    labels: dict[str, LabelValue]
    channels: tuple[str, ...]
    region_order: tuple[int, ...]
    ignore: int | None
    train: tuple[str, ...]
    validation: tuple[str, ...]
    cases: dict[str, CaseHashes]
    teacher: str | None
    before: tuple[str, ...] = ()
    taught_by: str | None = None

    @property
    def split(self) -> Split:
        return Split(self.train, self.validation)

    @classmethod
    def of(
        cls,
        info: DatasetInfo,
        split: Split,
        cases: Sequence[Case],
        hashes: Mapping[str, str],
        teacher: str | None,
        taught_by: str | None = None,
    ) -> TrainedOn:
        """`hashes`: path → SHA-256 of all files of `cases`."""
        return cls(
            labels=dict(info.labels),
            channels=info.channels,
            region_order=info.region_order,
            ignore=info.ignore,
            train=split.train,
            validation=split.validation,
            cases={
                case.name: CaseHashes(
                    images=tuple(hashes[str(path)] for path in case.images),
                    label=hashes[str(case.label)] if case.label else None,
                )
                for case in cases
            },
            teacher=teacher,
            taught_by=taught_by,
        )


@cache
def _versions() -> dict[str, str]:
    """Of the packages that a process has loaded, which stay as they are."""
    return {name: metadata.version(name) for name in _PACKAGES}


class Stretch(Record):
    """Training under one setting, from a step on until the next stretch or the end. `train`: its settings."""

    from_step: int = Field(ge=0)
    started: str
    command: str
    medfuse: str
    packages: dict[str, str]
    train: dict[str, Any]

    @classmethod
    def now(cls, pipeline: Pipeline, from_step: int) -> Stretch:
        return cls(
            from_step=from_step,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            medfuse=medfuse.__version__,
            packages=_versions(),
            train=resolved(pipeline)["train"],
        )

    def is_like(self, other: Stretch) -> bool:
        """Whether training goes on as it did, so that nothing needs to be noted."""
        ours, theirs = ((s.medfuse, s.packages, s.train) for s in (self, other))
        return ours == theirs


class Lock(Record):
    """lock.json: what it takes to do the same again. `data`: path → SHA-256."""

    medfuse: str
    python: str
    packages: dict[str, str]
    plugins: tuple[str, ...]
    seed: int
    machine: dict[str, Any]
    started: str
    command: str
    stretches: tuple[Stretch, ...] = Field(min_length=1)
    data: dict[str, str]

    @classmethod
    def now(cls, pipeline: Pipeline, hashes: Mapping[str, str]) -> Lock:
        import torch

        plugins = {
            f"{e.package} {e.version}"
            for contract in registry.CONTRACTS
            for e in registry.entries(contract.group)
            if e.package != "medfuse"
        }
        begun = Stretch.now(pipeline, 0)
        return cls(
            medfuse=begun.medfuse,
            python=platform.python_version(),
            packages=begun.packages,
            plugins=tuple(sorted(plugins)),
            seed=pipeline.seed,
            machine={
                "system": platform.platform(),
                "processor": processor(),
                "cores": os.cpu_count(),
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            },
            started=begun.started,
            command=begun.command,
            stretches=(begun,),
            data=dict(hashes),
        )

    def carried_on(self, stretch: Stretch) -> Lock:
        """With one more stretch; one that began at the same step led to nothing, and is left out."""
        before = [one for one in self.stretches if one.from_step < stretch.from_step]
        return self.model_copy(update={"stretches": (*before, stretch)})


Kind = TypeVar("Kind", bound=Record)


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Raises CheckpointError, in one line that says what to do."""
    value = read_json(path, raises=CheckpointError, remedy=_REMEDY)
    return validated(kind, value, str(path), raises=CheckpointError, remedy=_REMEDY)


def read_mapping(path: Path) -> dict[str, Any]:
    """A record without a type of its own. Raises CheckpointError."""
    value = read_json(path, raises=CheckpointError, remedy=_REMEDY)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no mapping; {_REMEDY}")
    return value


def read_plan(folder: Path) -> DataPlan:
    """The plan that a run was made by. Raises CheckpointError."""
    from medfuse.data.plan import DataPlan

    path = folder / PLAN
    try:
        return DataPlan.from_json(read_mapping(path)["data"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: is no plan of this version of medfuse; {_REMEDY}") from error


def resolved_values(pipeline: Pipeline, plan: DataPlan) -> dict[str, Any]:
    """The pipeline with every `auto` value that the data decided."""
    values = resolved(pipeline)
    values["preprocess"]["spacing_mm"] = list(plan.spacing_mm)
    values["sample"] |= {"patch_size": list(plan.patch_size), "batch_size": plan.batch_size}
    return with_stages(values, pipeline)


def resolved_text(pipeline: Pipeline, plan: DataPlan, split: Split, stretches: Sequence[Stretch]) -> str:
    """resolved.yaml: a pipeline that does the same, below comments on the stretches of its training.

    And, where it holds out no case, on that.
    """
    from medfuse.core.text import yaml_text
    from medfuse.data.split import nothing_held_out

    unjudged = "" if split.validation else f"# {nothing_held_out(split)}\n"
    return unjudged + stretches_text(stretches) + yaml_text(resolved_values(pipeline, plan))


def stretches_text(stretches: Sequence[Stretch]) -> str:
    """Comments; nothing where there is one stretch."""
    if len(stretches) < 2:
        return ""
    lines = [f"# trained in {len(stretches)} stretches; lock.json has more of each:"]
    before: dict[str, Any] = {}
    for one in stretches:
        budget = {key: one.train[key] for key in ("epochs", "steps", "minutes") if key in one.train}
        others: dict[str, Any] = {
            key: value
            for key, value in one.train.items()
            if key not in budget and before and before.get(key) != value
        }
        said = ", ".join(f"{key} {value}" for key, value in (budget | others).items())
        lines.append(f"#   from step {one.from_step}: budget {said} ({one.started}, medfuse {one.medfuse})")
        before = one.train
    return "\n".join(lines) + "\n"
