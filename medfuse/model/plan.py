"""A planned feature graph: its backbones, nodes and maps, as values, as a table and as boxes of a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medfuse import registry
from medfuse.api import ActivationLoss, Backbone, FeatureInfo, FusionBlock, ImageInfo, TapStrategy
from medfuse.core.text import aligned, by

IMAGE = "image"


@dataclass(frozen=True)
class BackbonePlan:
    """A backbone and the features that are tapped, by the backbone's own names, finest first."""

    name: str
    backbone: Backbone
    strategy: TapStrategy
    taps: tuple[FeatureInfo, ...]


@dataclass(frozen=True)
class NodePlan:
    """A fusion block in its place.

    `inputs` have the graph's names and, where the block aligns, the stride that they are brought to.
    `reference[axis]` is the index of the input whose size counts on that axis; empty where the block takes
    its inputs as they are.
    """

    name: str
    block: FusionBlock
    inputs: tuple[FeatureInfo, ...]
    reference: tuple[int, ...]
    output: FeatureInfo
    sides: tuple[FeatureInfo, ...]


@dataclass(frozen=True)
class ActivationPlan:
    """A loss on inner maps, which have the graph's names."""

    name: str
    loss: ActivationLoss
    maps: tuple[FeatureInfo, ...]


@dataclass(frozen=True)
class NodeView:
    """One box of the graph's picture."""

    name: str
    kind: Literal["image", "backbone", "tap", "fusion", "head", "aux"]
    text: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class GraphPlan:
    """A model without faults, nodes in the order of their computation.

    `features` holds every map by its name in the graph: `image`, BACKBONE.LAYER, NODE, NODE.SIDE. `aux`
    names those with an auxiliary head.
    """

    image: ImageInfo
    classes: int
    backbones: tuple[BackbonePlan, ...]
    nodes: tuple[NodePlan, ...]
    features: Mapping[str, FeatureInfo]
    head: str
    upsample: Literal["linear", "nearest"]
    aux: tuple[str, ...]
    activations: tuple[ActivationPlan, ...] = ()
    watched: tuple[str, ...] = ()

    @property
    def summed(self) -> frozenset[str]:
        """Side outputs that the head's input is the sum of: the head makes a prediction of each."""
        made = next((n for n in self.nodes if n.output.name == self.head and n.block.adds_up), None)
        return frozenset(f.name for f in made.sides if not f.image_level) if made else frozenset()

    @property
    def presence(self) -> tuple[str, ...]:
        """The auxiliary heads of image-level maps, which tell what labels are in the patch."""
        return tuple(name for name in self.aux if self.features[name].image_level)

    def rows(self) -> list[dict[str, Any]]:
        """One row per feature map: name, made_by, channels, stride, size, used_by."""
        makers = {IMAGE: "the input"}
        for b in self.backbones:
            makers |= {f"{b.name}.{tap.name}": registry.name_of(b.backbone) for tap in b.taps}
        for node in self.nodes:
            makers |= {f.name: registry.name_of(node.block) for f in (node.output, *node.sides)}
        return [
            {
                "name": name,
                "made_by": makers[name],
                "channels": feature.channels,
                "stride": list(feature.stride),
                "size": list(feature.size(self.image.patch_size)),
                "used_by": self._users(name),
            }
            for name, feature in self.features.items()
        ]

    def table(self) -> str:
        """`rows` as aligned text."""
        rows = [["feature", "made by", "channels", "stride", "size", "used by"]]
        for row in self.rows():
            stride, size, users = by(row["stride"]), by(row["size"]), ", ".join(row["used_by"])
            stride = "whole image" if self.features[row["name"]].image_level else stride
            rows.append([row["name"], row["made_by"], str(row["channels"]), stride, size, users])
        return aligned(rows)

    def views(self) -> list[NodeView]:
        """The graph as boxes for a picture, each after what flows into it."""
        image = self.features[IMAGE]
        views = [NodeView(IMAGE, "image", f"{_channels(image)}\n{by(self.image.patch_size)}", ())]
        for b in self.backbones:
            views.append(NodeView(b.name, "backbone", registry.name_of(b.backbone), (IMAGE,)))
            views += [NodeView(f"{b.name}.{t.name}", "tap", _describe(t), (b.name,)) for t in b.taps]
        for node in self.nodes:
            text = f"{registry.name_of(node.block)}\n{_describe(node.output)}"
            views.append(NodeView(node.name, "fusion", text, self._boxes(f.name for f in node.inputs)))
        views.append(NodeView("main head", "head", f"{self.classes} classes", self._boxes([self.head])))
        for name in self.aux:
            text = _describe(self.features[name]) + "\nlabels in the patch" * (name in self.presence)
            views.append(NodeView(f"aux {name}", "aux", text, self._boxes([name])))
        return views

    def _boxes(self, names: Iterable[str]) -> tuple[str, ...]:
        """The boxes that make these maps: a side output is drawn as its node."""
        sides = {side.name: node.name for node in self.nodes for side in node.sides}
        return tuple(dict.fromkeys(sides.get(name, name) for name in names))

    def _users(self, feature: str) -> list[str]:
        users = [b.name for b in self.backbones if feature == IMAGE]
        users += [node.name for node in self.nodes if feature in names_of(node.inputs)]
        users += ["head"] if feature == self.head else []
        users += ["aux (labels in the patch)" if feature in self.presence else "aux"] * (feature in self.aux)
        users += ["training"] if feature in self.watched else []
        return users + [a.name for a in self.activations if feature in names_of(a.maps)]


def names_of(features: Iterable[FeatureInfo]) -> list[str]:
    """The maps' names, in their order."""
    return [f.name for f in features]


def _channels(feature: FeatureInfo) -> str:
    return f"{feature.channels} channel{'s' if feature.channels > 1 else ''}"


def _describe(feature: FeatureInfo) -> str:
    return f"{_channels(feature)}, {'whole image' if feature.image_level else f'stride {by(feature.stride)}'}"
