"""What a backbone keeps: the features that it declares are those that its network makes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.api import Backbone, FeatureInfo, ImageInfo
from medfuse.core.errors import MedfuseError
from medfuse.core.places import SEEDS, answers_of, images_of, otherwise, small_size
from medfuse.testing import calls, chance, gradients
from medfuse.testing.modules import module_laws
from medfuse.testing.report import for_each, report
from medfuse.testing.tensors import (
    Maps,
    compare,
    compare_names,
    random,
    seeded,
    tapped,
    tensors_in,
    whole_numbers,
)
from medfuse.testing.tested import Tested


def check_backbone(plugin: Backbone, image: ImageInfo) -> None:
    """Declared features against real ones, at the patch's size and at others, and what any module keeps.

    Images of other channels are tried too. What the network cannot take, `features` refuses with ShapeError.
    """
    declared = list(plugin.features(image))
    tested = _tested(plugin, image, declared)
    odd = [n + 1 for n in image.patch_size]
    real = partial(_real_ones_are_as_declared, plugin, image, declared)
    report(
        plugin,
        {
            "has features, finest first": partial(_finest_first, declared),
            "feature names are unique": partial(compare_names, declared),
            "declares whole numbers": for_each(partial(whole_numbers, dims=image.dims), *declared),
            "features are pure": partial(_features_are_pure, plugin, image, declared),
            "declared equals real": partial(real, image.patch_size),
            "declared equals real at odd sizes": partial(real, odd),
            "declared equals real for other channels": partial(_other_channels, plugin, image),
            "maps of tokens lie as the image does": partial(_lie_as_the_image, plugin, image, declared),
            "features are not overwritten": partial(_stay_as_made, tested, declared),
            "every channel counts": partial(gradients.every_channel_counts, tested),
            "any batch": partial(calls.take_any_batch, tested),
            "gradients are alive": partial(gradients.are_alive, tested),
            "gradients reach every parameter": partial(_gradients_reach_what_runs, tested, declared),
            "brings weights of its own network": partial(_weights_are_its_own, plugin, image),
            "pinned, it is the same": partial(_pinned_is_the_same, plugin, image, declared),
            **module_laws(tested, "networks"),
        },
    )


def _tested(plugin: Backbone, image: ImageInfo, declared: Sequence[FeatureInfo]) -> Tested:
    def given(batch: int, *, seed: int = 1, odd: bool = False) -> list[Tensor]:
        size = [n + 1 for n in image.patch_size] if odd else image.patch_size
        return [seed * random(batch, image.channels, *size, seed=seed) + (seed - 1)]

    def features(network: nn.Module, given: Sequence[Tensor]) -> Maps:
        return tapped(network, [f.name for f in declared], *given)[0]

    return Tested(partial(plugin.build, image), given, features, ["the image"])


def _weights_are_its_own(plugin: Backbone, image: ImageInfo) -> None:
    """What it brings along has a source, names and shapes of what it builds, and is the same each time."""
    origin, weights = plugin.origin(), plugin.weights(image)
    if origin is None:
        assert not weights, "weights() brings some, and origin() does not say whence; return an Origin"
        return
    assert weights, f"origin() names {origin.source}, and weights() brings none"
    own = seeded(partial(plugin.build, image)).state_dict()
    beyond = [name for name in weights if name not in own]
    assert not beyond, f"weights() has {beyond[0]}, and the network that build() makes has not"
    unlike = [name for name, t in weights.items() if t.shape != own[name].shape]
    assert not unlike, f"weights() has another shape of {unlike[0]} than the network that build() makes"
    again = plugin.weights(image)
    changed = [name for name in weights if not bool((weights[name] == again[name]).all())]
    assert not changed, f"asked again, weights() has another {changed[0]}"


def _pinned_is_the_same(plugin: Backbone, image: ImageInfo, declared: Sequence[FeatureInfo]) -> None:
    """It reads back from the JSON beside trained weights, and makes the same network."""
    pinned = plugin.pinned()
    said = json.loads(json.dumps(pinned.model_dump(mode="json")))
    again = type(pinned).model_validate(said)
    assert again == pinned, "pinned() does not read back from its JSON as it was"
    assert again.pinned() == pinned, "pinned() of what is pinned is another one"
    assert list(again.features(image)) == list(declared), "pinned() declares other features"
    ours, theirs = (
        {name: [*t.shape] for name, t in seeded(partial(p.build, image)).state_dict().items()}
        for p in (plugin, again)
    )
    assert ours == theirs, "pinned() makes another network"


def _finest_first(declared: Sequence[FeatureInfo]) -> None:
    assert declared, "features() is empty; declare what can be tapped"
    sizes = [f.coarseness for f in declared]
    assert sizes == sorted(sizes), f"strides {[f.stride for f in declared]} are not finest first"


def _features_are_pure(plugin: Backbone, image: ImageInfo, declared: Sequence[FeatureInfo]) -> None:
    """They are asked for often, for other images in between, and `build` is not told about it."""
    for other in _like(image):
        _features_or_refusal(plugin, other)
    again = list(plugin.features(image))
    assert again == list(declared), f"asked again it declares {again}, at first {list(declared)}"
    untouched = type(plugin).model_validate(copy.deepcopy(plugin.model_dump()))
    shapes = [[*p.shape] for p in seeded(partial(plugin.build, image)).parameters()]
    alone = [[*p.shape] for p in seeded(partial(untouched.build, image)).parameters()]
    assert shapes == alone, "build() makes another network where features() was not asked before"
    chance.assert_no_reseeding(lambda: plugin.features(image), "features()")


def _real_ones_are_as_declared(
    plugin: Backbone, image: ImageInfo, declared: Sequence[FeatureInfo], size: Sequence[int]
) -> None:
    names = [f.name for f in declared]
    network = seeded(partial(plugin.build, image))
    found = tapped(network, names, random(2, image.channels, *size))[0]
    for feature in declared:
        compare(feature, found[feature.name], size, 2)


def _lie_as_the_image(plugin: Backbone, image: ImageInfo, declared: Sequence[FeatureInfo]) -> None:
    """Of images with one bright place: of the patch's size, and of unlike axes where it takes such.

    Other maps are made by layers that keep the order of places, as convolutions do.
    """
    turned = [f for f in declared if f.tokens]
    network = seeded(partial(plugin.build, image)).eval()
    for size in (small_size(turned), image.patch_size) if turned else ():
        for feature in turned:
            seen = []
            for seed in SEEDS:
                images = images_of(feature, image.channels, size, seed)
                try:
                    with torch.no_grad():
                        made = tapped(network, [feature.name], images)[0]
                except Exception:
                    assert size != image.patch_size, f"it fails on a batch of {[*images.shape]}"
                    break
                seen.append(answers_of(feature, made[feature.name], size))
            said = otherwise(feature, seen) if len(seen) == len(SEEDS) else ""
            assert not said, f"{said}; a backbone declares it as FeatureInfo(…, tokens=TokenLayout(…))"


def _other_channels(plugin: Backbone, image: ImageInfo) -> None:
    for other in _like(image):
        declared = _features_or_refusal(plugin, other)
        if declared is None:
            continue
        try:
            _real_ones_are_as_declared(plugin, other, declared, other.patch_size)
            if image.channels == 1:  # with more of them this image has shown it
                gradients.every_channel_counts(_tested(plugin, other, declared))
        except Exception as error:
            raise AssertionError(
                f"of an image of {other.channels} channels: {error}; make build() follow "
                "`image.channels`, or "
                "refuse such images in features() with ShapeError"
            ) from error


def _features_or_refusal(plugin: Backbone, image: ImageInfo) -> list[FeatureInfo] | None:
    try:
        return list(plugin.features(image))
    except MedfuseError:
        return None


def _like(image: ImageInfo) -> Iterator[ImageInfo]:
    yield replace(image, channels=image.channels + 1)


def _stay_as_made(tested: Tested, declared: Sequence[FeatureInfo]) -> None:
    """What a hook was handed is still there once the network has run to its end."""
    network = tested.fresh()
    made: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        made[name] = output.detach().clone()

    handles = [network.get_submodule(f.name).register_forward_hook(partial(keep, f.name)) for f in declared]
    found = tested.run(network, tested.given(2))
    for handle in handles:
        handle.remove()
    changed = [name for name, x in made.items() if name in found and not bool((x == found[name]).all())]
    assert not changed, (
        f"{', '.join(changed)} is overwritten by a later layer that works in place; use inplace=False there"
    )


def _gradients_reach_what_runs(tested: Tested, declared: Sequence[FeatureInfo]) -> None:
    network = seeded(tested.build)
    ran: set[str] = set()
    for path, layer in network.named_modules():
        layer.register_forward_hook(lambda *_, path=path: ran.add(path))
    found, output = tapped(network, [f.name for f in declared], *tested.given(2))
    gradients.backward([*found.values(), *tensors_in(output).values()])
    missed = [
        name
        for name, p in network.named_parameters()
        if p.requires_grad and name.rpartition(".")[0] in ran and p.grad is None
    ]
    assert not missed, f"no gradient reaches {', '.join(missed)}; leave out detach() and torch.no_grad()"
