"""What a backbone keeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from medfuse.api import Backbone, ImageInfo
from medfuse.testing.modules import ModuleLaws, backward
from medfuse.testing.report import report
from medfuse.testing.tensors import (
    Maps,
    compare,
    random,
    seeded,
    tapped,
    tensors_in,
)


def check_backbone(plugin: Backbone, image: ImageInfo) -> None:
    """Declared features against real ones, at the patch's size and at odd ones, and what any module keeps."""
    declared = list(plugin.features(image))
    odd = [n + 1 for n in image.patch_size]

    def images(size: Sequence[int], batch: int) -> list[Tensor]:
        return [random(batch, image.channels, *size)]

    def features(network: nn.Module, given: Sequence[Tensor]) -> Maps:
        return tapped(network, [f.name for f in declared], *given)[0]

    def real_ones_are_as_declared(size: Sequence[int]) -> None:
        found = features(seeded(build), images(size, 2))
        for feature in declared:
            compare(feature, found[feature.name], size, 2)

    def finest_first() -> None:
        assert declared, "features() is empty; declare what can be tapped"
        sizes = [math.prod(f.stride) for f in declared]
        assert sizes == sorted(sizes), f"strides {[f.stride for f in declared]} are not finest first"

    def names_are_unique() -> None:
        twice = [name for name, times in Counter(f.name for f in declared).items() if times > 1]
        assert not twice, f"{', '.join(twice)} is declared more than once"

    def gradients_are_alive() -> None:
        dead = [name for name, x in module.tried.outputs.items() if not x.requires_grad]
        assert not dead, f"{', '.join(dead)} is detached"

    def gradients_reach_what_runs() -> None:
        network = seeded(build)
        ran: set[str] = set()
        for path, layer in network.named_modules():
            layer.register_forward_hook(lambda *_, path=path: ran.add(path))
        found, output = tapped(network, [f.name for f in declared], *images(image.patch_size, 2))
        backward([*found.values(), *tensors_in(output).values()])
        missed = [n for n, p in network.named_parameters() if n.rpartition(".")[0] in ran and p.grad is None]
        assert not missed, f"no gradient reaches {', '.join(missed)}"

    build = partial(plugin.build, image)
    module = ModuleLaws(build, lambda batch: images(image.patch_size, batch), features, ["the image"])
    report(
        plugin,
        {
            "has features, finest first": finest_first,
            "feature names are unique": names_are_unique,
            "declared equals real": partial(real_ones_are_as_declared, image.patch_size),
            "declared equals real at odd sizes": partial(real_ones_are_as_declared, odd),
            "any batch": module.takes_any_batch,
            "gradients are alive": gradients_are_alive,
            "gradients reach every parameter": gradients_reach_what_runs,
            **module.laws("networks"),
        },
    )
