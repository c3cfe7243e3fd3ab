"""A calibration beside the networks it is of, or in the file of one, typed and checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import read_json, validated
from medfuse.core.seal import write_own_json
from medfuse.quality.calibration import ClassCalibration
from medfuse.quality.conformal import LEVEL
from medfuse.quality.fit import Fit, Weighed
from medfuse.quality.isotonic import Falling
from medfuse.quality.scores import BY_NAME
from medfuse.quality.usual import UsualNumbers

NAME = "quality.json"
VERSION = 1
_REMEDY = "run the pipeline with --folds all again, which writes it anew, or remove it"
_MOST = 100_000

SETTINGS = ("overlap", "mirror", "stepped", "skip_air", "adaptive_overlap", "compare_heads")
"""Of inference: what scores depend on."""


@dataclass(frozen=True)
class StoredCalibration:
    """What a cross-validation told. `weights`: hashes of its networks; `settings`: by which they inferred.

    `told`: how good it was on cases that had no part in it, for people to read. `grain`: what is usual of the
    images that were judged (see quality.grain).
    """

    classes: Mapping[str, ClassCalibration]
    weights: tuple[str, ...]
    settings: Mapping[str, Any]
    told: Mapping[str, Any] = field(default_factory=dict)
    grain: UsualNumbers | None = None

    def is_of(self, weights: Sequence[str]) -> bool:
        """Whether all of these networks are of that cross-validation."""
        return {*weights} <= {*self.weights}

    def otherwise(self, settings: Mapping[str, Any]) -> str:
        """Which settings of inference are other ones, so that bounds do not hold; nothing where none is."""
        found = [
            f"{name} {_brief(settings.get(name))} in place of {_brief(self.settings.get(name))}"
            for name in SETTINGS
            if _plain(settings.get(name)) != _plain(self.settings.get(name))
        ]
        return f"calibrated with other settings of inference ({', '.join(found)})" if found else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "level": LEVEL,
            "weights": list(self.weights),
            "settings": {name: _plain(self.settings.get(name)) for name in SETTINGS},
            "classes": {name: asdict(one) for name, one in self.classes.items()},
            "told": self.told,
            **({"grain": asdict(self.grain)} if self.grain else {}),
        }


def write_calibration(path: Path, calibration: StoredCalibration, *, by: str) -> None:
    """`by`: which version of medfuse writes it. Raises OutputError."""
    write_own_json(path, {"medfuse": by, **calibration.to_json()})


def read_calibration(path: Path) -> StoredCalibration:
    """Raises CheckpointError where it is damaged, of another version, or nothing that medfuse wrote."""
    return calibration_of(read_json(path, raises=CheckpointError, remedy=_REMEDY), str(path), _REMEDY)


def calibration_of(content: Any, where: str, remedy: str) -> StoredCalibration:
    """What `to_json` gave. Raises CheckpointError, which begins with `where`."""
    if isinstance(content, dict) and content.get("version") not in (None, VERSION):
        raise CheckpointError(
            f"{where}: is of version {content['version']}, and this medfuse reads {VERSION}; {remedy}"
        )
    said = validated(_File, content, where, raises=CheckpointError, remedy=remedy)
    classes = {
        name: ClassCalibration(
            Fit(
                {score: Weighed(w.mean, w.deviation, w.weight) for score, w in one.fit.scores.items()},
                Falling(one.fit.steps.at, one.fit.steps.values),
                one.fit.level,
                one.fit.slope,
                one.fit.worst,
            ),
            one.quantile,
            one.cases,
            one.groups,
            one.low,
        )
        for name, one in said.classes.items()
    }
    grain = UsualNumbers(**said.grain.model_dump()) if said.grain else None
    return StoredCalibration(classes, said.weights, said.settings, said.told, grain)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _brief(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _Weighed(_Strict):
    mean: float
    deviation: float = Field(gt=0)
    weight: float = Field(ge=0)


class _Steps(_Strict):
    at: Annotated[tuple[float, ...], Field(min_length=1, max_length=_MOST)]
    values: Annotated[tuple[float, ...], Field(min_length=1, max_length=_MOST)]

    @model_validator(mode="after")
    def _fall(self) -> _Steps:
        if len(self.at) != len(self.values):
            raise ValueError(f"{len(self.at)} places have {len(self.values)} values")
        if list(self.at) != sorted({*self.at}) or [*self.values] != sorted(self.values, reverse=True):
            raise ValueError("places do not rise, or values do")
        return self


class _Fit(_Strict):
    scores: Annotated[dict[str, _Weighed], Field(max_length=1000)]
    steps: _Steps
    level: float
    slope: float = Field(le=0)
    worst: float

    @model_validator(mode="after")
    def _known(self) -> _Fit:
        if unknown := [name for name in self.scores if name not in BY_NAME]:
            raise ValueError(f"no score is called {unknown[0]!r}")
        return self


class _Class(_Strict):
    fit: _Fit
    quantile: float | None
    cases: int = Field(ge=1)
    groups: int = Field(ge=1)
    low: float = Field(ge=0, le=1)


class _Numbers(_Strict):
    middle: Annotated[tuple[float, ...], Field(min_length=1, max_length=1)]
    deviation: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=1)]
    farthest: float = Field(ge=0)
    cases: int = Field(ge=1)


class _File(_Strict):
    medfuse: str = ""
    version: Literal[1]
    weights: Annotated[tuple[str, ...], Field(max_length=10_000)]
    settings: dict[str, Any]
    classes: Annotated[dict[str, _Class], Field(max_length=10_000)]
    told: dict[str, Any] = {}
    grain: _Numbers | None = None
