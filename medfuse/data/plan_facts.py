"""A data plan out of a file that may be anybody's: typed, within limits, and in itself consistent."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medfuse.core.codes import Code
from medfuse.core.errors import MedfuseError
from medfuse.core.json_text import validated
from medfuse.core.labels import members
from medfuse.data.plan import DataPlan
from medfuse.data.profile import PERCENTS, SHAPES

MOST_PATCH_VOXELS = 2**25  # 320³

Name = Annotated[str, Field(min_length=1, max_length=200)]
Spacing = Annotated[float, Field(gt=0, le=10_000)]
Length = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1, le=2**16)]
Value = Annotated[int, Field(ge=0, lt=2**31)]
Profile = Annotated[tuple[float, ...], Field(max_length=16)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class _Strict(BaseModel):
    """No text for a number, no NaN."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class NormalizationFacts(_Strict):
    """See `data.plan.Normalization`."""

    kind: Literal["ct", "zscore", "nonzero_zscore", "none", "window", "windows", "unit", "symmetric"]
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    windows: Annotated[tuple[tuple[float, float], ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _ordered(self) -> NormalizationFacts:
        if self.lower > self.upper:
            raise ValueError(f"lower {self.lower} is above upper {self.upper}")
        if (self.kind == "windows") != bool(self.windows):
            raise ValueError(f"{len(self.windows)} windows for a normalization of kind {self.kind}")
        if any(low >= high for low, high in self.windows):
            raise ValueError("the least of a window is not below its most")
        return self


class SeenFacts(_Strict):
    """See `data.seen.Seen`."""

    spacing_mm: tuple[tuple[Length, Length, Length], tuple[Length, Length, Length]]
    shape: tuple[tuple[Count, Count, Count], tuple[Count, Count, Count]]
    values: Annotated[tuple[tuple[float, float], ...], Field(max_length=1000)]
    cases: int = Field(0, ge=0, le=10**9)
    extent_mm: Annotated[tuple[tuple[Length, Length, Length], ...], Field(max_length=2)] = ()
    modalities: Annotated[
        tuple[Annotated[tuple[Name, ...], Field(max_length=100)], ...], Field(max_length=1000)
    ] = ()
    oblique_degrees: float | None = Field(None, ge=0, le=90)
    planes: Annotated[tuple[Literal["", "x", "y", "z"], ...], Field(max_length=4)] = ()
    percentiles: Annotated[tuple[tuple[Profile, Profile], ...], Field(max_length=1000)] = ()
    shapes: Annotated[tuple[tuple[Profile, Profile], ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _complete(self) -> SeenFacts:
        if len(self.extent_mm) == 1:
            raise ValueError("extent_mm has one end of two")
        for name, length in (("percentiles", len(PERCENTS)), ("shapes", len(SHAPES))):
            if any(len(end) not in (0, length) for ends in getattr(self, name) for end in ends):
                raise ValueError(f"{name} are not {length} numbers at each end")
        return self


class UsualVolumeFacts(_Strict):
    """See `quality.usual.UsualVolume`."""

    cases: int = Field(ge=0, le=10**9)
    present: int = Field(ge=0, le=10**9)
    mean: float = 0.0
    deviation: float = Field(0.0, ge=0)


class UsualNumbersFacts(_Strict):
    """See `quality.usual.UsualNumbers`."""

    middle: Annotated[tuple[float, ...], Field(max_length=10_000)]
    deviation: Annotated[tuple[Length, ...], Field(max_length=10_000)]
    farthest: float = Field(ge=0)
    cases: int = Field(ge=0, le=10**9)

    @model_validator(mode="after")
    def _complete(self) -> UsualNumbersFacts:
        if len(self.middle) != len(self.deviation):
            raise ValueError(
                f"{len(self.middle)} numbers in the middle have {len(self.deviation)} deviations"
            )
        return self


class UsualFacts(_Strict):
    """See `quality.usual.Usual`."""

    volumes: Annotated[dict[Name, UsualVolumeFacts], Field(max_length=10_000)] = {}
    numbers: dict[Literal["spacing", "field_of_view", "intensities"], UsualNumbersFacts] = {}


class LabelSaysFacts(_Strict):
    """See `core.label_table.LabelSays`."""

    code: Annotated[str, Field(max_length=200)] = ""
    color: str = Field("", pattern=r"^(#[0-9a-fA-F]{6})?$")

    @field_validator("code")
    @classmethod
    def _is_code(cls, value: str) -> str:
        return str(Code.of(value)) if value else value


class FocusFacts(_Strict):
    """See `data.focus.Focus`."""

    threshold: float = Field(gt=0, le=1)
    margin_mm: float = Field(ge=0, le=1e6)
    lost: float = Field(0.0, ge=0, le=1)
    cases: int = Field(0, ge=0, lt=2**31)
    looked_at: float = Field(1.0, ge=0, le=1)
    weights: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=1000)] = ()


class PlanFacts(_Strict):
    """See `data.plan.DataPlan`."""

    spacing_mm: tuple[Spacing, Spacing, Spacing]
    patch_size: Annotated[tuple[Side, ...], Field(min_length=2, max_length=3)]
    batch_size: int = Field(ge=1, le=10**6)
    channels: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    normalization: Annotated[tuple[NormalizationFacts, ...], Field(max_length=1000)]
    labels: Annotated[
        dict[Name, Value | Annotated[tuple[Value, ...], Field(min_length=1, max_length=10_000)]],
        Field(min_length=2, max_length=10_000),
    ]
    reasons: Annotated[dict[Name, Annotated[str, Field(max_length=1000)]], Field(max_length=2000)]
    region_order: Annotated[tuple[Value, ...], Field(max_length=10_000)] = ()
    ignore: Value | None = None
    pixel_mm: tuple[Spacing, Spacing] | None = None
    seen: SeenFacts | None = None
    before: Annotated[tuple[Value, ...], Field(max_length=1000)] = ()
    label_table: Annotated[dict[Name, LabelSaysFacts], Field(max_length=10_000)] = {}
    usual: UsualFacts | None = None
    focus: FocusFacts | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PlanFacts:
        if prod(self.patch_size) > MOST_PATCH_VOXELS:
            raise ValueError(f"a patch of {prod(self.patch_size):,} voxels is too large")
        if len(self.normalization) != len(self.channels):
            raise ValueError(f"{len(self.normalization)} normalizations for {len(self.channels)} channels")
        regions = [value for value in self.labels.values() if value != 0]
        if len(regions) == len(self.labels):
            raise ValueError("no label has the value 0, the background's")
        if self.region_order:
            if [value not in members(region) for value, region in zip(self.region_order, regions)] != [
                False
            ] * len(regions) or len(self.region_order) != len(regions):
                raise ValueError("region_order does not name a value of each region")
        elif len({*self.labels.values()}) < len(self.labels) or any(isinstance(v, tuple) for v in regions):
            raise ValueError("two labels share a value, or one has several, and there is no region_order")
        if self.ignore is not None and self.ignore <= max(max(members(v)) for v in self.labels.values()):
            raise ValueError(f"ignore {self.ignore} is not above every label")
        return self


def read_plan(data: Any, where: str, *, raises: type[MedfuseError], remedy: str) -> DataPlan:
    """The plan that a file's JSON value is. Raises `raises`, in one line that begins with `where`."""
    validated(PlanFacts, data, where, raises=raises, remedy=remedy)
    return DataPlan.from_json(data)
