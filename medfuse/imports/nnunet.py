"""An nnU-Net model as medfuse's own: its plan as facts, its checkpoint as tensors with medfuse's names.

Isensee et al. 2021; the layout is that of nnunetv2, whose package is not needed. nnU-Net's arrays are
(z, y, x) as SimpleITK reads them, then transposed; here they are (x, y, z), so every kernel is turned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse import registry
from medfuse.api import Backbone
from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import shortened, validated
from medfuse.data.listing import Labels
from medfuse.data.plan import DataPlan, Normalization
from medfuse.imports.nnunet_files import (
    ACTIVATIONS,
    GIVE,
    ArchKwargs,
    Configuration,
    OlderNetwork,
    Plans,
    read_labels_and_channels,
    read_plans,
)
from medfuse.model.nnunet_names import plain_name
from medfuse.model.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
}


@dataclass(frozen=True)
class Network:
    """One network of nnU-Net's plan, its axes as nnU-Net has them."""

    kind: str
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    convs: tuple[int, ...]
    decoder_convs: tuple[int, ...]
    activation: str = "leaky_relu"
    norm: str = "instance"
    bias: bool = True

    def around(self) -> dict[str, Any]:
        """What stands around its convolutions, where it is not what nnU-Net usually has."""
        usual = {"norm": "instance", "activation": "leaky_relu", "bias": True}
        return {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}


@dataclass(frozen=True)
class Imported:
    """What a medfuse weights file holds: facts, and how nnU-Net's tensors are called in it.

    before: the configuration whose label maps it is shown, where it is the second stage of a cascade.

    `axes[a]` is the axis of nnU-Net's network that is the a-th of (x, y, z), or of (x, y).
    """

    plan: DataPlan
    model: ModelSettings
    axes: tuple[int, ...]
    network: Network
    before: str = ""

    def facts(self, name: str, fold: int | str, mirror: Sequence[int]) -> dict[str, Any]:
        """What inference needs beside the tensors. `mirror`: axes that nnU-Net mirrors at test time."""
        axes = ["xyz"[ours] for ours, theirs in enumerate(self.axes) if theirs in mirror]
        return {
            "medfuse": medfuse.__version__,
            "name": name,
            "fold": fold,
            "model": self.model.model_dump(mode="json", exclude_none=True),
            "watched": [],
            "infer": {"overlap": 0.5, "batch_size": 1, "mirror": axes},
            "data": self.plan.to_json(),
        }

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """nnU-Net's tensors with medfuse's names, each kernel's axes in the order (x, y, z)."""
        dims = len(self.axes)
        renamed = ((medfuse_name(key, self.network), tensor) for key, tensor in weights.items())
        return {
            name: tensor.permute(0, 1, *(2 + axis for axis in self.axes)).contiguous()
            if tensor.ndim == dims + 2
            else tensor
            for name, tensor in renamed
            if name
        }


def medfuse_name(key: str, network: Network) -> str:
    """`backbones.encoder.backbone.stages.0.1.conv.weight` of `encoder.stages.0.0.convs.1.conv.weight`.

    Empty for what nnU-Net stores twice.
    """
    if key.startswith("encoder."):
        plain = key if network.kind == RESIDUAL else plain_name(key)
        return plain and f"backbones.encoder.backbone.{plain.removeprefix('encoder.')}"
    if found := re.fullmatch(r"decoder\.seg_layers\.(\d+)\.(\w+)", key):
        level = len(network.channels) - 2 - int(found[1])
        return f"aux.decoded__{level}.{found[2]}" if level else f"head.{found[2]}"
    plain = plain_name(key)
    return plain and f"fusion.decoded.{plain.removeprefix('decoder.')}"


def read_plan(folder: Path, configuration: str, names: Iterable[str] = ()) -> Imported:
    """plans.json and dataset.json of a trained model's folder. Raises CheckpointError.

    names: of the tensors that were trained, which tell what a trainer of another name made of the plan.
    """
    plans, where = read_plans(folder), folder / "plans.json"
    labels, channels = read_labels_and_channels(folder)
    given = plans.configuration(configuration, where)
    config = validated(Configuration, given, _of(where, configuration), raises=CheckpointError, remedy=GIVE)
    turned, dims = plans.transpose_forward, len(config.patch_size)
    if dims == 2 and turned[0] != 0:
        raise CheckpointError(
            f"{where}: its slices are not in the (x, y) plane (transpose_forward {list(turned)}); "
            "import 3d_fullres instead"
        )
    # our axis a is array axis 2 - a, and nnU-Net moved array axis turned[d] to its axis d
    axes = tuple(turned.index(2 - axis) - (3 - dims) for axis in range(dims))
    network = _as_trained(_network(config, given, _of(where, configuration)), [*names])
    plan = _data_plan(plans, config, labels, channels, axes, folder)
    if config.previous_stage:
        plan = replace(plan, before=tuple(value for value in plan.values if value))
    return Imported(plan, _model(network, axes), axes, network, config.previous_stage or "")


def _as_trained(network: Network, names: Sequence[str]) -> Network:
    """The same with the norms and biases that its tensors show, as nnUNetTrainerBN says nothing in a plan."""
    if not names:
        return network
    batch = any(name.endswith(".norm.running_mean") for name in names)
    bias = any(name.endswith(".conv.bias") for name in names)
    return replace(network, norm="batch" if batch else "instance", bias=bias)


def _of(where: Path, configuration: str) -> str:
    return f"{where}: configuration {shortened(configuration)}"


def _data_plan(
    plans: Plans,
    config: Configuration,
    labels: Labels,
    channels: Sequence[str],
    axes: Sequence[int],
    folder: Path,
) -> DataPlan:
    spacing = list(config.spacing)
    if len(axes) == 2:  # slices keep their distance, here the median one
        median = plans.original_median_spacing_after_transp
        if median is None:
            raise CheckpointError(
                f"{folder / 'plans.json'}: has no original_median_spacing_after_transp; {GIVE}"
            )
        spacing = [median[0], *spacing]
    x, y, z = (spacing[axis] for axis in (axes if len(axes) == 3 else (axes[0] + 1, axes[1] + 1, 0)))
    return DataPlan(
        spacing_mm=(x, y, z),
        patch_size=tuple(config.patch_size[axis] for axis in axes),
        batch_size=config.batch_size,
        channels=tuple(channels),
        normalization=tuple(_normalization(plans, config, i, folder) for i in range(len(channels))),
        labels=labels.labels,
        reasons={},
        region_order=labels.region_order,
        ignore=labels.ignore,
    )


def _normalization(plans: Plans, config: Configuration, channel: int, folder: Path) -> Normalization:
    where = folder / "plans.json"
    scheme = dict(enumerate(config.normalization_schemes)).get(channel)
    kind = SCHEMES.get(scheme or "")
    if scheme is None or kind is None:
        how = f"is normalised by {shortened(scheme)}, which medfuse has not" if scheme else "has no scheme"
        raise CheckpointError(f"{where}: channel {channel} {how}; known are {', '.join(SCHEMES)}")
    if kind == "ct":
        facts = plans.foreground_intensity_properties_per_channel.get(str(channel))
        if facts is None:
            raise CheckpointError(
                f"{where}: foreground_intensity_properties_per_channel has no channel {channel}; {GIVE}"
            )
        std = max(facts.std, 1e-8)
        return Normalization("ct", facts.percentile_00_5, facts.percentile_99_5, facts.mean, std)
    if kind == "none":
        return Normalization("none")
    masked = dict(enumerate(config.use_mask_for_norm)).get(channel, False)
    return Normalization("nonzero_zscore" if masked else "zscore")


def _network(config: Configuration, given: Mapping[str, Any], where: str) -> Network:
    """The network of a plan of nnunetv2 2.4 and later, or of the releases before. Raises CheckpointError."""
    if config.architecture is None:
        older = validated(OlderNetwork, given, where, raises=CheckpointError, remedy=GIVE)
        network = _older_network(older, where)
    else:
        kind = config.architecture.network_class_name.rpartition(".")[2]
        network = _newer_network(kind, config.architecture.arch_kwargs, where)
    stages, dims = len(network.channels), len(config.patch_size)
    lengths = {len(network.strides), len(network.kernels), len(network.convs)}
    if lengths != {stages} or len(network.decoder_convs) != stages - 1 or stages < 2:
        raise CheckpointError(
            f"{where}: its network has {stages} stages of features, and other numbers of strides, kernels or "
            f"convolutions; {GIVE}"
        )
    if any(len(entry) != dims for entry in (*network.strides, *network.kernels)):
        raise CheckpointError(f"{where}: its kernels or strides have other axes than its patch_size; {GIVE}")
    return network


def _newer_network(kind: str, given: ArchKwargs, where: str) -> Network:
    _check(kind, where)
    if faults := given.faults():
        raise CheckpointError(
            f"{where}: its network has {', '.join(faults)}; networks with instance or batch norm of eps 1e-5 "
            f"and learned scale, then {', '.join(ACTIVATIONS)}, can be imported"
        )
    per_stage = given.n_blocks_per_stage if kind == RESIDUAL else given.n_conv_per_stage
    if per_stage is None:
        raise CheckpointError(f"{where}: its {kind} has no number of convolutions per stage; {GIVE}")
    return Network(
        kind,
        given.features_per_stage,
        _axes(given.strides, given.kernel_sizes),
        _axes(given.kernel_sizes, given.kernel_sizes),
        _counts(per_stage, given.n_stages),
        _counts(given.n_conv_per_stage_decoder, given.n_stages - 1),
        given.activation,
    )


def _older_network(given: OlderNetwork, where: str) -> Network:
    _check(given.UNet_class_name, where)
    kernels = given.conv_kernel_sizes
    stages, first = len(kernels), given.UNet_base_num_features
    return Network(
        given.UNet_class_name,
        tuple(min(first * 2**i, given.unet_max_num_features) for i in range(stages)),
        _axes(given.pool_op_kernel_sizes, kernels),
        _axes(kernels, kernels),
        _counts(given.n_conv_per_stage_encoder, stages),
        _counts(given.n_conv_per_stage_decoder, stages - 1),
    )


def _check(kind: str, where: str) -> None:
    """That medfuse has this network. Raises CheckpointError."""
    if kind not in (PLAIN, RESIDUAL):
        raise CheckpointError(
            f"{where}: its network is a {shortened(kind)}; {PLAIN} and {RESIDUAL} can be imported"
        )
    installed = {entry.name for entry in registry.entries(Backbone.group)}
    if kind == RESIDUAL and "residual_encoder" not in installed:
        raise CheckpointError(
            f"{where}: its network is a {kind}; install the package medfuse-dynamic, which has its encoder"
        )


def _axes(
    entries: Sequence[int | tuple[int, ...]], like: Sequence[int | tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    dims = next((len(entry) for entry in like if not isinstance(entry, int)), 3)
    return tuple((entry,) * dims if isinstance(entry, int) else entry for entry in entries)


def _counts(given: int | Sequence[int], stages: int) -> tuple[int, ...]:
    return (given,) * stages if isinstance(given, int) else tuple(given)


def _model(network: Network, axes: Sequence[int]) -> ModelSettings:
    """The same network in medfuse's words."""

    def turned(entries: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[entry[axis] for axis in axes] for entry in entries]

    encoder: dict[str, Any] = {
        "use": "unet_encoder" if network.kind == PLAIN else "residual_encoder",
        "channels": list(network.channels),
        "strides": turned(network.strides),
        "kernels": turned(network.kernels),
        "convs" if network.kind == PLAIN else "blocks": list(network.convs),
        **network.around(),
    }
    decoder = {
        "use": "unet_decoder",
        "inputs": ["encoder.*"],
        "kernels": turned(network.kernels[:-1]),
        "convs": list(network.decoder_convs[::-1]),
        **network.around(),
    }
    model: dict[str, Any] = {
        "backbones": {"encoder": encoder},
        "fusion": {"decoded": decoder},
        "head": {"input": "decoded"},
    }
    if len(network.channels) > 2:
        schedule = {"use": "constant", "weight": 0.5, "ratio": 0.5}
        model["aux"] = {"heads": ["decoded.*"], "schedule": schedule}
    return ModelSettings.model_validate(model)
