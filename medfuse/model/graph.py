"""The feature graph of a pipeline as arithmetic: channels and stride of every map, no tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from medfuse.api import AuxSchedule, FeatureInfo, FusionBlock, ImageInfo, TapStrategy
from medfuse.core.errors import Path, PipelineError, Problem, did_you_mean
from medfuse.core.text import listed
from medfuse.model.blame import blame, placed
from medfuse.model.offers import Offers, fault_of, on_patch
from medfuse.model.plan import IMAGE, ActivationPlan, BackbonePlan, GraphPlan, NodePlan, names_of
from medfuse.model.settings import ModelSettings

NO_GRID = "says one thing of the whole image, and has no grid"


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
        self.offers = Offers(settings, image, self.problems)
        self.nodes: dict[str, NodePlan | None] = {}  # None where it could not be planned
        self.underway: list[str] = []

    def plan(self, classes: int, watched: Mapping[str, Path]) -> GraphPlan:
        self._check_names()
        for name, backbone in self.settings.backbones.items():
            self.offers.declare(name, backbone)
        strategies = self.offers.strategies()
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
        used = {name for node in nodes for name in names_of(node.inputs)} | ends
        features = {IMAGE: self._image()}
        backbones = []
        for name, backbone in self.settings.backbones.items():
            offered = sorted(self.offers.of(name), key=lambda f: f.coarseness)
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

    # ---- names → feature maps

    def _resolve(self, reference: str, path: Path) -> list[FeatureInfo] | None:
        """The maps that a reference stands for, by their names in the graph; None where it cannot be said.

        Whatever is wrong becomes a problem, at `path` or, where another node is at fault, at that node.
        """
        owner, dot, layer = reference.partition(".")
        if reference == IMAGE:
            return [self._image()]
        if owner in self.settings.backbones:
            return self.offers.resolve(owner, layer, path)
        if owner in self.settings.fusion:
            node = self._node(owner, path)
            if node is None:
                return None
            return self.offers.pick(reference, node.sides, path, f"node {owner!r}") if dot else [node.output]
        self._problem(path, f"no feature map is named {reference!r}{self._nearest(reference)}")
        return None

    def _nearest(self, reference: str) -> str:
        taps = [f"{name}.{f.name}" for name, features in self.offers.declared.items() for f in features]
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
                output = self._made(block.plan(inputs).named(name), raw)
                sides = tuple(
                    self._made(s.named(f"{name}.{s.name}"), raw) for s in block.side_outputs(inputs)
                )
        except PipelineError as error:
            self.problems += error.problems
            return None
        faults = [fault for f in (output, *sides) if (fault := fault_of(f, self.image))]
        for fault in faults:
            self._problem(("fusion", name), f"{blame(block)} {fault}")
        return None if faults else NodePlan(name, block, inputs, reference, output, sides)

    def _made(self, output: FeatureInfo, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        """A node's map, which is image-level where all that it is made of is."""
        level = output.image_level or all(f.image_level for f in inputs)
        return on_patch(replace(output, image_level=level), self.image)

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
        grids = [i for i, f in enumerate(inputs) if not f.image_level] or [*range(len(inputs))]
        names, axes, wanted = names_of(inputs), range(self.image.dims), block.resample_to
        if wanted in ("finest", "coarsest"):
            best = min if wanted == "finest" else max
            return tuple(best(grids, key=lambda i: inputs[i].stride[axis]) for axis in axes)
        if wanted in names and names.index(wanted) in grids:
            return (names.index(wanted),) * self.image.dims
        if wanted in names:
            message = f"{wanted!r} {NO_GRID}; name an input that is a map"
            self._problem(("fusion", name, "resample_to"), message)
            return None
        known = ["finest", "coarsest", *(names[i] for i in grids)]
        near = did_you_mean(wanted, known)
        message = f"{wanted!r} is not an input of this node{near} (known: {listed(known)})"
        self._problem(("fusion", name, "resample_to"), message)
        return None

    # ---- heads

    def _head(self) -> str:
        path = ("head", "input")
        found = self._resolve(self.settings.head.input, path)
        if found and len(found) > 1:
            self._problem(path, f"the head takes one map; choose one of {listed(names_of(found))}")
        elif found and found[0].image_level:
            self._problem(
                path,
                f"{found[0].name!r} {NO_GRID}; fuse it with a map first, or supervise it with an auxiliary "
                "head",
            )
        return found[0].name if found else ""

    def _aux(self) -> tuple[str, ...]:
        names: list[str] = []
        levels = 0
        for index, reference in enumerate(self.settings.aux.heads if self.settings.aux else ()):
            path = ("aux", "heads", index)
            for feature in self._resolve(reference, path) or ():
                if feature.name in names:
                    self._problem(path, f"{feature.name!r} has an auxiliary head already; remove one")
                names.append(feature.name)
                levels += feature.image_level
        if levels == len(names) and levels and self.settings.aux and self.settings.aux.loss:
            message = (
                "all heads tell which labels are in the patch, which has a loss of its own; remove `loss`"
            )
            self._problem(("aux", "loss"), message)
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
                self._problem((), f"one map is looked at; choose one of {listed(names_of(found))}")
            elif found and found[0].image_level:
                self._problem((), f"{found[0].name!r} {NO_GRID}; name a map")
            self.problems[before:] = [replace(p, path=path) for p in self.problems[before:]]
            names += names_of(found or ())
        return tuple(names)

    # ---- nothing idle

    def _check_all_used(self, wanted: set[str]) -> None:
        """Every node, backbone and listed tap must reach a head or a loss."""
        wanted = set(wanted)
        for node in reversed([n for n in self.nodes.values() if n]):
            if wanted & set(names_of((node.output, *node.sides))):
                wanted |= set(names_of(node.inputs))
            else:
                message = (
                    "no head uses this node, directly or through others; remove it, or name it in an input"
                )
                self._problem(("fusion", node.name), message)
        for name, features in self.offers.declared.items():
            used = [f.name for f in self.offers.of(name) if f"{name}.{f.name}" in wanted]
            if not used:
                known = listed([f"{name}.{f.name}" for f in features])
                message = f"nothing uses this backbone; remove it, or use one of {known}"
                self._problem(("backbones", name), message)
                continue
            strategy = self.settings.taps.get(name)
            for index, layer in enumerate(strategy.layers if strategy else ()):
                meant = self.offers.meant[name][index]
                if not {*used} & {*meant}:
                    use = layer if layer in meant or len(meant) > 1 else meant[0]
                    message = f"{layer!r} is tapped and never used; remove it, or use {name}.{use}"
                    self._problem(("taps", name, "layers", index), message)


def _on_grid(inputs: Sequence[FeatureInfo], reference: tuple[int, ...]) -> list[FeatureInfo]:
    stride = tuple(inputs[index].stride[axis] for axis, index in enumerate(reference))
    return [replace(f, stride=stride) for f in inputs]
