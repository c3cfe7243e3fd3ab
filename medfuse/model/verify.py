"""Declared shapes held against real ones: one forward pass of the whole model on the meta device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medfuse.api import FeatureInfo, Plugin
from medfuse.core.errors import Path, PipelineError, Problem, ShapeError
from medfuse.core.memory import bytes_text
from medfuse.core.text import by
from medfuse.model.blame import blame
from medfuse.model.depths import depths
from medfuse.model.held import Held, held
from medfuse.model.maps import other_sizes
from medfuse.model.places import misplaced
from medfuse.model.plan import GraphPlan, NodePlan
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.trial import HEAVY, trial, try_out


@dataclass(frozen=True)
class VerifiedFacts:
    """What is known once the model has run: parameters in all, real sizes of maps by name.

    `parameter_shapes` are those of every parameter, by its name; `depths` how many layers come after those of
    backbones, where asked for; `learning` whether each is built to learn. `notes`: what is known of taps
    beside, such as what was left out. `held`: what a step of a batch keeps, where its size is given.
    """

    parameters: int
    sizes: Mapping[str, tuple[int, ...]]
    parameter_shapes: Mapping[str, tuple[int, ...]]
    depths: Mapping[str, int] = field(default_factory=dict)
    learning: Mapping[str, bool] = field(default_factory=dict)
    notes: Sequence[str] = ()
    held: Held | None = None


def verify(plan: GraphPlan, *, with_depths: bool = False, batch: int | None = None) -> VerifiedFacts:
    """Build the model and run it on a batch of two patches, in training mode, auxiliary heads included.

    Raises PipelineError with every map whose declared channels or stride are not the real ones, blamed on
    its plugin.
    """

    def look(model: Segmenter) -> VerifiedFacts:
        facts = _Witness(plan, model).report()
        if batch:
            facts = replace(facts, held=held(model, plan.image, plan.aux, batch=batch))
        return replace(facts, depths=depths(model, plan.image)) if with_depths else facts

    return try_out(lambda: build_segmenter(plan), look)


class Verified:
    """As `verify`, once for each graph: for trials, of which many are of one graph, in one process."""

    def __init__(self) -> None:
        self._known: list[tuple[GraphPlan, dict[str, Any], VerifiedFacts]] = []

    def __call__(self, plan: GraphPlan, **asked: Any) -> VerifiedFacts:
        for known, before, facts in self._known:
            if known == plan and all(not value or before.get(key) == value for key, value in asked.items()):
                return facts
        facts = verify(plan, **asked)
        self._known.append((plan, asked, facts))
        return facts


class _Witness:
    """Hooks on every part that compare what it makes with what its plugin declared."""

    def __init__(self, plan: GraphPlan, model: Segmenter) -> None:
        self.plan, self.model = plan, model
        self.at: tuple[Path, Plugin] | None = None  # the part that is running
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.problems: dict[Problem, None] = {}  # in order, each once
        self.notes: list[str] = []
        self.handles: list[RemovableHandle] = []
        for b in plan.backbones:
            taps = [tap.named(f"{b.name}.{tap.name}") for tap in b.taps]
            self._watch(model.backbones[b.name], ("model", "backbones", b.name), b.backbone, taps)
        for node in plan.nodes:
            maps = [node.output, *node.sides]
            path = ("model", "fusion", node.name)
            self._watch(model.fusion[node.name], path, node.block, maps, overhang(node))

    def report(self) -> VerifiedFacts:
        try:
            made = trial(self.model, self.plan.image, self.plan.aux)
        except Exception as error:
            if self.problems:  # what came after a wrong map failed because of it
                raise PipelineError(list(self.problems)) from error
            is_meta = any(p.is_meta for p in self.model.parameters())
            if self.at is None or (is_meta and not isinstance(error, ShapeError)):
                raise  # for try_out
            path, plugin = self.at
            raise PipelineError([Problem(path, f"{blame(plugin)} {error}")]) from error
        if self.problems:
            raise PipelineError(list(self.problems))
        for handle in self.handles:
            handle.remove()
        self._look_at_another_size()
        self._look_for_bright_places()
        if self.problems:
            raise PipelineError(list(self.problems))
        logits = made[0] if self.plan.aux else made
        assert tuple(logits.shape[1:]) == (self.plan.classes, *self.plan.image.patch_size)
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        learning = {name: p.requires_grad for name, p in self.model.named_parameters()}
        for b in self.plan.backbones:
            self.notes += [f"{b.name}: {note}" for note in getattr(self.model.backbones[b.name], "notes", ())]
        return VerifiedFacts(_count(self.model), self.sizes, shapes, learning=learning, notes=self.notes)

    def _look_at_another_size(self) -> None:
        """Taps of an image of another size have the declared channels too.

        Of one size alone, a layer that makes (batch, 8, 8, 8, 8) does not tell where its channels are.
        """
        for b in self.plan.backbones:
            network = self.model.backbones[b.name]
            real = any(not p.is_meta for p in network.parameters())
            for size in other_sizes(self.plan.image.patch_size, real=real):
                try:
                    made = trial(network, replace(self.plan.image, patch_size=size), training=False)
                except Exception:  # a network may ask for any size, in any way
                    continue
                for tap, tensor in zip(b.taps, _listed(made)):
                    if fault := _otherwise(tap.named(f"{b.name}.{tap.name}"), tensor, size):
                        path = ("model", "backbones", b.name)
                        self.problems[Problem(path, f"{blame(b.backbone)} {fault}")] = None
                break

    def _look_for_bright_places(self) -> None:
        """Tokens lie as the image does, which no shape tells; of networks that are made in a moment."""
        for b in self.plan.backbones:
            network = self.model.backbones[b.name]
            tokens = [tap for tap in b.taps if tap.tokens]
            weights = sum(p.numel() * p.element_size() for p in network.parameters())
            if tokens and weights > HEAVY:
                self.notes.append(
                    f"{b.name}: not tried whether its tokens lie as the image does, as its weights take "
                    f"{bytes_text(weights)}"
                )
                continue
            build = partial(b.backbone.build, self.plan.image)
            for fault in misplaced(build, tokens, self.plan.image):
                declared = b.strategy.known_tokens().is_said
                path, plugin = (
                    (("model", "taps", b.name), b.strategy)
                    if declared
                    else (("model", "backbones", b.name), b.backbone)
                )
                self.problems[Problem(path, f"{blame(plugin)} {fault}")] = None

    def _watch(
        self,
        module: nn.Module,
        path: Path,
        plugin: Plugin,
        declared: Sequence[FeatureInfo],
        overhang: Sequence[int] = (),
    ) -> None:
        self.handles += [
            module.register_forward_pre_hook(partial(self._enter, path, plugin)),
            module.register_forward_hook(partial(self._compare, path, plugin, declared, overhang)),
        ]

    def _enter(self, path: Path, plugin: Plugin, *_: Any) -> None:
        self.at = (path, plugin)

    def _compare(
        self,
        path: Path,
        plugin: Plugin,
        declared: Sequence[FeatureInfo],
        overhang: Sequence[int],
        _: nn.Module,
        __: Any,
        made: Any,
    ) -> None:
        maps = _listed(made)
        faults = (
            [] if len(maps) == len(declared) else [f"declares {len(declared)} maps but makes {len(maps)}"]
        )
        for feature, tensor in zip(declared, maps):
            faults += self._faults(feature, tensor, overhang)
        for fault in faults:
            self.problems[Problem(path, f"{blame(plugin)} {fault}")] = None
        self.at = None

    def _faults(self, feature: FeatureInfo, tensor: Any, overhang: Sequence[int]) -> list[str]:
        """Where a real map is not the declared one."""
        name, patch = feature.name, self.plan.image.patch_size
        if not isinstance(tensor, Tensor) or (not feature.tokens and tensor.ndim not in _axes(feature)):
            return [f"makes no (batch, channels, *spatial) tensor for {name}"]
        try:
            tensor = feature.as_map(tensor, patch)
        except ShapeError as error:
            return [str(error)]
        size = self.sizes[name] = tuple(tensor.shape[2:])
        if fault := _no_single_voxel(feature, size, patch):
            return [fault]
        faults = []
        if tensor.shape[1] != feature.channels:
            faults.append(f"declares {feature.channels} channels for {name} but makes {tensor.shape[1]}")
        if overhang and all(
            abs(m * s - n) < o + s for n, s, m, o in zip(patch, feature.stride, size, overhang)
        ):
            self.sizes[name] = feature.size(patch)
        elif not all(n // s <= m <= -(-n // s) for n, s, m in zip(patch, feature.stride, size)):
            # padded convolutions round up, bare pooling rounds down: both are that stride
            expected = by(feature.size(patch))
            faults.append(
                f"declares stride {by(feature.stride)} for {name}, {expected} of {by(patch)} voxels, "
                f"but makes {by(size)}"
            )
        return faults


def _axes(feature: FeatureInfo) -> tuple[int, ...]:
    """How many a layer's tensor may have."""
    return (feature.dims + 2, 2) if feature.image_level else (feature.dims + 2,)


def _no_single_voxel(feature: FeatureInfo, size: Sequence[int], image: Sequence[int]) -> str:
    """What is wrong with a map that should say one thing of any image, or nothing."""
    if not feature.image_level or all(n == 1 for n in size):
        return ""
    return (
        f"declares {feature.name} image-level, but makes {by(size)} of an image of {by(image)} voxels; leave "
        "image_level out, or pool over all of them"
    )


def overhang(node: NodePlan) -> tuple[int, ...]:
    """Voxels per axis by which a block's maps may miss the image's far edge, besides their own stride; ()
    where by none."""
    if not node.block.overhangs:
        return ()
    return tuple(max(strides) for strides in zip(*(f.stride for f in node.inputs)))


def _otherwise(tap: FeatureInfo, made: Any, size: Sequence[int]) -> str:
    """What is wrong with a tap on an image of another size: channels, or more voxels than one; or nothing."""
    if not isinstance(made, Tensor):
        return ""
    try:
        _, channels, *found = tap.as_map(made, size).shape
    except ShapeError as error:
        return str(error)
    if fault := _no_single_voxel(tap, found, size):
        return fault
    if channels == tap.channels:
        return ""
    return (
        f"declares {tap.channels} channels for {tap.name} but makes {by(made.shape[1:])} of an image of "
        f"{by(size)} voxels; where a layer puts its channels last, declare FeatureInfo(…, channels_last=True)"
    )


def _listed(made: Any) -> list[Any]:
    if isinstance(made, dict):
        return list(made.values())
    return list(made) if isinstance(made, list | tuple) else [made]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
