"""A checkpoint of nnssl as the start of a pipeline: its own plan says how it is adapted.

Wald et al. 2024 (OpenMind). nnssl's arrays are (z, y, x), as SimpleITK reads them; here they are (x, y, z).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator

from medfuse import registry
from medfuse.api import Backbone
from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import shortened, validated
from medfuse.imports.nnunet_files import ACTIVATIONS, ArchKwargs, Length, Size
from medfuse.imports.start import Start

if TYPE_CHECKING:
    from torch import Tensor

REMEDY = "give a checkpoint of nnssl, as it or OpenMind's pages have them"
NORMALIZE = {"ZScoreNormalization": "zscore", "CTNormalization": "ct", "NoNormalization": "none"}
CLASSES = ("ResEncL", "NoSkipResEncL", "ResidualEncoderUNet", "PlainConvUNet", "PrimusS/B/M/L")

Triple = Annotated[tuple[Size, ...], Field(min_length=3, max_length=3)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ArchitecturePlans(_Read):
    """The class of the network that takes the weights, and what it is built with."""

    arch_class_name: str
    arch_kwargs: ArchKwargs | None = None

    @property
    def kind(self) -> str:
        return self.arch_class_name.rpartition(".")[2]


class ConfigurationPlan(_Read):
    """What it was pretrained on. `spacing` is None where nothing was resampled."""

    spacing: Annotated[tuple[Length, ...], Field(min_length=3, max_length=3)] | None = None
    patch_size: Triple | None = None
    normalization_schemes: tuple[str, ...] = ()


class PretrainPlan(_Read):
    """nnssl's plan of a pretraining."""

    configurations: dict[str, ConfigurationPlan] = Field(min_length=1)
    transpose_forward: tuple[StrictInt, StrictInt, StrictInt] = (0, 1, 2)

    @field_validator("configurations", mode="before")
    @classmethod
    def _of_one(cls, value: Any) -> Any:
        """Some plans hold the one configuration that was used, in place of a mapping of them."""
        return {"": value} if isinstance(value, Mapping) and "spacing_style" in value else value


class AdaptationPlan(_Read):
    """`nnssl_adaptation_plan` of a checkpoint."""

    architecture_plans: ArchitecturePlans
    pretrain_plan: PretrainPlan
    pretrain_num_input_channels: Size = 1
    recommended_downstream_patchsize: Triple | None = None
    key_to_encoder: str
    key_to_stem: str
    key_to_lpe: str | None = None

    @property
    def prefix(self) -> str:
        """Below what the encoder's and the stem's names lie: `encoder` of encoder.stages and encoder.stem."""
        pairs = zip(self.key_to_encoder.split(".")[:-1], self.key_to_stem.split("."))
        return ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def is_nnssls(state: Any) -> bool:
    """Whether what a file holds has nnssl's plan."""
    return isinstance(state, Mapping) and "nnssl_adaptation_plan" in state


def read_nnssl(path: Path, state: Any) -> Start:
    """What the checkpoint `path`, which holds `state`, says of itself. Raises CheckpointError."""
    if not isinstance(state, Mapping) or not is_nnssls(state):
        raise CheckpointError(f"{path}: holds no nnssl_adaptation_plan; {REMEDY}")
    tensors = _tensors(path, state)
    where = f"{path}: nnssl_adaptation_plan"
    said = _plain(state["nnssl_adaptation_plan"])
    plan = validated(AdaptationPlan, said, where, raises=CheckpointError, remedy=REMEDY)
    if plan.pretrain_plan.transpose_forward != (0, 1, 2):
        raise CheckpointError(
            f"{where}: transpose_forward is {list(plan.pretrain_plan.transpose_forward)}, and axes that were "
            "exchanged cannot be told from the others; pretrain with [0, 1, 2]"
        )
    used = _used(plan, state)
    kind, prefix = plan.architecture_plans.kind, plan.prefix
    own = _below(tensors, prefix)
    if kind.startswith("Primus"):
        backbone, of = _primus(where, kind, own), "tokens"
        stride: tuple[int, ...] = (int(backbone.get("patch", 8)),) * 3
    elif kind in ("ResEncL", "NoSkipResEncL", "ResidualEncoderUNet", "PlainConvUNet"):
        backbone, stride = _unet(where, plan.architecture_plans, own)
        of = "pyramid"
    else:
        raise CheckpointError(
            f"{where}: its network is a {shortened(kind)}; {', '.join(CLASSES)} can be imported"
        )
    _installed(where, kind, str(backbone["use"]))
    schemes = {NORMALIZE.get(scheme) for scheme in used.normalization_schemes}
    if None in schemes or len(schemes) > 1:
        found = shortened(", ".join(used.normalization_schemes))
        raise CheckpointError(
            f"{where}: channels are normalised by {found}; one of {', '.join(NORMALIZE)} can be imported"
        )
    patch = plan.recommended_downstream_patchsize or used.patch_size
    spacing = used.spacing
    transfer: dict[str, Any] = {"weights": str(path)}
    if prefix:
        transfer["prefix"] = prefix
    return Start(
        what=f"{kind} that nnssl pretrained",
        backbone=backbone,
        kind="tokens" if of == "tokens" else "pyramid",
        transfer={**transfer, "at_least": 0.99, "resize_kernels": True},
        tap={"use": "tokens", "layers": "quarter"} if of == "tokens" else {},
        decoder={} if of == "tokens" or kind == "PlainConvUNet" else {"convs": 1},
        spacing_mm=(spacing[2], spacing[1], spacing[0]) if spacing else None,
        patch_size=patch[::-1] if patch else None,
        multiple=stride,
        normalize=str(next(iter(schemes), "auto")),
        channels=plan.pretrain_num_input_channels,
    )


def _tensors(path: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    from torch import Tensor

    weights = state.get("network_weights")
    found = weights.items() if isinstance(weights, Mapping) else ()
    tensors = {str(name): tensor for name, tensor in found if isinstance(tensor, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no network_weights; {REMEDY}")
    return tensors


def _plain(value: Any, depth: int = 0) -> Any:
    """A plan as JSON has it: classes and the like by their names."""
    if depth > 20 or isinstance(value, str | int | float | None):
        return value if depth <= 20 else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    return shortened(repr(value))


def _used(plan: AdaptationPlan, state: Mapping[str, Any]) -> ConfigurationPlan:
    """The configuration that was pretrained with; the first where the checkpoint does not tell."""
    known, arguments = plan.pretrain_plan.configurations, state.get("init_args")
    name = arguments.get("configuration_name") if isinstance(arguments, Mapping) else None
    return (
        known.get(name, next(iter(known.values()))) if isinstance(name, str) else next(iter(known.values()))
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors below a prefix, by their names there."""
    start = f"{prefix}." if prefix else ""
    return {k.removeprefix(start): tuple(t.shape) for k, t in tensors.items() if k.startswith(start)}


def _primus(where: str, kind: str, own: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A Primus of the width, depth and grid that its tensors have. Raises CheckpointError."""
    size = kind.removeprefix("Primus")
    kernel, learned = own.get("down_projection.proj.weight", ()), own.get("eva.pos_embed", ())
    depth = 1 + max((int(f[1]) for k in own if (f := re.match(r"eva\.blocks\.(\d+)\.", k))), default=-1)
    if size not in ("S", "B", "M", "L") or len(kernel) != 5 or len(learned) != 3 or not depth:
        raise CheckpointError(
            f"{where}: its network is a {shortened(kind)}, whose tensors down_projection.proj, eva.pos_embed "
            f"and eva.blocks are not all in network_weights; {REMEDY}"
        )
    registers = own.get("register_tokens", (1, 0, 0))[1]
    made: dict[str, Any] = {"use": "primus", "size": size, "channels": kernel[0], "depth": depth}
    side = round((learned[1] - registers) ** (1 / 3))
    told = {
        "patch": (kernel[2], 8),
        "grid": (side, 20),
        "registers": (registers, 0),
        "layer_scale": (any(k.endswith(".gamma_1") for k in own), False),
        "inner_norm": (any(k.endswith(".attn.norm.weight") for k in own), False),
    }
    return {**made, **{key: found for key, (found, usual) in told.items() if found != usual}}


def _unet(
    where: str, plans: ArchitecturePlans, own: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """A U-Net's encoder with the channels, blocks and kernels that its tensors have, and its whole stride."""
    plain, kwargs = plans.kind == "PlainConvUNet", plans.arch_kwargs
    pattern = (
        r"stages\.(\d+)\.0\.convs\.(\d+)\.conv\.weight"
        if plain
        else r"stages\.(\d+)\.blocks\.(\d+)\.conv1\.conv\.weight"
    )
    found = {(int(f[1]), int(f[2])): shape for k, shape in own.items() if (f := re.fullmatch(pattern, k))}
    stages = 1 + max((stage for stage, _ in found), default=-1)
    first = [found.get((stage, 0), ()) for stage in range(stages)]
    if stages < 2 or any(len(shape) != 5 for shape in first):
        raise CheckpointError(
            f"{where}: its network is a {plans.kind}, and network_weights has no two stages of a 3-D encoder "
            f"below its key_to_encoder; {REMEDY}"
        )
    steps: list[tuple[int, ...]] = [(1, 1, 1), *[(2, 2, 2)] * (stages - 1)]
    around: dict[str, Any] = {}
    if kwargs is not None:
        if faults := kwargs.faults():
            raise CheckpointError(
                f"{where}: its network has {', '.join(faults)}; networks with instance or batch norm, then "
                f"{', '.join(ACTIVATIONS)}, can be imported"
            )
        given = [(n,) * 3 if isinstance(n, int) else n[::-1] for n in kwargs.strides]
        if len(given) != stages or any(len(step) != 3 for step in given):
            raise CheckpointError(
                f"{where}: strides are of {len(given)} stages, and network_weights has {stages}; {REMEDY}"
            )
        steps = given
        around = {"activation": kwargs.activation} if kwargs.activation != "leaky_relu" else {}
    if any(k.endswith(".norm.running_mean") for k in own):
        around["norm"] = "batch"
    if not any(k.endswith(".conv.bias") for k in own):
        around["bias"] = False
    counts = [1 + max(n for stage, n in found if stage == number) for number in range(stages)]
    backbone = {
        "use": "unet_encoder" if plain else "residual_encoder",
        "channels": [shape[0] for shape in first],
        "strides": [list(step) for step in steps],
        "kernels": [list(shape[:1:-1]) for shape in first],
        "convs" if plain else "blocks": counts,
        **around,
    }
    return backbone, tuple(prod(sides) for sides in zip(*steps))


def _installed(where: str, kind: str, plugin: str) -> None:
    """Raises CheckpointError where no installed package has the backbone."""
    if plugin not in {entry.name for entry in registry.entries(Backbone.group)}:
        raise CheckpointError(
            f"{where}: its network is a {kind}; install the package medfuse-dynamic, which has its encoder"
        )
