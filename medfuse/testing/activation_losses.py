"""What a loss on inner maps keeps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from medfuse.api import ActivationLoss, FeatureInfo
from medfuse.testing.modules import ModuleLaws
from medfuse.testing.report import report
from medfuse.testing.tensors import (
    even_size,
    finite_scalar,
    maps_of,
    outputs_of,
    seeded,
)


def check_activation_loss(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    """A finite scalar with a gradient, of maps each on its own grid, and what any module keeps."""
    even = even_size(maps)
    odd = [n + 1 for n in even]

    def is_finite(size: Sequence[int], batch: int) -> None:
        plugin.plan(maps)
        finite_scalar(seeded(build)(*maps_of(maps, size, batch)))

    def reaches_a_map() -> None:
        reached = module.reached()
        missed = [name for name in reached.missed if name not in module.names]
        assert not missed, f"no gradient reaches {', '.join(missed)}"
        assert set(module.names) - set(reached.missed), f"no gradient reaches {', '.join(module.names)}"

    def bears_dead_maps() -> None:
        given = [torch.zeros_like(x).requires_grad_() for x in maps_of(maps, even, 2)]
        finite_scalar(seeded(build)(*given)).backward()
        for x, tensor in zip(maps, given):
            finite = tensor.grad is None or bool(torch.isfinite(tensor.grad).all())
            assert finite, f"the gradient of {x.name} is not finite where all of it is 0"

    build = partial(plugin.build, maps)
    module = ModuleLaws(build, partial(maps_of, maps, even), outputs_of, [x.name for x in maps])
    report(
        plugin,
        {
            "a finite scalar": partial(is_finite, even, 2),
            "a finite scalar at odd sizes": partial(is_finite, odd, 2),
            "any batch": partial(is_finite, even, 1),
            "gradients reach every parameter and a map": reaches_a_map,
            "finite on dead maps": bears_dead_maps,
            **module.laws("losses"),
        },
    )
