"""What a pipeline file says of inference."""

from typing import Annotated, Literal

from pydantic import Field

from medfuse.core.section import Section
from medfuse.registry import RuntimeField


class InferSettings(Section):
    """Sliding windows over whole volumes."""

    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that the next one covers again")
    batch_size: Annotated[int, Field(ge=1)] = Field(1, description="windows per forward pass")
    mirror: tuple[Literal["x", "y", "z"], ...] = Field(
        (), description="axes for test-time mirroring; all combinations are averaged"
    )
    skip_air: bool = Field(
        False, description="take windows for background that are at least half a window away from the body"
    )
    runtime: RuntimeField | None = Field(None, description="what runs the network; auto where not said")
