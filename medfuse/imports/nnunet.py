"""An nnU-Net model as medfuse's own: its plan as facts, its checkpoint as tensors with medfuse's names.

Isensee et al. 2021; the layout is that of nnunetv2, whose package is not needed. nnU-Net's arrays are
(z, y, x) as SimpleITK reads them, then transposed; here they are (x, y, z), so every kernel is turned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse import registry
from medfuse.api import Backbone
from medfuse.core.errors import CheckpointError
from medfuse.data.plan import DataPlan, Normalization
from medfuse.model.nnunet_names import plain_name
from medfuse.model.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

GIVE = "give the folder nnUNetTrainer__…, which holds plans.json, dataset.json and fold_0"
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


@dataclass(frozen=True)
class Imported:
    """What a medfuse weights file holds: facts, and how nnU-Net's tensors are called in it.

    `axes[a]` is the axis of nnU-Net's network that is the a-th of (x, y, z), or of (x, y).
    """

    plan: DataPlan
    model: ModelSettings
    axes: tuple[int, ...]
    network: Network

    def facts(self, name: str, fold: int, mirror: Sequence[int]) -> dict[str, Any]:
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


def read_plan(folder: Path, configuration: str) -> Imported:
    """plans.json and dataset.json of a trained model's folder. Raises CheckpointError."""
    plans, dataset = (_json(folder / name) for name in ("plans.json", "dataset.json"))
    where = folder / "plans.json"
    try:
        return _imported(plans, dataset, _configuration(plans, configuration, where), folder)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{where}: is no plan of nnU-Net 2 for {configuration} ({type(error).__name__}: {error}); {GIVE}"
        ) from error


def _imported(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], config: Mapping[str, Any], folder: Path
) -> Imported:
    where = folder / "plans.json"
    if config.get("previous_stage"):
        raise CheckpointError(
            f"{where}: is the second stage of a cascade; import 3d_fullres or 3d_lowres instead"
        )
    turned = plans.get("transpose_forward", [0, 1, 2])
    dims = len(config["patch_size"])
    if dims == 2 and turned[0] != 0:
        raise CheckpointError(
            f"{where}: its slices are not in the (x, y) plane (transpose_forward {turned}); "
            "import 3d_fullres instead"
        )
    # our axis a is array axis 2 - a, and nnU-Net moved array axis turned[d] to its axis d
    axes = tuple(turned.index(2 - axis) for axis in range(dims))
    axes = tuple(axis - (3 - dims) for axis in axes)
    network = _network(config, where)
    return Imported(_data_plan(plans, dataset, config, axes, folder), _model(network, axes), axes, network)


def _data_plan(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    config: Mapping[str, Any],
    axes: Sequence[int],
    folder: Path,
) -> DataPlan:
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if regions := [name for name, value in labels.items() if not isinstance(value, int)]:
        raise CheckpointError(
            f"{folder / 'dataset.json'}: labels {', '.join(regions)} are regions, which share voxels; only "
            "models with one value per label can be imported"
        )
    names = dataset.get("channel_names") or dataset["modality"]
    spacing = list(config["spacing"])
    if len(axes) == 2:  # slices keep their distance, here the median one
        spacing = [plans["original_median_spacing_after_transp"][0], *spacing]
    x, y, z = (float(spacing[axis]) for axis in (axes if len(axes) == 3 else (axes[0] + 1, axes[1] + 1, 0)))
    return DataPlan(
        spacing_mm=(x, y, z),
        patch_size=tuple(int(config["patch_size"][axis]) for axis in axes),
        batch_size=int(config["batch_size"]),
        channels=tuple(str(names[str(i)]) for i in range(len(names))),
        normalization=tuple(_normalization(plans, config, i, folder) for i in range(len(names))),
        labels=dict(sorted(labels.items(), key=lambda item: item[1])),
        reasons={},
    )


def _normalization(
    plans: Mapping[str, Any], config: Mapping[str, Any], channel: int, folder: Path
) -> Normalization:
    scheme = config["normalization_schemes"][channel]
    kind = SCHEMES.get(scheme)
    if kind is None:
        raise CheckpointError(
            f"{folder / 'plans.json'}: channel {channel} is normalised by {scheme}, which medfuse has not; "
            f"known are {', '.join(SCHEMES)}"
        )
    if kind == "ct":
        facts = plans["foreground_intensity_properties_per_channel"][str(channel)]
        lower, upper, mean, std = (
            float(facts[key]) for key in ("percentile_00_5", "percentile_99_5", "mean", "std")
        )
        return Normalization("ct", lower, upper, mean, max(std, 1e-8))
    if kind == "none":
        return Normalization("none")
    return Normalization("nonzero_zscore" if config["use_mask_for_norm"][channel] else "zscore")


def _configuration(plans: Mapping[str, Any], name: str, where: Path) -> dict[str, Any]:
    """A configuration with all that it inherits."""
    known = plans["configurations"]
    if name not in known:
        raise CheckpointError(f"{where}: has no configuration {name}; it has {', '.join(known)}")
    own = dict(known[name])
    parent = own.pop("inherits_from", None)
    return {**_configuration(plans, parent, where), **own} if parent else own


def _network(config: Mapping[str, Any], where: Path) -> Network:
    """The network of a plan of nnunetv2 2.4 and later, or of the releases before."""
    if "architecture" not in config:
        return _older_network(config, where)
    kind = config["architecture"]["network_class_name"].rpartition(".")[2]
    given = config["architecture"]["arch_kwargs"]
    per_stage = "n_blocks_per_stage" if kind == RESIDUAL else "n_conv_per_stage"
    _check(kind, given, where)
    return Network(
        kind,
        tuple(given["features_per_stage"]),
        _axes(given["strides"], given["kernel_sizes"]),
        _axes(given["kernel_sizes"], given["kernel_sizes"]),
        _counts(given[per_stage], given["n_stages"]),
        _counts(given["n_conv_per_stage_decoder"], given["n_stages"] - 1),
    )


def _older_network(config: Mapping[str, Any], where: Path) -> Network:
    kind = config["UNet_class_name"]
    _check(kind, {}, where)
    kernels = config["conv_kernel_sizes"]
    stages, first = len(kernels), config["UNet_base_num_features"]
    return Network(
        kind,
        tuple(min(first * 2**i, config["unet_max_num_features"]) for i in range(stages)),
        _axes(config["pool_op_kernel_sizes"], kernels),
        _axes(kernels, kernels),
        _counts(config["n_conv_per_stage_encoder"], stages),
        _counts(config["n_conv_per_stage_decoder"], stages - 1),
    )


def _check(kind: str, given: Mapping[str, Any], where: Path) -> None:
    """That medfuse has this network. Raises CheckpointError."""
    if kind not in (PLAIN, RESIDUAL):
        raise CheckpointError(f"{where}: its network is a {kind}; {PLAIN} and {RESIDUAL} can be imported")
    installed = {entry.name for entry in registry.entries(Backbone.group)}
    if kind == RESIDUAL and "residual_encoder" not in installed:
        raise CheckpointError(
            f"{where}: its network is a {kind}; install the package medfuse-dynamic, which has its encoder"
        )
    wanted = {"norm_op": "InstanceNorm", "nonlin": "LeakyReLU", "dropout_op": ""}
    for key, name in wanted.items():
        value = str(given.get(key) or name).rpartition(".")[2]
        if not value.startswith(name) or (not name and value):
            raise CheckpointError(
                f"{where}: its network has {key} {value}; networks with instance norm, leaky ReLU and no "
                "dropout can be imported"
            )


def _axes(entries: Sequence[Any], like: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    dims = len(like[0])
    return tuple((n,) * dims if isinstance(n, int) else tuple(n) for n in entries)


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
    }
    decoder = {
        "use": "unet_decoder",
        "inputs": ["encoder.*"],
        "kernels": turned(network.kernels[:-1]),
        "convs": list(network.decoder_convs[::-1]),
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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no such file; {GIVE}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); copy it again") from error
