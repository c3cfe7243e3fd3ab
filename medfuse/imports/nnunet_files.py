"""What plans.json, dataset.json and a checkpoint of nnU-Net 2 say, read as typed models within limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import read_json, shortened, validated
from medfuse.data.listing import Labels, parse_channels, parse_labels

GIVE = "give the folder nnUNetTrainer__…, which holds plans.json, dataset.json and fold_0"
ACTIVATIONS = {
    "LeakyReLU": "leaky_relu",
    "ReLU": "relu",
    "ELU": "elu",
    "SiLU": "silu",
    "Mish": "mish",
    "GELU": "gelu",
}
"""torch's classes by medfuse's names."""

Size = Annotated[StrictInt, Field(ge=1, le=4096)]
Count = Annotated[StrictInt, Field(ge=1, le=64)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
PerAxis = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]
Entries = Annotated[tuple[Count | PerAxis, ...], Field(min_length=1, max_length=16)]
Counts = Count | Annotated[tuple[Count, ...], Field(max_length=16)]


class _Read(BaseModel):
    """Keys that medfuse does not need are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ArchKwargs(_Read):
    """How a network of nnunetv2 2.4 and later is built."""

    n_stages: Count
    features_per_stage: Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]
    strides: Entries
    kernel_sizes: Entries
    n_conv_per_stage: Counts | None = None
    n_blocks_per_stage: Counts | None = None
    n_conv_per_stage_decoder: Counts
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None
    nonlin_first: bool = False

    @property
    def activation(self) -> str:
        """medfuse's name of its activation; empty for one that medfuse has not."""
        return ACTIVATIONS.get((self.nonlin or "LeakyReLU").rpartition(".")[2], "")

    def faults(self) -> list[str]:
        """What around its convolutions no network of medfuse has."""
        norm, norms = (self.norm_op or "InstanceNorm").rpartition(".")[2], self.norm_op_kwargs or {}
        slope = (self.nonlin_kwargs or {}).get("negative_slope", 0.01)
        found = {
            f"norm_op {norm}": norm.rstrip("23d") not in ("InstanceNorm", "BatchNorm"),
            f"norm_op_kwargs {norms}": norms.get("eps", 1e-5) != 1e-5
            or norms.get("affine", True) is not True
            or (norm.startswith("Instance") and bool(norms.get("track_running_stats"))),
            f"nonlin {self.nonlin}": not self.activation,
            f"a negative_slope of {slope}": slope != 0.01,
            "nonlin_first": self.nonlin_first,
        }
        return [shortened(what) for what, wrong in found.items() if wrong]


class Architecture(_Read):
    """Its network's class, and what that is built with."""

    network_class_name: str
    arch_kwargs: ArchKwargs


class OlderNetwork(_Read):
    """The same of the releases before."""

    UNet_class_name: str
    UNet_base_num_features: Size
    unet_max_num_features: Size
    conv_kernel_sizes: Entries
    pool_op_kernel_sizes: Entries
    n_conv_per_stage_encoder: Counts
    n_conv_per_stage_decoder: Counts


class Configuration(_Read):
    """One entry of `configurations`, with all that it inherits."""

    patch_size: Annotated[tuple[Size, ...], Field(min_length=2, max_length=3)]
    spacing: Annotated[tuple[Length, ...], Field(min_length=2, max_length=3)]
    batch_size: Size
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...] = ()
    previous_stage: str | None = None
    architecture: Architecture | None = None

    @model_validator(mode="after")
    def _has_as_many_axes(self) -> Configuration:
        if len(self.patch_size) != len(self.spacing):
            raise ValueError("`patch_size` and `spacing` have different numbers of axes")
        return self


class Intensities(_Read):
    """Of the foreground of one channel."""

    percentile_00_5: Number
    percentile_99_5: Number
    mean: Number
    std: Annotated[Number, Field(ge=0)]


class Plans(_Read):
    """plans.json but for its configurations, which inherit from each other."""

    configurations: dict[str, dict[str, Any]]
    transpose_forward: tuple[Literal[0, 1, 2], Literal[0, 1, 2], Literal[0, 1, 2]] = (0, 1, 2)
    original_median_spacing_after_transp: tuple[Length, Length, Length] | None = None
    foreground_intensity_properties_per_channel: dict[str, Intensities] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _turns(self) -> Plans:
        if {*self.transpose_forward} != {0, 1, 2}:
            raise ValueError("`transpose_forward` does not hold each of 0, 1 and 2")
        return self

    def configuration(self, name: str, where: Path) -> dict[str, Any]:
        """A configuration with all that it inherits. Raises CheckpointError."""
        found: dict[str, Any] = {}
        seen: list[str] = []
        following: Any = name
        while following:
            if not isinstance(following, str) or following not in self.configurations:
                known = ", ".join(self.configurations)
                raise CheckpointError(
                    f"{where}: has no configuration {shortened(str(following))}; it has {shortened(known)}"
                )
            if following in seen:
                circle = " → ".join([*seen, following])
                raise CheckpointError(
                    f"{where}: configuration {following} inherits from itself ({circle}); {GIVE}"
                )
            seen.append(following)
            own = dict(self.configurations[following])
            following = own.pop("inherits_from", None)
            found = {**own, **found}
        return found


def read_plans(folder: Path) -> Plans:
    """Raises CheckpointError."""
    path = folder / "plans.json"
    value = read_json(path, raises=CheckpointError, remedy=GIVE)
    return validated(Plans, value, str(path), raises=CheckpointError, remedy=GIVE)


def read_labels_and_channels(folder: Path) -> tuple[Labels, tuple[str, ...]]:
    """Labels and channels of dataset.json. Raises CheckpointError with every fault."""
    path = folder / "dataset.json"
    value = read_json(path, raises=CheckpointError, remedy=GIVE)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no mapping; {GIVE}")
    faults: list[str] = []
    order = value.get("regions_class_order")
    labels = parse_labels(value.get("labels"), f"{path}: labels", faults, order)
    channels = parse_channels(
        value.get("channel_names") or value.get("modality"), f"{path}: channel_names", faults
    )
    if faults:
        raise CheckpointError(*faults)
    return labels, channels


class State(_Read):
    """What a checkpoint says beside its tensors."""

    configuration: str = "3d_fullres"
    trainer_name: str = ""
    inference_allowed_mirroring_axes: tuple[Literal[0, 1, 2], ...] | None = None
    current_epoch: Annotated[StrictInt, Field(ge=0, le=10**9)] = 0


def read_state(state: Any, fold: Path) -> tuple[State, Mapping[str, Any]]:
    """What a checkpoint says, and its tensors by name. Raises CheckpointError where it is not nnU-Net's."""
    weights = state.get("network_weights") if isinstance(state, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f"{fold}: its checkpoint holds no network_weights; it is not nnU-Net's")
    given = {key: state[key] for key in State.model_fields if key in state}
    arguments = state.get("init_args")
    if isinstance(arguments, Mapping) and "configuration" in arguments:
        given["configuration"] = arguments["configuration"]
    plain = {key: value if _is_plain(value) else shortened(repr(value)) for key, value in given.items()}
    where = f"{fold}: its checkpoint"
    return validated(State, plain, where, raises=CheckpointError, remedy="it is not nnU-Net's"), weights


def _is_plain(value: Any) -> bool:
    inner = value if isinstance(value, list | tuple) else ()
    return isinstance(value, str | int | float | list | tuple | None) and all(map(_is_plain, inner))
