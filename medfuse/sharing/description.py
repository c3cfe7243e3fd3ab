"""What a model is, as one value: all that `medfuse info` prints, exports carry and a service answers.

Nothing in it tells of a patient, a machine or a place on a disk: it goes wherever the model goes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medfuse.data.plan_facts import NormalizationFacts, SeenFacts

FILE = "medfuse.json"
"""The name of a description beside a model's files."""

Word = Annotated[str, Field(max_length=300)]
Line = Annotated[str, Field(max_length=2000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**15)]
Millimetres = Annotated[float, Field(gt=0, le=10_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Said(BaseModel):
    """A part of a description, which may come from anybody's file."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Label(Said):
    """A label: `value` is written for it, and all `values` belong to it, which a region has several of.

    code: `SCT 10200004 Liver`, "" where none is known; kind, side, within: codes that go with it.
    """

    name: Word
    value: int = Field(ge=0, lt=2**31)
    values: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=10_000)]
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")
    code: Word = ""
    kind: Word = ""
    side: Word = ""
    within: Word = ""


class Channel(Said):
    """An input: `modality` where DICOM or the name says it, and how its intensities are scaled."""

    name: Word
    modality: Word = ""
    normalization: NormalizationFacts


class Windows(Said):
    """How windows slide over an image."""

    overlap: float = Field(ge=0, lt=1)
    mirror: Annotated[tuple[Literal["x", "y", "z"], ...], Field(max_length=3)] = ()
    stepped: Literal["constant", "gaussian"] | None = None


class Training(Said):
    """What made the weights; None and "" for what is not known.

    fold: `all` for a final model, which no case judges. data_sha256: of the contents of all its cases, by
    which two models are known to be of the same data.
    """

    cases: Count | None = None
    held_out: Count | None = None
    data_sha256: Digest | None = None
    steps: Count | None = None
    minutes: Annotated[float, Field(ge=0)] | None = None
    folds: Count | None = None
    fold: Annotated[int, Field(ge=0, le=10_000)] | Literal["all"] | None = None
    seed: int | None = None
    date: Word = ""


class Mean(Said):
    """Mean Dice of a label over `cases`, and its interval (95 %, over patients)."""

    name: Word
    dice: Share | None
    low: Share | None = None
    high: Share | None = None
    cases: Count


class Score(Said):
    """How good a model is on cases that it has not seen: `overall` is the mean of the labels' means.

    of: `held-out cases`, or `cross-validation` where its folds are the model, or tell of it.
    """

    of: Literal["held-out cases", "cross-validation"]
    folds: Count = 0
    overall: Mean
    labels: Annotated[tuple[Mean, ...], Field(max_length=10_000)]


class Source(Said):
    """Weights that a part of the network started from: `license` as their publisher has it, "" if unsaid."""

    part: Word
    source: Word
    license: Word = ""
    sha256: Word = ""
    share: Share | None = None


class Description(Said):
    """A model. `medfuse`: the version that describes it. weights: SHA-256 of each weights file.

    seen: what the cases were like that it was trained on. license: an SPDX expression, "" where nobody gave
    one. sources: pretrained weights. imported: what it was turned into a run from. versions: of the packages
    that trained it. notes: a line each. cascade: what it takes of a first stage, "" where there is none.
    """

    medfuse: Word
    name: Word
    kind: Word
    dims: Literal[2, 3]
    labels: Annotated[tuple[Label, ...], Field(min_length=1, max_length=10_000)]
    regions: bool = False
    channels: Annotated[tuple[Channel, ...], Field(min_length=1, max_length=1000)]
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    patch_size: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=3)]
    windows: Windows
    cascade: Line = ""
    weights: Annotated[tuple[Digest, ...], Field(max_length=1000)] = ()
    parameters: Count | None = None
    training: Training = Training()
    seen: SeenFacts | None = None
    score: Score | None = None
    license: Word = ""
    sources: Annotated[tuple[Source, ...], Field(max_length=1000)] = ()
    imported: Word = ""
    versions: Annotated[dict[Word, Word], Field(max_length=100)] = {}
    notes: Annotated[tuple[Line, ...], Field(max_length=100)] = ()

    @property
    def is_final(self) -> bool:
        """Whether all cases trained it, so that none judges it."""
        return self.training.fold == "all"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Of its channels, in their order; its channels' names where nothing else is known."""
        return tuple(channel.modality or channel.name for channel in self.channels)
