"""What a loss on inner maps keeps: a finite scalar in which every map and channel has a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from medfuse.api import ActivationLoss, FeatureInfo
from medfuse.core.errors import MedfuseError
from medfuse.testing import chance, gradients
from medfuse.testing.modules import module_laws
from medfuse.testing.report import for_each, report
from medfuse.testing.tensors import even_size, finite_scalar, maps_of, outputs_of, seeded
from medfuse.testing.tested import Tested


def check_activation_loss(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    """A finite scalar with a gradient, of maps each on its own grid, and what any module keeps.

    Maps of other channels are tried too; what it cannot take it refuses with ShapeError, in `plan`.
    """
    maps = tuple(maps)
    even = even_size(maps)
    odd = [n + 1 for n in even]

    def given(batch: int, *, seed: int = 1, odd: bool = False) -> list[Tensor]:
        return maps_of(maps, [n + 1 for n in even] if odd else even, batch, seed)

    tested = Tested(partial(plugin.build, maps), given, outputs_of, [x.name for x in maps])
    report(
        plugin,
        {
            "a finite scalar": partial(_is_finite, plugin, maps, even, 2),
            "a finite scalar at odd sizes": partial(_is_finite, plugin, maps, odd, 2),
            "a finite scalar for other channels": partial(_others_are_finite, plugin, maps),
            "any batch": for_each(partial(_is_finite, plugin, maps, even), 1, 5),
            "a plan is pure": partial(_plan_is_pure, plugin, maps),
            "a mean, not a sum": partial(_is_a_mean, plugin, maps),
            "its weight is applied once": partial(_leaves_its_weight, plugin, maps),
            "gradients reach every parameter and a map": partial(_reaches_a_map, tested),
            "every channel counts": partial(gradients.every_channel_counts, tested),
            "finite on dead maps": partial(_bears_dead_maps, plugin, maps),
            **module_laws(tested, "losses"),
        },
    )


def _value(plugin: ActivationLoss, maps: Sequence[FeatureInfo], given: Sequence[Tensor]) -> Tensor:
    return finite_scalar(seeded(partial(plugin.build, maps))(*given))


def _cost(plugin: ActivationLoss, maps: Sequence[FeatureInfo], given: Sequence[Tensor]) -> float:
    return _value(plugin, maps, given).item()


def _is_finite(plugin: ActivationLoss, maps: Sequence[FeatureInfo], size: Sequence[int], batch: int) -> None:
    plugin.plan(maps)
    _value(plugin, maps, maps_of(maps, size, batch))


def _others_are_finite(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    for other in _like(maps):
        try:
            plugin.plan(other)
        except MedfuseError:
            continue
        said = ", ".join(f"{x.name}: {x.channels} channels" for x in other)
        try:
            _value(plugin, other, maps_of(other, even_size(other), 2))
        except Exception as error:
            raise AssertionError(
                f"of maps {said}: {error}; make build() follow what it is given, or refuse such maps "
                "in plan() "
                "with ShapeError"
            ) from error


def _like(maps: Sequence[FeatureInfo]) -> Iterator[list[FeatureInfo]]:
    yield [replace(x, channels=x.channels + 1) for x in maps]
    yield [replace(x, channels=2 * x.channels + n) for n, x in enumerate(maps)]


def _plan_is_pure(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    as_list = list(maps)
    plugin.plan(as_list)
    assert as_list == list(maps), "plan() changes the list of maps that it is given; copy it"
    given = maps_of(maps, even_size(maps), 2)
    before = _cost(plugin, maps, given)
    _others_are_finite(plugin, maps)
    after = _cost(plugin, maps, given)
    assert before == after, f"built after plans of other maps it gives {after}, at first {before}"
    chance.assert_no_reseeding(lambda: plugin.plan(maps), "plan()")


def _is_a_mean(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    """About as large for a batch of 16 as for one of 4, else each needs another weight."""
    one = maps_of(maps, even_size(maps), 1)
    few, many = (_cost(plugin, maps, [x[[0] * n] for x in one]) for n in (4, 16))
    alike = abs(few - many) < 1e-6 or 0.4 < many / (few or 1e-9) < 2.5
    assert alike, f"it is {few:.4g} for 4 equal cases, and {many:.4g} for 16; take the mean, not the sum"


def _leaves_its_weight(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    given = maps_of(maps, even_size(maps), 2)
    heavy = plugin.model_copy(update={"weight": 4 * plugin.weight + 1})
    ours, theirs = (_cost(one, maps, given) for one in (plugin, heavy))
    assert ours == theirs, (
        f"with weight {plugin.weight} it is {ours:.4g}, with {heavy.weight} {theirs:.4g}; medfuse "
        "multiplies by "
        "`weight`, so leave it out of the module"
    )


def _reaches_a_map(tested: Tested) -> None:
    unreached = gradients.missed(tested)
    missed = [name for name in unreached if name not in tested.names]
    assert not missed, f"no gradient reaches {', '.join(missed)}; use it, or set requires_grad to False"
    assert set(tested.names) - set(unreached), (
        f"no gradient reaches {', '.join(tested.names)}; leave out detach() and torch.no_grad()"
    )


def _bears_dead_maps(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    """Maps that are 0, or 1, everywhere, as after a ReLU that is closed, or a gate that is open."""
    for value in (0, 1):
        given = [torch.full_like(x, value).requires_grad_() for x in maps_of(maps, even_size(maps), 2)]
        _value(plugin, maps, given).backward()
        for x, tensor in zip(maps, given):
            finite = tensor.grad is None or bool(torch.isfinite(tensor.grad).all())
            assert finite, (
                f"the gradient of {x.name} is not finite where all of it is {value}; add an epsilon"
            )
