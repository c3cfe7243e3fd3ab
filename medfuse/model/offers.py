"""What backbones offer to the graph: features that they declare, and layers of any depth that are named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from medfuse import registry
from medfuse.api import Backbone, FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.errors import Path, PipelineError, Problem, ShapeError, did_you_mean
from medfuse.core.names import is_part, matches
from medfuse.core.text import by, listed
from medfuse.model.blame import blame, placed
from medfuse.model.plan import names_of
from medfuse.model.settings import ModelSettings

if TYPE_CHECKING:
    from medfuse.model.layers import Layer


class Offers:
    """The maps of every backbone that could be asked; what is wrong becomes one of `problems`."""

    def __init__(self, settings: ModelSettings, image: ImageInfo, problems: list[Problem]) -> None:
        self.settings = settings
        self.image = image
        self.problems = problems
        self.declared: dict[str, tuple[FeatureInfo, ...]] = {}  # of each backbone that could be asked
        self.called_for: dict[str, dict[str, FeatureInfo]] = {name: {} for name in settings.backbones}
        self.surveys: dict[str, Sequence[Layer]] = {}
        self.meant: dict[
            str, list[list[str]]
        ] = {}  # of each entry of a strategy's layers, what it stands for

    def declare(self, name: str, backbone: Backbone) -> None:
        """Ask a backbone for its features, and hold them against the contract."""
        try:
            with placed(("model", "backbones", name), backbone):
                found = tuple(on_patch(f, self.image) for f in backbone.features(self.image))
        except PipelineError as error:
            self.problems += error.problems
            return
        faults = [fault for f in found if (fault := fault_of(f, self.image))]
        if len(set(names_of(found))) < len(found):
            faults.append("declares a name twice")
        strategy = self.settings.taps.get(name)
        if not found and not (strategy and strategy.known_tokens().is_said):
            faults.append("declares no features, so there is nothing to tap")
        for fault in faults:
            self._problem(("backbones", name), f"{blame(backbone)} {fault}")
        if not faults:
            self.declared[name] = found

    def strategies(self) -> dict[str, TapStrategy]:
        """How each backbone is tapped; narrows `declared` to the layers that a strategy lists."""
        default = registry.get(TapStrategy.group, "forward_hook")()
        assert isinstance(default, TapStrategy)
        for name, strategy in self.settings.taps.items():
            if name not in self.settings.backbones:
                known = self.settings.backbones
                near = did_you_mean(name, known)
                self._problem(("taps", name), f"no backbone is named {name!r}{near} ({listed([*known])})")
            elif name in self.declared and strategy.layers:
                self._narrow(name, strategy)
        return {name: self.settings.taps.get(name, default) for name in self.settings.backbones}

    def _narrow(self, name: str, strategy: TapStrategy) -> None:
        """Keep what a strategy lists: declared features or, where it lists no such, layers of any depth."""
        picked: dict[str, FeatureInfo] = {}
        self.meant[name] = []
        for index, layer in enumerate(strategy.layers):
            found: Sequence[FeatureInfo] = ()
            try:
                found = self._chosen(name, strategy, layer)
                wrong = "" if found else self._no_layer(name, layer)
            except ShapeError as error:
                wrong = f"backbone {name!r} {error}{self._undecided(name)}"
            if wrong:
                self._problem(("taps", name, "layers", index), wrong)
            self.meant[name].append(names_of(found))
            picked |= {f.name: f for f in found}
        further = self._further(name, strategy, [*picked.values()])
        picked = picked | further if further is not None else {}
        if picked:
            self.declared[name] = tuple(sorted(picked.values(), key=lambda f: f.coarseness))
        else:
            del self.declared[name]  # or every reference to it would be a problem too

    def _chosen(self, name: str, strategy: TapStrategy, layer: str) -> Sequence[FeatureInfo]:
        if not strategy.known_tokens().is_said:  # of which a backbone's declarations know nothing
            with suppress(ShapeError):
                if found := strategy.choose(layer, self.declared[name]):
                    return found
        return strategy.choose(layer, self._undeclared(name, layer))

    def _further(
        self, name: str, strategy: TapStrategy, chosen: Sequence[FeatureInfo]
    ) -> dict[str, FeatureInfo] | None:
        """What a strategy makes besides of what it taps; it counts to what each entry stands for."""
        backbone = self.settings.backbones[name]
        try:
            with placed(("model", "taps", name), strategy):
                found = strategy.further(chosen, lambda: backbone.build(self.image), self.image)
        except PipelineError as error:
            self.problems += error.problems
            return None
        for meant in self.meant[name]:
            meant += [f.name for f in found if f.name.rpartition("[")[0] in meant]
        return {f.name: f for f in found}

    def _undecided(self, name: str) -> str:
        """The first layer of which it cannot be told how its tokens lie."""
        layers = [layer for layer in self._survey(name) if layer.name and "declare" in layer.reason]
        return f"; its layer {layers[0].name!r} {layers[0].reason}" if layers else ""

    def _undeclared(self, name: str, layer: str) -> list[FeatureInfo]:
        """What can be tapped besides declared features; another path of a layer only where it is named."""
        found = [(other, f) for other in self._survey(name) if other.name and (f := other.feature())]
        return [f for other, f in found if not other.same_as or other.name == layer]

    def _survey(self, name: str) -> Sequence[Layer]:
        """Every layer of a backbone, found by trials the first time that somebody asks."""
        if name not in self.surveys:
            from medfuse.model.layers import find_layers  # planning what is declared needs no torch

            backbone, self.surveys[name] = self.settings.backbones[name], ()
            strategy = self.settings.taps.get(name)
            known = strategy.known_tokens() if strategy else None
            try:
                with placed(("model", "backbones", name), backbone):
                    self.surveys[name] = find_layers(
                        lambda: backbone.build(self.image), self.image, partial=True, known=known
                    )
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

    def of(self, name: str) -> tuple[FeatureInfo, ...]:
        """What a backbone declares, and its layers that were named besides."""
        return (*self.declared[name], *self.called_for[name].values())

    def resolve(self, owner: str, layer: str, path: Path) -> list[FeatureInfo] | None:
        """The maps that OWNER.LAYER stands for, by their names in the graph; None where it cannot be said."""
        if owner not in self.declared:
            return None  # said at the backbone
        features = [f.in_graph(owner) for f in self.of(owner)]
        if not layer:
            self._problem(
                path, f"{owner!r} is a backbone; name a feature of it: {listed(names_of(features))}"
            )
            return None
        strategy = self.settings.taps.get(owner)
        limited = f", as model.taps.{owner}.layers limits it," if strategy and strategy.layers else ""
        what = f"backbone {owner!r}{limited}"
        if limited or "*" in layer or any(matches(f.name, f"{owner}.{layer}") for f in features):
            return self.pick(f"{owner}.{layer}", features, path, what)
        found = [f for f in self._undeclared(owner, layer) if f.name == layer]
        if found:
            self.called_for[owner][layer] = found[0]
            return [found[0].in_graph(owner)]
        if reason := self._why_not(owner, layer):
            self._problem(path, reason)
            return None
        return self.pick(f"{owner}.{layer}", features, path, what)

    def pick(
        self, reference: str, features: Sequence[FeatureInfo], path: Path, what: str
    ) -> list[FeatureInfo] | None:
        """Those of `features` that a reference names or, as a glob, matches; see `named`."""
        found = named(features, reference)
        if not found:
            names = names_of(features)
            has = f"it has: {listed(names)}" if names else "it has none"
            near = did_you_mean(reference, names)
            self._problem(path, f"{what} has no feature map {reference!r}{near} ({has})")
        return found or None

    def _problem(self, path: Path, message: str) -> None:
        self.problems.append(Problem(("model", *path), message))


def on_patch(feature: FeatureInfo, image: ImageInfo) -> FeatureInfo:
    """A map as it is; where it says one thing of the whole image, one voxel whose stride is the patch."""
    return replace(feature, stride=image.patch_size) if feature.image_level else feature


def named(features: Iterable[FeatureInfo], reference: str) -> list[FeatureInfo]:
    """Those that a name or a glob stands for. A glob means maps, and what is image-level only where no map
    is meant: `encoder.*` are the stages, and the pooled output beside them is named."""
    found = [f for f in features if matches(f.name, reference)]
    return [f for f in found if not f.image_level or f.name == reference] or found


def fault_of(feature: FeatureInfo, image: ImageInfo) -> str:
    """What is wrong with a declared map in itself, or nothing."""
    if feature.dims != image.dims:
        return f"declares {feature.dims}-D strides for {feature.name}; the patch is {image.dims}-D"
    if feature.channels < 1 or min(feature.stride) < 1:
        return f"declares {feature.channels} channels, stride {by(feature.stride)} for {feature.name}"
    return ""
