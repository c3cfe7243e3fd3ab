"""The feature graph of a pipeline as arithmetic: channels and stride of every map, no tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from medfuse import registry
from medfuse.api import (
    ActivationLoss,
    AuxSchedule,
    Backbone,
    FeatureInfo,
    FusionBlock,
    ImageInfo,
    TapStrategy,
)
from medfuse.core.errors import Path, PipelineError, Problem, did_you_mean
from medfuse.core.names import is_part, matches
from medfuse.core.text import aligned, by, listed
from medfuse.model.blame import blame, placed
from medfuse.model.settings import ModelSettings

if TYPE_CHECKING:
    from medfuse.model.layers import Layer

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
        return frozenset(_names(made.sides)) if made else frozenset()

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
            text = _describe(self.features[name])
            views.append(NodeView(f"aux {name}", "aux", text, self._boxes([name])))
        return views

    def _boxes(self, names: Iterable[str]) -> tuple[str, ...]:
        """The boxes that make these maps: a side output is drawn as its node."""
        sides = {side.name: node.name for node in self.nodes for side in node.sides}
        return tuple(dict.fromkeys(sides.get(name, name) for name in names))

    def _users(self, feature: str) -> list[str]:
        users = [b.name for b in self.backbones if feature == IMAGE]
        users += [node.name for node in self.nodes if feature in _names(node.inputs)]
        users += ["head"] if feature == self.head else []
        users += ["aux"] if feature in self.aux else []
        users += ["training"] if feature in self.watched else []
        return users + [a.name for a in self.activations if feature in _names(a.maps)]


def plan_graph(
    settings: ModelSettings, image: ImageInfo, classes: int, watched: Mapping[str, Path] | None = None
) -> GraphPlan:
    """Resolve every name and compute every map's channels and stride.

    `watched`: further maps that training looks at, and where the pipeline file names each.
    Raises PipelineError with every problem, each at its key in the pipeline file.
    """
    return _Planner(settings, image).plan(classes, watched or {})


class _Planner:
    """One pass over the settings: what is known so far, and what is wrong."""

    def __init__(self, settings: ModelSettings, image: ImageInfo) -> None:
        self.settings = settings
        self.image = image
        self.problems: list[Problem] = []
        self.declared: dict[str, tuple[FeatureInfo, ...]] = {}  # of each backbone that could be asked
        self.called_for: dict[str, dict[str, FeatureInfo]] = {name: {} for name in settings.backbones}
        self.surveys: dict[str, Sequence[Layer]] = {}
        self.nodes: dict[str, NodePlan | None] = {}  # None where it could not be planned
        self.underway: list[str] = []

    def plan(self, classes: int, watched: Mapping[str, Path]) -> GraphPlan:
        self._check_names()
        for name, backbone in self.settings.backbones.items():
            self._declare(name, backbone)
        strategies = self._strategies()
        for name in self.settings.fusion:
            self._node(name, ())
        head = self._head()
        aux = self._aux()
        activations = tuple(self._activations())
        seen = self._watched(watched)
        ends = {head, *aux, *(f.name for a in activations for f in a.maps), *seen}
        if not self.problems:  # a mistyped name makes what it meant look unused
            self._check_all_used(ends)
        if self.problems:
            raise PipelineError(self.problems)
        return replace(self._graph(classes, strategies, ends, head, aux, activations), watched=seen)

    def _graph(
        self,
        classes: int,
        strategies: Mapping[str, TapStrategy],
        ends: set[str],
        head: str,
        aux: tuple[str, ...],
        activations: tuple[ActivationPlan, ...],
    ) -> GraphPlan:
        nodes = tuple(node for node in self.nodes.values() if node)
        used = {name for node in nodes for name in _names(node.inputs)} | ends
        features = {IMAGE: self._image()}
        backbones = []
        for name, backbone in self.settings.backbones.items():
            offered = sorted(
                (*self.declared[name], *self.called_for[name].values()), key=lambda f: prod(f.stride)
            )
            taps = tuple(f for f in offered if f"{name}.{f.name}" in used)
            backbones.append(BackbonePlan(name, backbone, strategies[name], taps))
            features |= {f.name: f for f in (tap.in_graph(name) for tap in taps)}
        for node in nodes:
            features |= {f.name: f for f in (node.output, *node.sides)}
        upsample = self.settings.head.upsample
        return GraphPlan(
            self.image, classes, tuple(backbones), nodes, features, head, upsample, aux, activations
        )

    def _problem(self, path: Path, message: str) -> None:
        self.problems.append(Problem(("model", *path), message))

    def _image(self) -> FeatureInfo:
        return FeatureInfo(IMAGE, self.image.channels, (1,) * self.image.dims)

    def _check_names(self) -> None:
        for section, names in (("backbones", self.settings.backbones), ("fusion", self.settings.fusion)):
            for name in names:
                if name == IMAGE:
                    self._problem((section, name), "`image` is the network's input; choose another name")
                elif not re.fullmatch(r"[A-Za-z]\w*", name):
                    self._problem((section, name), "a name has letters, digits and _ only, a letter first")
        for name in self.settings.fusion:
            if name in self.settings.backbones:
                self._problem(("fusion", name), "a backbone has this name; choose another")

    # ---- backbones and taps

    def _declare(self, name: str, backbone: Backbone) -> None:
        """Ask a backbone for its features, and hold them against the contract."""
        try:
            with placed(("model", "backbones", name), backbone):
                found = tuple(backbone.features(self.image))
        except PipelineError as error:
            self.problems += error.problems
            return
        faults = [fault for f in found if (fault := self._fault(f))]
        if len(set(_names(found))) < len(found):
            faults.append("declares a name twice")
        if not found:
            faults.append("declares no features, so there is nothing to tap")
        for fault in faults:
            self._problem(("backbones", name), f"{blame(backbone)} {fault}")
        if not faults:
            self.declared[name] = found

    def _fault(self, feature: FeatureInfo) -> str:
        """What is wrong with a declared map in itself, or nothing."""
        if feature.dims != self.image.dims:
            return f"declares {feature.dims}-D strides for {feature.name}; the patch is {self.image.dims}-D"
        if feature.channels < 1 or min(feature.stride) < 1:
            return f"declares {feature.channels} channels, stride {by(feature.stride)} for {feature.name}"
        return ""

    def _strategies(self) -> dict[str, TapStrategy]:
        """How each backbone is tapped; narrows `declared` to the layers that a strategy lists."""
        default = registry.get(TapStrategy.group, "forward_hook")()
        assert isinstance(default, TapStrategy)
        for name, strategy in self.settings.taps.items():
            if name not in self.settings.backbones:
                known = self.settings.backbones
                near = did_you_mean(name, known)
                self._problem(("taps", name), f"no backbone is named {name!r}{near} ({listed([*known])})")
            elif name in self.declared and strategy.layers:
                self._narrow(name, strategy.layers)
        return {name: self.settings.taps.get(name, default) for name in self.settings.backbones}

    def _narrow(self, name: str, layers: Sequence[str]) -> None:
        """Keep what a strategy lists: declared features or, where it lists no such, layers of any depth."""
        declared, picked = self.declared[name], dict[str, FeatureInfo]()
        for index, layer in enumerate(layers):
            found = _matching(declared, layer) or _matching(self._undeclared(name, layer), layer)
            if not found:
                self._problem(("taps", name, "layers", index), self._no_layer(name, layer))
            picked |= {f.name: f for f in found}
        if picked:
            self.declared[name] = tuple(sorted(picked.values(), key=lambda f: prod(f.stride)))
        else:
            del self.declared[name]  # or every reference to it would be a problem too

    def _undeclared(self, name: str, layer: str) -> list[FeatureInfo]:
        """What can be tapped besides declared features; another path of a layer only where it is named."""
        found = [(other, f) for other in self._survey(name) if other.name and (f := other.feature())]
        return [f for other, f in found if not other.same_as or other.name == layer]

    def _survey(self, name: str) -> Sequence[Layer]:
        """Every layer of a backbone, found by trials the first time that somebody asks."""
        if name not in self.surveys:
            from medfuse.model.layers import find_layers  # planning what is declared needs no torch

            backbone, self.surveys[name] = self.settings.backbones[name], ()
            try:
                with placed(("model", "backbones", name), backbone):
                    made = find_layers(lambda: backbone.build(self.image), self.image, partial=True)
                    self.surveys[name] = made
            except PipelineError as error:
                self.problems += error.problems
        return self.surveys[name]

    def _no_layer(self, name: str, layer: str) -> str:
        known = [f.name for f in self.declared[name] if not is_part(f.name)]
        if why := self._why_not(name, layer):
            return f"{why} (it has: {listed(known)})"
        near = did_you_mean(layer, [*known, *(other.name for other in self._survey(name))])
        return (
            f"backbone {name!r} has no layer {layer!r}{near} (it has: {listed(known)}; "
            "`medfuse taps FILE` lists every layer)"
        )

    def _why_not(self, name: str, layer: str) -> str:
        """Why a layer that there is cannot be tapped."""
        reasons = [other.reason for other in self._survey(name) if other.name == layer and other.reason]
        return f"layer {layer!r} of backbone {name!r} {reasons[0]}" if reasons else ""

    # ---- names → feature maps

    def _resolve(self, reference: str, path: Path) -> list[FeatureInfo] | None:
        """The maps that a reference stands for, by their names in the graph; None where it cannot be said.

        Whatever is wrong becomes a problem, at `path` or, where another node is at fault, at that node.
        """
        owner, dot, layer = reference.partition(".")
        if reference == IMAGE:
            return [self._image()]
        if owner in self.settings.backbones:
            return self._resolve_tap(owner, layer, path)
        if owner in self.settings.fusion:
            node = self._node(owner, path)
            if node is None:
                return None
            return self._pick(reference, node.sides, path, f"node {owner!r}") if dot else [node.output]
        self._problem(path, f"no feature map is named {reference!r}{self._nearest(reference)}")
        return None

    def _resolve_tap(self, owner: str, layer: str, path: Path) -> list[FeatureInfo] | None:
        if owner not in self.declared:
            return None  # said at the backbone
        features = [f.in_graph(owner) for f in (*self.declared[owner], *self.called_for[owner].values())]
        if not layer:
            self._problem(path, f"{owner!r} is a backbone; name a feature of it: {listed(_names(features))}")
            return None
        strategy = self.settings.taps.get(owner)
        limited = f", as model.taps.{owner}.layers limits it," if strategy and strategy.layers else ""
        what = f"backbone {owner!r}{limited}"
        if limited or "*" in layer or any(matches(f.name, f"{owner}.{layer}") for f in features):
            return self._pick(f"{owner}.{layer}", features, path, what)
        found = [f for f in self._undeclared(owner, layer) if f.name == layer]
        if found:
            self.called_for[owner][layer] = found[0]
            return [found[0].in_graph(owner)]
        if reason := self._why_not(owner, layer):
            self._problem(path, reason)
            return None
        return self._pick(f"{owner}.{layer}", features, path, what)

    def _pick(
        self, reference: str, features: Sequence[FeatureInfo], path: Path, what: str
    ) -> list[FeatureInfo] | None:
        found = [f for f in features if matches(f.name, reference)]
        if not found:
            names = _names(features)
            has = f"it has: {listed(names)}" if names else "it has none"
            near = did_you_mean(reference, names)
            self._problem(path, f"{what} has no feature map {reference!r}{near} ({has})")
        return found or None

    def _nearest(self, reference: str) -> str:
        taps = [f"{name}.{f.name}" for name, features in self.declared.items() for f in features]
        nodes = [*self.settings.fusion]
        known = [IMAGE, *(f"{name}.LAYER" for name in self.settings.backbones), *nodes]
        return f"{did_you_mean(reference, [IMAGE, *taps, *nodes])} (there are: {', '.join(known)})"

    # ---- nodes

    def _node(self, name: str, asked_at: Path) -> NodePlan | None:
        """Plan a node after the nodes that it needs, so that `nodes` fills up in the order of computation."""
        if name in self.underway:
            circle = " → ".join([*self.underway[self.underway.index(name) :], name])
            self._problem(asked_at, f"the nodes need each other in a circle: {circle}; take one input out")
            return None
        if name not in self.nodes:
            self.underway.append(name)
            made = self._make_node(name, self.settings.fusion[name])
            self.underway.pop()
            self.nodes[name] = made
        return self.nodes[name]

    def _make_node(self, name: str, block: FusionBlock) -> NodePlan | None:
        resolved = [
            self._resolve(reference, ("fusion", name, "inputs", index))
            for index, reference in enumerate(block.inputs)
        ]
        raw = [feature for features in resolved if features for feature in features]
        reference = self._reference(name, block, raw) if None not in resolved else None
        if reference is None:
            return None
        inputs = tuple(_on_grid(raw, reference) if reference else raw)
        try:
            with placed(("model", "fusion", name), block):
                output = block.plan(inputs).named(name)
                sides = tuple(s.named(f"{name}.{s.name}") for s in block.side_outputs(inputs))
        except PipelineError as error:
            self.problems += error.problems
            return None
        faults = [fault for f in (output, *sides) if (fault := self._fault(f))]
        for fault in faults:
            self._problem(("fusion", name), f"{blame(block)} {fault}")
        return None if faults else NodePlan(name, block, inputs, reference, output, sides)

    def _reference(
        self, name: str, block: FusionBlock, inputs: Sequence[FeatureInfo]
    ) -> tuple[int, ...] | None:
        """Per axis, the input whose grid the others are brought to; None where `resample_to` is no input."""
        if not block.aligns:
            for key in ("resample", "resample_to"):
                if getattr(block, key) == FusionBlock.model_fields[key].default:
                    continue  # resolved.yaml says the defaults too
                message = f"{blame(block)} takes its inputs as they are; remove `{key}`"
                self._problem(("fusion", name, key), message)
            return ()
        names, axes, wanted = _names(inputs), range(self.image.dims), block.resample_to
        if wanted in ("finest", "coarsest"):
            best = min if wanted == "finest" else max
            return tuple(best(range(len(inputs)), key=lambda i: inputs[i].stride[axis]) for axis in axes)
        if wanted in names:
            return (names.index(wanted),) * self.image.dims
        known = ["finest", "coarsest", *names]
        near = did_you_mean(wanted, known)
        message = f"{wanted!r} is not an input of this node{near} (known: {listed(known)})"
        self._problem(("fusion", name, "resample_to"), message)
        return None

    # ---- heads

    def _head(self) -> str:
        path = ("head", "input")
        found = self._resolve(self.settings.head.input, path)
        if found and len(found) > 1:
            self._problem(path, f"the head takes one map; choose one of {listed(_names(found))}")
        return found[0].name if found else ""

    def _aux(self) -> tuple[str, ...]:
        names: list[str] = []
        for index, reference in enumerate(self.settings.aux.heads if self.settings.aux else ()):
            path = ("aux", "heads", index)
            for feature in self._resolve(reference, path) or ():
                if feature.name in names:
                    self._problem(path, f"{feature.name!r} has an auxiliary head already; remove one")
                names.append(feature.name)
        self._check_weights(names)
        return tuple(names)

    def _check_weights(self, heads: Sequence[str]) -> None:
        """Fixed weights of auxiliary heads must be as many as there are heads, or one more."""
        aux, count = self.settings.aux, len(heads)
        if aux is None or aux.weights is None or not heads:
            return
        if len(aux.weights) not in (count, 1 + count):
            message = (
                f"{len(aux.weights)} weights for {count} heads ({listed(heads)}); give {count}, or "
                f"{1 + count} with that of the main loss in front"
            )
            self._problem(("aux", "weights"), message)
        elif not any(aux.fixed(count)):
            self._problem(("aux", "weights"), "all are 0, and nothing would be learned; give one above 0")
        if aux.schedule and type(aux.schedule).balance is not AuxSchedule.balance:
            message = f"{blame(aux.schedule)} learns the weights; remove `weights`, or take another schedule"
            self._problem(("aux", "weights"), message)

    def _activations(self) -> Iterable[ActivationPlan]:
        for name, loss in self.settings.activation_losses.items():
            path = ("activation_losses", name)
            found = [self._resolve(m, (*path, "maps", index)) for index, m in enumerate(loss.maps)]
            if None in found:
                continue
            maps = tuple(feature for features in found for feature in features or ())
            try:
                with placed(("model", *path), loss):
                    loss.plan(maps)
            except PipelineError as error:
                self.problems += error.problems
            else:
                yield ActivationPlan(name, loss, maps)

    def _watched(self, places: Mapping[str, Path]) -> tuple[str, ...]:
        names: list[str] = []
        for reference, path in places.items():
            before = len(self.problems)
            found = self._resolve(reference, ())
            if found and len(found) > 1:
                self._problem((), f"one map is looked at; choose one of {listed(_names(found))}")
            self.problems[before:] = [replace(p, path=path) for p in self.problems[before:]]
            names += _names(found or ())
        return tuple(names)

    # ---- nothing idle

    def _check_all_used(self, wanted: set[str]) -> None:
        """Every node, backbone and listed tap must reach a head or a loss."""
        wanted = set(wanted)
        for node in reversed([n for n in self.nodes.values() if n]):
            if wanted & set(_names((node.output, *node.sides))):
                wanted |= set(_names(node.inputs))
            else:
                message = (
                    "no head uses this node, directly or through others; remove it, or name it in an input"
                )
                self._problem(("fusion", node.name), message)
        for name, features in self.declared.items():
            offered = (*features, *self.called_for[name].values())
            used = [f.name for f in offered if f"{name}.{f.name}" in wanted]
            if not used:
                known = listed([f"{name}.{f.name}" for f in features])
                message = f"nothing uses this backbone; remove it, or use one of {known}"
                self._problem(("backbones", name), message)
                continue
            strategy = self.settings.taps.get(name)
            for index, layer in enumerate(strategy.layers if strategy else ()):
                if not any(matches(u, layer) for u in used):
                    message = f"{layer!r} is tapped and never used; remove it, or use {name}.{layer}"
                    self._problem(("taps", name, "layers", index), message)


def _on_grid(inputs: Sequence[FeatureInfo], reference: tuple[int, ...]) -> list[FeatureInfo]:
    stride = tuple(inputs[index].stride[axis] for axis, index in enumerate(reference))
    return [replace(f, stride=stride) for f in inputs]


def _matching(features: Iterable[FeatureInfo], pattern: str) -> list[FeatureInfo]:
    return [f for f in features if matches(f.name, pattern)]


def _names(features: Iterable[FeatureInfo]) -> list[str]:
    return [f.name for f in features]


def _channels(feature: FeatureInfo) -> str:
    return f"{feature.channels} channel{'s' if feature.channels > 1 else ''}"


def _describe(feature: FeatureInfo) -> str:
    return f"{_channels(feature)}, stride {by(feature.stride)}"
