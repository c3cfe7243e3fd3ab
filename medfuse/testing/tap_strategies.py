"""What a tap strategy keeps."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from torch import Tensor, nn

from medfuse.api import FeatureInfo, ImageInfo, TapStrategy
from medfuse.testing.modules import ModuleLaws
from medfuse.testing.report import report
from medfuse.testing.tensors import (
    by_name,
    random,
    same,
    seeded,
    tapped,
)


def check_tap_strategy(plugin: TapStrategy) -> None:
    """Taps of a small chain of layers against its real intermediate outputs."""
    convolution: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
    names = ["0", "2"]

    def network(dims: int) -> nn.Module:
        conv = convolution[dims]
        return nn.Sequential(
            conv(1, 4, 3, padding=1),
            nn.Tanh(),
            conv(4, 6, 3, stride=2, padding=1),
            nn.ReLU(),  # not in place: what follows a tap may still need it
            conv(6, 2, 1),
        )

    def attached(dims: int = 2) -> nn.Module:
        image = ImageInfo(1, (8,) * dims, (1.0,) * dims)
        taps = [FeatureInfo("0", 4, (1,) * dims), FeatureInfo("2", 6, (2,) * dims)]
        return plugin.attach(seeded(partial(network, dims)), taps, image)

    def images(*size: int, batch: int = 2) -> list[Tensor]:
        return [random(batch, 1, *size)]

    def has_the_names() -> None:
        found = sorted(module.tried.outputs)
        assert found == names, f"makes {found}, wanted were {names}"

    def equals_the_real_ones(*size: int) -> None:
        real, _ = tapped(seeded(partial(network, len(size))), names, *images(*size))
        same(real, by_name(attached(len(size)), images(*size)))

    def gradients_are_alive() -> None:
        dead = [name for name, x in module.tried.outputs.items() if not x.requires_grad]
        assert not dead, f"{', '.join(dead)} is detached"

    def nothing_is_kept() -> None:
        tapped = attached()
        held = [weakref.ref(tensor) for tensor in tapped(*images(8, 8)).values()]
        assert not any(ref() is not None for ref in held), "outputs are still held after the forward pass"

    module = ModuleLaws(attached, lambda batch: images(8, 8, batch=batch), by_name, ["the image"])
    report(
        plugin,
        {
            "makes what is asked for": has_the_names,
            "equals the real outputs": partial(equals_the_real_ones, 8, 8),
            "equals the real outputs at odd sizes": partial(equals_the_real_ones, 7, 9),
            "equals the real outputs in 3-D": partial(equals_the_real_ones, 8, 8, 8),
            "any batch": module.takes_any_batch,
            "gradients are alive": gradients_are_alive,
            "nothing is kept": nothing_is_kept,
            **module.laws("tapped networks"),
        },
    )
