"""The network that a graph plan describes: backbones, taps, fusion blocks and heads, wired up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo
from medfuse.core.still import freeze, hold, keep_still
from medfuse.core.text import listed
from medfuse.model.blame import placed
from medfuse.model.borrowed import out_of_sight
from medfuse.model.brought import Brought, bring
from medfuse.model.plan import IMAGE, GraphPlan, names_of
from medfuse.model.resample import centred, fit, resize
from medfuse.model.still import untaught
from medfuse.model.trial import settled


class Parts(nn.ModuleDict):
    """Modules by name, whatever the name: a node may be called `type` or `keys`."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        assert module is not None
        self._modules[name] = module

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":  # the mode, though a node is called that
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


@dataclass(frozen=True)
class _Node:
    """What the forward pass needs to know of a fusion block."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[FeatureInfo, ...]
    reference: tuple[int, ...]
    resample: Literal["linear", "nearest"]
    overhangs: bool

    @property
    def names(self) -> list[str]:
        """Of its outputs."""
        return names_of(self.outputs)

    def placed(self, made: object, size: Sequence[int]) -> dict[str, Tensor]:
        """What the block made of an image of `size`, by name."""
        maps = made if isinstance(made, list | tuple) else [made]
        if self.overhangs:
            maps = [fit(x, f.size(tuple(size))) for x, f in zip(maps, self.outputs)]
        return dict(zip(self.names, maps))


class Given:
    """Maps by their names in the graph that a forward pass starts from, in place of computing them.

    A class of its own, as engines of training cast the tensors of arguments that are containers.
    """

    def __init__(self, maps: Mapping[str, Tensor]) -> None:
        self.maps = dict(maps)

    def chunk(self, parts: int) -> list[Given]:
        """Those of parts of the batch, as `torch.chunk` cuts it."""
        cut = {name: tensor.chunk(parts) for name, tensor in self.maps.items()}
        count = max((len(shares) for shares in cut.values()), default=1)
        return [Given({name: shares[n] for name, shares in cut.items()}) for n in range(count)]


class Segmenter(nn.Module):
    """image (batch, channels, *spatial) → logits (batch, classes, *spatial), for any spatial size.

    With `aux`, names of auxiliary heads: (logits, {name: logits on that map's own grid}). With `maps`, names
    of taps or nodes: (logits, the same, {name: map}). What nobody asks for is not computed, nor what is
    `given`: where that is all that a backbone is asked for, it does not run.

    What no loss teaches is frozen: backbones and nodes that get no gradient. These, and whatever else is
    frozen (core/still.py), stay in evaluation mode while the rest trains, so that their running statistics
    stand still.

    `brought`: by backbone, the weights that it brought along, where these are asked for. `untaught`: parts
    that no loss teaches.
    """

    def __init__(self, plan: GraphPlan, *, bring_weights: bool = False) -> None:
        super().__init__()
        self.brought: dict[str, Brought] = {}
        self.backbones, self.fusion, self.aux = Parts(), Parts(), Parts()
        for b in plan.backbones:
            with placed(("model", "backbones", b.name), b.backbone):
                network = settled(b.backbone.build(plan.image), plan.image)
                _refuse_hidden(network)
                if bring_weights and (brought := bring(network, b.backbone, plan.image)):
                    self.brought[b.name] = brought
            with placed(("model", "taps", b.name), b.strategy):
                self.backbones[b.name] = b.strategy.attach(network, b.taps, plan.image)
        for node in plan.nodes:
            with placed(("model", "fusion", node.name), node.block):
                self.fusion[node.name] = node.block.build(node.inputs)
        self.head = _classifier(plan, plan.head)
        self._summed = plan.summed
        own = [name for name in plan.aux if name not in self._summed]
        for name in own:
            self.aux[_key(name)] = _classifier(plan, name)
        assert len(self.aux) == len(own), "two auxiliary heads share a key"
        self._head_input = plan.head
        self._upsample: Literal["linear", "nearest"] = plan.upsample
        self._starts = {
            f"{b.name}.{tap.name}": tap.stride
            for b in plan.backbones
            if b.strategy.align == "start"
            for tap in b.taps
        }
        self._taps = {b.name: b.taps for b in plan.backbones}
        self._nodes = tuple(
            _Node(
                node.name,
                tuple(f.name for f in node.inputs),
                (node.output, *node.sides),
                node.reference,
                node.block.resample,
                node.block.overhangs,
            )
            for node in plan.nodes
        )

        self.untaught = untaught(plan)
        for name, part in self._parts():
            if name in self.untaught:
                freeze(part)
                hold(part, True)
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode:
            keep_still(self)
        return self

    def _parts(self) -> list[tuple[str, nn.Module]]:
        return [*self.backbones.items(), *self.fusion.items()]

    def forward(
        self,
        image: Tensor,
        aux: tuple[str, ...] = (),
        maps: tuple[str, ...] = (),
        given: Given | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]] | tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        made = self._maps(image, (self._head_input, *aux, *maps), given.maps if given else {})
        logits = resize(self.head(made[self._head_input]), image.shape[2:], self._upsample)
        if not aux and not maps:
            return logits
        inner = {name: self._aux_head(name)(made[name]) for name in aux}
        return (logits, inner, {name: made[name] for name in maps}) if maps else (logits, inner)

    def maps_of(self, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """These maps alone, as the graph has them; no head is run."""
        made = self._maps(image, tuple(names), {})
        return {name: made[name] for name in names}

    def _aux_head(self, name: str) -> nn.Module:
        """The main head itself, where it stands on a sum that this map is a part of."""
        return self.head if name in self._summed else self.aux[_key(name)]

    def _maps(self, image: Tensor, wanted: tuple[str, ...], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`wanted`, and all that is computed on the way to them from the image and what is `given`."""
        needed = set(wanted) - given.keys()
        nodes: list[_Node] = []
        for node in reversed(self._nodes):
            if any(name in needed for name in node.names):
                nodes.insert(0, node)
                needed.update(name for name in node.inputs if name not in given)
        maps = {IMAGE: image, **given}
        for backbone, taps in self._taps.items():
            names = {f"{backbone}.{tap.name}": tap for tap in taps}
            if needed & {*names}:
                made = self.backbones[backbone](image)
                maps.update({name: _as_the_graph(made[t.name], t, image) for name, t in names.items()})
        for name, stride in self._starts.items():
            if name in maps and name not in given:
                maps[name] = centred(maps[name], stride)
        for node in nodes:
            made = self.fusion[node.name](*_aligned([maps[name] for name in node.inputs], node))
            maps |= node.placed(made, image.shape[2:])
        return maps


def build_segmenter(plan: GraphPlan, *, bring_weights: bool = False) -> Segmenter:
    """The network with fresh weights, and those that its backbones bring along where these are asked for.

    On torch's default device. Raises PipelineError where a plugin refuses: taps are tried out when they are
    attached.
    """
    return Segmenter(plan, bring_weights=bring_weights)


def _refuse_hidden(network: nn.Module) -> None:
    """Raises ShapeError where weights of a network would be random after each start."""
    if hidden := out_of_sight(network):
        raise ShapeError(
            f"the network keeps {listed(hidden)} in a plain list or dict, so that its weights are neither "
            "trained nor saved; keep layers in a torch.nn.ModuleList or ModuleDict, or freeze them"
        )


def _as_the_graph(made: Tensor, tap: FeatureInfo, image: Tensor) -> Tensor:
    """A tapped map in the graph's order of axes, and in its precision where a network has one of its own."""
    tapped = tap.as_map(made, image.shape[2:])
    if tapped.dtype == image.dtype:
        return tapped
    mixed = not image.is_meta and torch.is_autocast_enabled(image.device.type)
    return tapped if mixed and tapped.dtype != torch.float64 else tapped.to(image.dtype)


def _aligned(inputs: Sequence[Tensor], node: _Node) -> list[Tensor]:
    """Every input on the reference grid, whose real size is known only now."""
    if not node.reference:
        return list(inputs)
    size = [inputs[index].shape[2 + axis] for axis, index in enumerate(node.reference)]
    return [resize(x, size, node.resample) for x in inputs]


def _classifier(plan: GraphPlan, name: str) -> nn.Module:
    """A 1×1 convolution from a map's channels to logits."""
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[plan.image.dims]
    return convolution(plan.features[name].channels, plan.classes, kernel_size=1)


def _key(name: str) -> str:
    """Modules are named without dots; state dicts then say `aux.encoder__layer2.weight`."""
    return name.replace(".", "__")
