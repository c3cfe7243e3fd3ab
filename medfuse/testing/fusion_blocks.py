"""What a fusion block keeps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from medfuse.api import FeatureInfo, FusionBlock
from medfuse.testing.modules import ModuleLaws
from medfuse.testing.report import report
from medfuse.testing.tensors import (
    compare,
    even_size,
    maps_of,
    outputs_of,
    seeded,
)


def check_fusion_block(plugin: FusionBlock, inputs: Sequence[FeatureInfo]) -> None:
    """The planned map against the real one, for any batch and odd sizes, and what any module keeps."""
    even = even_size(inputs)
    odd = [n + 1 for n in even]

    def real_ones_are_as_planned(size: Sequence[int]) -> None:
        planned = [plugin.plan(inputs), *plugin.side_outputs(inputs)]
        given = maps_of(inputs, size, 2)
        sizes = {x.stride: tuple(tensor.shape[2:]) for x, tensor in zip(inputs, given)}
        made = [*outputs_of(seeded(build), given).values()]
        assert len(made) == len(planned), f"plans {len(planned)} maps, makes {len(made)}"
        for feature, tensor in zip(planned, made):
            compare(feature, tensor, size, 2)
            real, like = tuple(tensor.shape[2:]), sizes.get(feature.stride)
            assert like in (None, real), (
                f"{feature.name} is {real} beside inputs of its stride that are {like}"
            )

    build = partial(plugin.build, inputs)
    module = ModuleLaws(build, partial(maps_of, inputs, even), outputs_of, [x.name for x in inputs])
    report(
        plugin,
        {
            "planned equals real": partial(real_ones_are_as_planned, even),
            "planned equals real at odd sizes": partial(real_ones_are_as_planned, odd),
            "any batch": module.takes_any_batch,
            "gradients reach every parameter and input": module.gradients_reach_everything,
            **module.laws("blocks"),
        },
    )
