"""What a pipeline file says of inference."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medfuse.core.section import Section
from medfuse.registry import RuntimeField

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]


class PostprocessSettings(Section):
    """What is done to final label maps, by the names of labels."""

    largest_component: tuple[str, ...] = Field((), description="labels of which the largest component stays")
    fill_holes: tuple[str, ...] = Field((), description="labels whose holes are filled")
    minimum_ml: dict[str, Positive] = Field(
        default_factory=dict, description="label → ml that a component of it must have to stay"
    )
    threshold: dict[str, Share] = Field(
        default_factory=dict, description="region → probability above which it is there; else 0.5"
    )

    def names(self, label: str) -> bool:
        """Whether a label's mask is changed."""
        return label in (*self.largest_component, *self.fill_holes, *self.minimum_ml)

    def unknown(self, labels: Collection[str]) -> list[str]:
        """Names that are none of `labels`."""
        named = (*self.largest_component, *self.fill_holes, *self.minimum_ml, *self.threshold)
        return [name for name in dict.fromkeys(named) if name not in labels]


USUAL_OVERLAP = 0.5
"""Of neighbouring windows, where nothing else is said (nnU-Net's)."""


class InferSettings(Section):
    """Sliding windows over whole volumes."""

    overlap: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = Field(
        USUAL_OVERLAP,
        description="share of a window that the next one covers again; auto: the least that costs no label "
        "of held-out cases more than 0.001 of Dice, for new scans only",
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(1, description="windows per forward pass")
    mirror: tuple[Literal["x", "y", "z"], ...] = Field(
        (), description="axes for test-time mirroring; all combinations are averaged"
    )
    stepped: Literal["constant", "gaussian"] | None = Field(
        None,
        description="windows lie a step apart, the last one flush, weighed equally or by gaussians (MONAI); "
        "else they are evenly spread and weighed by gaussians (nnU-Net)",
    )
    skip_air: bool = Field(
        False, description="take windows for background that are at least half a window away from the body"
    )
    adaptive_overlap: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="a smaller overlap for a first pass; windows of `overlap` follow only where it disagrees "
        "with itself",
    )
    postprocess: Literal["auto", "none"] | PostprocessSettings = Field(
        "none",
        description="steps for final label maps; auto: those that raise Dice on held-out cases, which change "
        "new scans only",
    )
    compare_heads: bool = Field(
        False,
        description="let auxiliary heads decide too, and tell how far they agree with the main one, which "
        "alone makes the label map",
    )
    uncertainty: bool = Field(
        False, description="also write how unsure each voxel is, 0 to 1: CASE_uncertainty.nii.gz"
    )
    windows: Literal["all"] | None = Field(
        None, description="all: in a cascade too, where else those are run that its first stage points to"
    )
    runtime: RuntimeField | None = Field(None, description="what runs the network; auto where not said")

    @property
    def windows_overlap(self) -> float:
        """The share; the usual one where it is left to held-out cases and nothing was chosen yet."""
        return USUAL_OVERLAP if self.overlap == "auto" else self.overlap

    @model_validator(mode="after")
    def _first_pass_overlaps_less(self) -> "InferSettings":
        if self.adaptive_overlap is not None and self.overlap == "auto":
            raise ValueError("adaptive_overlap needs a number for overlap, which is auto; leave one out")
        if self.adaptive_overlap is not None and self.adaptive_overlap >= self.windows_overlap:
            raise ValueError(
                f"adaptive_overlap {self.adaptive_overlap} saves nothing; choose one below {self.overlap}, "
                "the overlap"
            )
        return self
