"""What a pipeline file says of its model."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from medfuse.core.section import ConfigPath, Section
from medfuse.registry import (
    ActivationLossField,
    AuxScheduleField,
    BackboneField,
    FusionBlockField,
    LossField,
    TapStrategyField,
)


class TransferSettings(Section):
    """Weights that a backbone, or a fusion block, starts from."""

    weights: ConfigPath | None = Field(None, description="a .safetensors, .pt or .pth file")
    hub: str | None = Field(
        None,
        pattern=r"^((https://\S+|file://\S+)@(sha256:)?[0-9a-f]{64}|[\w.-]+/[\w.-]+/[^\s@]+(@[^\s@:]+)?)$",
        description="instead of `weights`: OWNER/REPO/FILE@REVISION of huggingface.co (`main` where none is "
        "given), OWNER/REPO/FILE@SHA256, or https://…@SHA256",
    )
    local_files_only: bool | None = Field(
        None, description="take a `hub` file by revision only from the hub's cache, without a network"
    )
    prefix: str = Field("", description="take only what lies below it in the file, such as `backbone`")
    match: Literal["name", "order"] = Field(
        "name", description="order: what has no match by name is matched by its place and shape"
    )
    at_least: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the network's parameters that the file must have, or it is another network's",
    )
    resize_kernels: bool = Field(
        False, description="take kernels of another size, interpolated at equal sum, as from 3×3×3 to 5×5×5"
    )

    @model_validator(mode="after")
    def _from_one_place(self) -> "TransferSettings":
        if (self.weights is None) == (self.hub is None):
            raise ValueError("give one of weights, a file, and hub, a name with its hash")
        return self


class HeadSettings(Section):
    """Turns one feature map into logits at the input's size."""

    input: str = Field(description="the node, tap or `image` that the logits are made from")
    upsample: Literal["linear", "nearest"] = Field(
        "linear", description="how coarse logits reach the input's size"
    )


def _silenced(aux: Any) -> Any:
    """`schedule: none` says that there are no auxiliary heads, so that a command line can say it too."""
    return None if isinstance(aux, dict) and aux.get("schedule") == "none" else aux


def _or_none(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"const": "none"})


class AuxSettings(Section):
    """Auxiliary heads: small classifiers on inner maps, each with its own loss."""

    heads: tuple[str, ...] = Field(
        min_length=1, description="taps or nodes to supervise; NODE.* means its side outputs"
    )
    schedule: AuxScheduleField | None = Field(
        None,
        description="their weights over time; `none` leaves auxiliary heads out",
        json_schema_extra=_or_none,
    )
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="fixed weights, one for each head, or one more in front: that of the main loss, which is "
        "1 where not given; times those of `schedule`, where there is one",
    )
    loss: LossField | None = Field(None, description="their loss; that of the main head where not given")

    @model_validator(mode="after")
    def _weighed(self) -> "AuxSettings":
        if self.schedule is None and self.weights is None:
            raise ValueError(
                "say what the heads weigh: give `schedule`, such as {use: constant}, or `weights`, a list"
            )
        if self.weights is not None and not any(self.weights):
            raise ValueError("all of `weights` are 0, and nothing would be learned; give one above 0")
        return self

    def fixed(self, heads: int) -> tuple[float, ...]:
        """The fixed weights of the main loss and of each head; empty where only the schedule weighs."""
        if self.weights is None:
            return ()
        return self.weights if len(self.weights) == 1 + heads else (1.0, *self.weights)


class ModelSettings(Section):
    """Backbones, taps, the fusion graph, the head and the auxiliary heads."""

    backbones: dict[str, BackboneField] = Field(min_length=1, description="networks by name")
    transfer: dict[str, TransferSettings] = Field(
        default_factory=dict, description="weights to start from, by the names of backbones and nodes"
    )
    taps: dict[str, TapStrategyField] = Field(
        default_factory=dict, description="how each backbone is tapped; forward_hook where not said"
    )
    fusion: dict[str, FusionBlockField] = Field(default_factory=dict, description="named nodes of the graph")
    head: HeadSettings = Field(description="the main output")
    aux: Annotated[
        AuxSettings | None, BeforeValidator(_silenced, json_schema_input_type=AuxSettings | None)
    ] = Field(None, description="auxiliary heads")
    activation_losses: dict[str, ActivationLossField] = Field(
        default_factory=dict, description="named losses on taps or nodes themselves"
    )
