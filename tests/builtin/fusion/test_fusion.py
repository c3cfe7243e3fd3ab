"""Built-in fusion blocks: the contract, and what each promises."""

import pytest
import torch

from medfuse import registry
from medfuse.api import FeatureInfo, FusionBlock
from medfuse.core.errors import ShapeError
from medfuse.testing import check_fusion_block

IMAGE = FeatureInfo("image", 2, (1, 1))
A, B = FeatureInfo("a", 3, (2, 2)), FeatureInfo("b", 4, (2, 2))
PYRAMID = [FeatureInfo("f", 4, (1, 1, 1)), FeatureInfo("g", 6, (2, 2, 1)), FeatureInfo("h", 8, (4, 4, 2))]
BLOCKS = [FeatureInfo(name, 5, (16, 16)) for name in "wxyz"]
DEEP = FeatureInfo("deep", 4, (16, 4))
EQUAL = [FeatureInfo(name, 4, (2, 2)) for name in "pqr"]
THICK = [FeatureInfo("s", 4, (2, 2, 1)), FeatureInfo("t", 8, (2, 2, 1))]


def block(name: str, inputs, **parameters) -> FusionBlock:
    return registry.get(FusionBlock.group, name)(inputs=tuple(x.name for x in inputs), **parameters)


SAMPLES = {
    "concat": [({}, [A, B]), ({"channels": 5}, [A, B])],
    "input_concat": [
        *(({"upsample": u}, [A, IMAGE]) for u in ("linear", "nearest", "transposed", "pixelshuffle")),
        ({"upsample": "transposed", "channels": 2}, [DEEP, IMAGE, A]),
        ({"upsample": "pixelshuffle"}, [IMAGE, FeatureInfo("third", 2, (3, 1))]),
    ],
    "unet_decoder": [({}, PYRAMID), ({"convs": 1}, [B, IMAGE])],
    **{
        name: [({}, EQUAL), ({"channels": 5}, [A, B]), ({"channels": 2}, THICK)]
        for name in ("add", "subtract", "multiply", "divide", "max", "mean")
    },
    "weighted": [
        ({}, EQUAL),
        ({"per": "channel", "normalize": "none"}, EQUAL),
        ({"per": "channel", "channels": 5}, THICK),
    ],
    "projected_concat": [({"channels": 5}, [A, B]), ({"channels": 2, "kernel": 3}, THICK)],
    "attention": [
        *(({"kind": k}, [B, A]) for k in ("squeeze_excite", "spatial", "gate", "cross")),
        *(({"kind": k}, THICK) for k in ("squeeze_excite", "spatial", "gate", "cross")),
        ({"kind": "squeeze_excite", "reduction": 64}, [A]),
        ({"kind": "cross", "heads": 3, "tokens": 5}, [A, B, A]),
    ],
    "spp": [
        ({}, [A, B]),
        ({"bins": [1, 3, 20], "pool": "both", "channels": 5}, THICK),
        ({"pool": "max", "keep_input": False}, THICK[:1]),
    ],
    "aspp": [({}, [A, B]), ({"rates": [1, 9], "channels": 5}, THICK)],
    "conditional_concat": [
        ({}, [IMAGE, A]),
        ({}, PYRAMID),
        ({"mask": "per_channel", "channels": 5}, [DEEP, IMAGE, A]),
    ],
    "fpn": [({"channels": 5}, PYRAMID), ({"channels": 3, "levels": 2, "upsample": "linear"}, [A, DEEP])],
    "unet_plus_plus": [({}, PYRAMID), ({"convs": 1}, [B, DEEP, IMAGE]), ({}, [B, IMAGE])],
    "global_pool": [({"pool": pool}, [A, DEEP]) for pool in ("average", "max", "both")],
    "to_pyramid": [
        ({"channels": 4}, BLOCKS),
        ({"learned": False}, BLOCKS),
        ({"strides": [2, 4, [8, 8, 2]], "channels": [3, 4, 5]}, THICK[:1]),
        ({"strides": [1, 3], "learned": False, "channels": None}, [A, B]),
    ],
    "hypercolumn": [({}, PYRAMID), ({"channels": None}, [A, DEEP, IMAGE])],
    "sum_of_logits": [({}, PYRAMID), ({"channels": 3}, [A, DEEP])],
}


@pytest.mark.parametrize(
    ("name", "parameters", "inputs"), [(n, p, i) for n, cases in SAMPLES.items() for p, i in cases]
)
def test_the_contract_is_kept(name, parameters, inputs):
    check_fusion_block(block(name, inputs, **parameters), inputs)


def test_every_fusion_block_has_a_sample():
    built_in = {e.name for e in registry.entries(FusionBlock.group) if e.package == "medfuse"}
    assert built_in <= set(SAMPLES)


def test_concat_without_projection_is_torchs():
    a, b = torch.randn(1, 3, 4, 4), torch.randn(1, 4, 4, 4)
    assert torch.equal(block("concat", [A, B]).build([A, B])(a, b), torch.cat([a, b], 1))


def test_input_concat_leaves_the_image_as_it_is():
    module = block("input_concat", [A, IMAGE], upsample="transposed").build([A, IMAGE])
    image = torch.randn(1, 2, 7, 9)
    assert torch.equal(module(torch.randn(1, 3, 4, 5), image)[:, 3:], image)


def test_a_stride_of_sixteen_takes_four_steps_of_two():
    module = block("input_concat", [DEEP, IMAGE], upsample="transposed").build([DEEP, IMAGE])
    assert [step[0].stride for step in module.upsamplers[0].steps] == [(2, 2), (2, 2), (2, 1), (2, 1)]


def test_pixel_shuffle_begins_as_nearest_neighbour():
    module = block("input_concat", [A, IMAGE], upsample="pixelshuffle").build([A, IMAGE])
    y = module.upsamplers[0].steps[0][0](torch.randn(1, 3, 4, 4))
    torch.testing.assert_close(y[..., ::2, ::2], y[..., 1::2, 1::2])


def test_pixel_shuffle_is_torchs_in_two_dimensions():
    module = block("input_concat", [A, IMAGE], upsample="pixelshuffle").build([A, IMAGE])
    x = torch.randn(1, 12, 4, 5)
    assert torch.equal(module.upsamplers[0].steps[0][0][1](x), torch.nn.functional.pixel_shuffle(x, 2))


@pytest.mark.parametrize("inputs", [[A, B], [IMAGE]])
def test_input_concat_needs_the_image_and_a_map(inputs):
    with pytest.raises(ShapeError, match="takes `image` and at least one other map"):
        block("input_concat", inputs).plan(inputs)


def test_the_decoder_does_not_mind_the_order_of_its_inputs():
    assert block("unet_decoder", PYRAMID[::-1]).plan(PYRAMID[::-1]).stride == (1, 1, 1)


def test_side_outputs_are_the_coarser_stages_finest_first():
    four = [*PYRAMID, FeatureInfo("i", 10, (8, 8, 4))]
    sides = block("unet_decoder", four).side_outputs(four)
    assert [(s.name, s.channels, s.stride) for s in sides] == [("1", 6, (2, 2, 1)), ("2", 8, (4, 4, 2))]


def test_the_decoder_upsamples_by_a_kernel_that_is_its_stride():
    module = block("unet_decoder", PYRAMID).build(PYRAMID)
    assert [(m.kernel_size, m.stride) for m in module.upsample] == [((2, 2, 2),) * 2, ((2, 2, 1),) * 2]


def test_kernels_are_flat_along_an_axis_that_is_not_pooled_yet():
    module = block("unet_decoder", PYRAMID).build(PYRAMID)
    assert [stage[0].conv.kernel_size for stage in module.stages] == [(3, 3, 3), (3, 3, 1)]


def test_the_decoder_meets_maps_of_a_network_that_rounds_down():
    module = block("unet_decoder", [IMAGE, A]).build([IMAGE, A])
    assert module(torch.randn(1, 2, 7, 9), torch.randn(1, 3, 3, 4)).shape == (1, 2, 7, 9)


def test_the_decoder_needs_two_maps():
    with pytest.raises(ShapeError, match="at least two inputs"):
        block("unet_decoder", [A]).plan([A])


def test_strides_that_do_not_nest_are_refused():
    third = FeatureInfo("third", 4, (3, 3))
    with pytest.raises(ShapeError, match=r"from third \(stride 3×3\) to a \(stride 2×2\)"):
        block("unet_decoder", [third, A]).plan([third, A])
