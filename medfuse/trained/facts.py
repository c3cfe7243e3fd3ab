"""What a weights file or an exported one says of its network: typed, within limits, whoever wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import shortened, validated
from medfuse.infer.settings import InferSettings
from medfuse.model.settings import ModelSettings
from medfuse.pipeline import problems_of

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan
    from medfuse.quality.stored import StoredCalibration

LARGEST = 2**16  # of any number that describes a network
MOST_VALUES = 20_000  # of a network's description
REMEDY = "use a file that this version of medfuse wrote, or train again"

Word = Annotated[str, Field(max_length=200)]


class SaidFacts(BaseModel):
    """The facts of a file, typed. What is inside `model`, `infer` and `data` is looked at later."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    medfuse: Word = ""
    name: str = Field("", pattern=r"^[^/\\\x00-\x1f]{0,200}$")
    fold: Annotated[int, Field(ge=0, le=10_000)] | Literal["all"] | None = None
    model: dict[str, Any]
    watched: Annotated[tuple[Word, ...], Field(max_length=100)] = ()
    infer: dict[str, Any]
    data: dict[str, Any]
    quality: dict[str, Any] | None = None


@dataclass(frozen=True)
class Facts:
    """What inference needs beside the tensors. `said` is the model as the file says it.

    `quality`: what the cross-validation of an exported network told, which has no folder of folds around it.
    """

    name: str
    model: ModelSettings
    said: dict[str, Any]
    watched: tuple[str, ...]
    settings: InferSettings
    plan: DataPlan
    fold: int | Literal["all"] | None = None
    quality: StoredCalibration | None = None


def read_facts(path: Path, facts: Any) -> Facts:
    """The facts of `path`, out of their JSON. Makes nothing of what they name. Raises CheckpointError."""
    read = read_said(path, facts)
    said = json.loads(json.dumps(read.model))
    refuse_extremes(path, said)
    plan = plan_of(path, read)
    return Facts(
        read.name,
        _section(path, "model", ModelSettings, said),
        said,
        read.watched,
        _section(path, "infer", InferSettings, read.infer),
        plan,
        read.fold,
        _quality(path, read.quality),
    )


def _quality(path: Path, said: dict[str, Any] | None) -> StoredCalibration | None:
    if said is None:
        return None
    from medfuse.quality.stored import calibration_of

    return calibration_of(said, f"{path}: quality", REMEDY)


def read_said(path: Path, facts: Any) -> SaidFacts:
    """The facts of `path`, as far as they need no plugin to be understood. Raises CheckpointError."""
    where = f"{path}: what it says of its model"
    return validated(SaidFacts, facts, where, raises=CheckpointError, remedy=REMEDY)


def plan_of(path: Path, said: SaidFacts) -> DataPlan:
    """How images become inputs, and outputs labels. Raises CheckpointError."""
    from medfuse.data.plan_facts import read_plan

    return read_plan(said.data, f"{path}: data", raises=CheckpointError, remedy=REMEDY)


def _section(path: Path, name: str, kind: Any, value: Any) -> Any:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = problems_of(error, kind, value)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckpointError(f"{path}: {name}.{shortened(str(problems[0]), 300)}{more}; {REMEDY}") from error
    except Exception as error:  # a plugin's own validator
        raise CheckpointError(f"{path}: {name}: {shortened(str(error), 300)}; {REMEDY}") from error


def refuse_extremes(path: Path | str, said: Any) -> None:
    """Numbers, texts and lists of a size that no network needs. Raises CheckpointError."""
    left, count = [said], 0
    while left:
        value = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise CheckpointError(f"{path}: more than {MOST_VALUES:,} values describe its model; {REMEDY}")
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
        elif (isinstance(value, int | float) and abs(value) > LARGEST) or (
            isinstance(value, str) and len(value) > 2000
        ):
            raise CheckpointError(f"{path}: {shortened(repr(value), 60)} is of no use in a network; {REMEDY}")
