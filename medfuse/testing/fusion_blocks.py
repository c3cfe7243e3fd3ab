"""What a fusion block keeps: what it plans is what it makes, of whatever inputs it accepts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from medfuse.api import FeatureInfo, FusionBlock
from medfuse.core.errors import MedfuseError
from medfuse.testing import calls, chance, gradients
from medfuse.testing.modules import module_laws
from medfuse.testing.report import report
from medfuse.testing.tensors import (
    compare,
    compare_names,
    even_size,
    maps_of,
    outputs_of,
    seeded,
    whole_numbers,
)
from medfuse.testing.tested import Tested

Inputs = Sequence[FeatureInfo]


def check_fusion_block(plugin: FusionBlock, inputs: Inputs) -> None:
    """The planned map against the real one, for any batch and odd sizes, and what any module keeps.

    Inputs like `inputs` are tried too: with other channels, and strides that are larger along one axis. What
    the block cannot take it refuses with ShapeError, in `plan`.
    """
    inputs = tuple(inputs)
    even = even_size(inputs)

    def given(batch: int, *, seed: int = 1, odd: bool = False) -> list[Tensor]:
        return maps_of(inputs, [n + 1 for n in even] if odd else even, batch, seed)

    tested = Tested(partial(plugin.build, inputs), given, outputs_of, [x.name for x in inputs])
    report(
        plugin,
        {
            "plans whole numbers": partial(_plans_whole_numbers, plugin, inputs),
            "a plan is pure": partial(_plan_is_pure, plugin, inputs),
            "planned equals real": partial(_real_ones_are_as_planned, plugin, inputs, even),
            "planned equals real at odd sizes": partial(
                _real_ones_are_as_planned, plugin, inputs, [n + 1 for n in even]
            ),
            "planned equals real for other inputs": partial(_others_are_as_planned, plugin, inputs),
            "any batch": partial(calls.take_any_batch, tested),
            "gradients reach every parameter and input": partial(gradients.reach_everything, tested),
            "gradients are alive": partial(gradients.are_alive, tested),
            "every channel counts": partial(gradients.every_channel_counts, tested),
            **module_laws(tested, "blocks"),
        },
    )


def _planned(plugin: FusionBlock, inputs: Inputs) -> list[FeatureInfo]:
    return [plugin.plan(inputs), *plugin.side_outputs(inputs)]


def _plans_whole_numbers(plugin: FusionBlock, inputs: Inputs) -> None:
    planned = _planned(plugin, inputs)
    for feature in planned:
        whole_numbers(feature, inputs[0].dims)
    compare_names(planned[1:])


def _plan_is_pure(plugin: FusionBlock, inputs: Inputs) -> None:
    """It is asked often, about other inputs in between, and `build` is not told what was planned before."""
    as_list = list(inputs)
    first = _planned(plugin, as_list)
    assert as_list == list(inputs), "plan() changes the list of inputs that it is given; copy it"
    for other in (inputs[::-1], *_like(inputs)):
        given = list(other)
        ours, theirs = (_plan_or_refusal(one, given) for one in (plugin, _untouched(plugin)))
        assert given == list(other), "plan() changes the list of inputs that it is given; copy it"
        assert ours == theirs, f"asked before, it plans {ours}, else {theirs}; keep nothing between calls"
    again = _planned(plugin, inputs)
    assert again == first, f"asked again it plans {again}, at first {first}; keep nothing between calls"
    untouched = _untouched(plugin)
    made = outputs_of(seeded(partial(untouched.build, inputs)), maps_of(inputs, even_size(inputs), 2))
    assert len(made) == len(first), "build() makes other maps where plan() was not asked before"
    chance.assert_no_reseeding(lambda: _planned(plugin, inputs), "plan()")


def _untouched(plugin: FusionBlock) -> FusionBlock:
    """One with the same parameters that was never asked anything."""
    return type(plugin).model_validate(copy.deepcopy(plugin.model_dump()))


def _real_ones_are_as_planned(plugin: FusionBlock, inputs: Inputs, size: Sequence[int]) -> None:
    planned = _planned(plugin, inputs)
    given = maps_of(inputs, size, 2)
    sizes = {x.stride: tuple(tensor.shape[2:]) for x, tensor in zip(inputs, given)}
    made = [*outputs_of(seeded(partial(plugin.build, inputs)), given).values()]
    assert len(made) == len(planned), f"plans {len(planned)} maps, makes {len(made)}"
    if plugin.overhangs:  # and the graph crops what it makes
        made = [_inside(tensor, feature, size, inputs) for feature, tensor in zip(planned, made)]
    for feature, tensor in zip(planned, made):
        compare(feature, tensor, size, 2)
        real, like = tuple(tensor.shape[2:]), None if feature.image_level else sizes.get(feature.stride)
        assert like in (None, real), f"{feature.name} is {real} beside inputs of its stride that are {like}"


def _inside(tensor: Tensor, feature: FeatureInfo, size: Sequence[int], inputs: Inputs) -> Tensor:
    """A map cropped to the image, whose edge it misses by less than its voxel and the coarsest input's."""
    most = [s + max(strides) for s, *strides in zip(feature.stride, *(x.stride for x in inputs))]
    misses = [abs(m * s - n) for m, s, n in zip(tensor.shape[2:], feature.stride, size)]
    assert all(miss < allowed for miss, allowed in zip(misses, most)), (
        f"{feature.name} of stride {feature.stride} is {tuple(tensor.shape[2:])} of an image of "
        f"{tuple(size)}, further from its edge than the coarsest input"
    )
    return tensor[(slice(None), slice(None), *(slice(0, n) for n in feature.size(tuple(size))))]


def _others_are_as_planned(plugin: FusionBlock, inputs: Inputs) -> None:
    for other in _like(inputs):
        if _plan_or_refusal(plugin, other) is None:
            continue
        said = ", ".join(f"{x.name}: {x.channels} channels, stride {x.stride}" for x in other)
        try:
            _real_ones_are_as_planned(plugin, other, even_size(other))
        except Exception as error:
            raise AssertionError(
                f"of inputs {said}: {type(error).__name__ if str(error) == '' else ''}{error}; make build() "
                "follow what it is given, or refuse such inputs in plan() with ShapeError"
            ) from error


def _plan_or_refusal(plugin: FusionBlock, inputs: Inputs) -> list[FeatureInfo] | None:
    try:
        return _planned(plugin, inputs)
    except MedfuseError:
        return None


def _like(inputs: Inputs) -> Iterator[Inputs]:
    """Inputs of other channels, and of strides that grow along one axis alone."""
    yield [replace(x, channels=x.channels + 1) for x in inputs]
    yield [replace(x, channels=2 * x.channels + n) for n, x in enumerate(inputs)]
    for axis in range(inputs[0].dims):
        yield [
            replace(x, stride=tuple(2 * s if a == axis else s for a, s in enumerate(x.stride)))
            if x.name != "image"
            else x
            for x in inputs
        ]
