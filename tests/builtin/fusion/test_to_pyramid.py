"""Maps of one stride as a pyramid: which level is made of what, of which size, and that decoders take it."""

import pytest
import torch
from torch import nn

from medfuse import registry
from medfuse.api import Backbone, FeatureInfo, FusionBlock, ImageInfo
from medfuse.core.errors import PipelineError, ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.plan import GraphPlan
from medfuse.model.resample import resize
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify

BLOCKS = [FeatureInfo(f"blocks.{i}", 12, (16, 16)) for i in (2, 5, 8, 11)]
THICK = [FeatureInfo(name, 6, (16, 16, 2)) for name in "abcd"]
FOURTEEN = [FeatureInfo(name, 6, (14, 14)) for name in "abcd"]


def block(inputs, **parameters) -> FusionBlock:
    names = tuple(x.name for x in inputs)
    return registry.get(FusionBlock.group, "to_pyramid")(inputs=names, **parameters)


def built(inputs, **parameters) -> nn.Module:
    torch.manual_seed(0)
    return block(inputs, **parameters).build(inputs)


def levels(inputs, **parameters) -> list[tuple[int, ...]]:
    return [side.stride for side in block(inputs, **parameters).side_outputs(inputs)]


def widths(inputs, **parameters) -> list[int]:
    return [side.channels for side in block(inputs, **parameters).side_outputs(inputs)]


def maps(inputs, size) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, x.channels, *x.size(size)) for x in inputs]


# ---- what is planned


def test_the_levels_are_published_finest_first_and_the_finest_is_the_result():
    pyramid = block(BLOCKS)
    sides = pyramid.side_outputs(BLOCKS)
    assert [(s.name, s.stride) for s in sides] == [(str(i), (n, n)) for i, n in enumerate((4, 8, 16, 32), 1)]
    assert pyramid.plan(BLOCKS) == sides[0].named("to_pyramid")
    module = built(BLOCKS)
    finest, *made = module(*maps(BLOCKS, (64, 96)))
    assert finest is made[0]


@pytest.mark.parametrize(
    ("stride", "found"),
    [
        ((16, 16, 16), [(4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32)]),
        ((8, 8, 8), [(4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32)]),
        ((16, 16, 2), [(4, 4, 1), (8, 8, 1), (16, 16, 2), (32, 32, 4)]),
        ((16, 16, 1), [(4, 4, 1), (8, 8, 1), (16, 16, 1), (32, 32, 2)]),
        ((2, 14, 14), [(1, 4, 4), (1, 8, 8), (2, 16, 16), (4, 32, 32)]),
        ((6, 6, 4), [(4, 4, 2), (8, 8, 4), (16, 16, 8), (32, 32, 16)]),
    ],
)
def test_along_a_finer_axis_auto_strides_keep_their_proportion_and_nest(stride, found):
    assert levels([FeatureInfo("x", 4, stride)]) == found


def test_strides_are_as_given_one_number_or_one_per_axis():
    given = [2, [4, 4, 1], [8, 8, 2], 16]
    assert levels(THICK, strides=given) == [(2, 2, 2), (4, 4, 1), (8, 8, 2), (16, 16, 16)]


@pytest.mark.parametrize(
    ("channels_in", "given", "found"),
    [
        (768, {}, [32, 64, 128, 256]),
        (384, {}, [32, 64, 128, 256]),
        (12, {}, [8, 8, 8, 12]),
        (3, {}, [3, 3, 3, 3]),
        (768, {"channels": 24}, [24] * 4),
        (768, {"channels": [8, 16, 32, 64]}, [8, 16, 32, 64]),
        (768, {"channels": None}, [768] * 4),
    ],
)
def test_channels_are_halved_towards_the_finest_level_or_as_given(channels_in, given, found):
    assert widths([FeatureInfo("x", channels_in, (16, 16))], **given) == found


@pytest.mark.parametrize(
    ("inputs", "given", "message"),
    [
        (BLOCKS[:3], {}, r"one map for each of its 4 levels \(strides 4, 8, 16, 32\), or one .*, not 3"),
        (BLOCKS, {"strides": [4, 8]}, "of its 2 levels"),
        (BLOCKS, {"strides": [32, 16, 8, 4]}, "stride 32×32 stands before 16×16"),
        (BLOCKS, {"strides": [[4, 4, 4], 8, 16, 32]}, "does not fit a 2-D patch"),
        (BLOCKS, {"channels": [8, 16]}, "channels has 2 entries for 4 stages"),
    ],
)
def test_what_makes_no_pyramid_is_refused(inputs, given, message):
    with pytest.raises(ShapeError, match=message):
        block(inputs, **given).plan(inputs)


# ---- what is made


@pytest.mark.parametrize("learned", [True, False])
def test_each_level_is_made_of_its_own_input_the_last_of_which_is_the_coarsest(learned):
    given = [x.requires_grad_() for x in maps(BLOCKS, (64, 64))]
    _, *made = built(BLOCKS, learned=learned)(*given)
    for number, level in enumerate(made):
        gradients = torch.autograd.grad(level.sum(), given, allow_unused=True, retain_graph=True)
        assert [g is not None for g in gradients] == [i == number for i in range(4)]


@pytest.mark.parametrize("learned", [True, False])
def test_a_single_map_becomes_every_level(learned):
    (x,) = maps(BLOCKS[:1], (64, 64))
    _, *made = built(BLOCKS[:1], learned=learned, channels=5)(x)
    assert [tuple(level.shape[1:]) for level in made] == [(5, 16, 16), (5, 8, 8), (5, 4, 4), (5, 2, 2)]


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(
    ("inputs", "size"),
    [(BLOCKS, (64, 32)), (THICK, (32, 48, 6)), (FOURTEEN, (112, 224)), (BLOCKS, (32, 32))],
)
def test_levels_have_the_size_of_their_stride(inputs, size, learned):
    """Down to one voxel, and in training, where an instance norm would refuse it."""
    _, *made = built(inputs, learned=learned).train()(*maps(inputs, size))
    for side, level in zip(block(inputs).side_outputs(inputs), made):
        assert tuple(level.shape[2:]) == side.size(size)


def test_not_learned_a_level_is_the_map_interpolated_or_averaged():
    x = maps(BLOCKS[:1], (64, 96))[0]
    _, *made = built(BLOCKS[:1], learned=False, channels=None)(x)
    torch.testing.assert_close(made[0], resize(x, (16, 24)))
    torch.testing.assert_close(made[1], resize(x, (8, 12)))
    assert torch.equal(made[2], x)
    torch.testing.assert_close(made[3], nn.functional.avg_pool2d(x, 2))


def test_a_mean_at_the_far_edge_is_of_the_voxels_that_are_there():
    x = maps(BLOCKS[:1], (48, 48))[0]
    *_, coarsest = built(BLOCKS[:1], learned=False, channels=None)(x)
    torch.testing.assert_close(coarsest[..., 1, 1], x[..., 2, 2])
    torch.testing.assert_close(coarsest[..., 0, 1], x[..., :2, 2].mean(-1))


def test_projecting_first_gives_what_resampling_first_would():
    x = maps(BLOCKS[:1], (64, 64))[0]
    module = built(BLOCKS[:1], learned=False, channels=3)
    for level, factor in zip(module.levels, (4, 2)):
        torch.testing.assert_close(level(x), level.project(resize(x, (4 * factor, 4 * factor))))
    coarsest = module.levels[3]
    torch.testing.assert_close(coarsest(x), coarsest.project(nn.functional.avg_pool2d(x, 2)))


def test_learned_steps_are_small_transposed_convolutions_and_strided_ones():
    module = built(THICK, strides=[[4, 4, 1], [8, 8, 1], [16, 16, 2], [32, 32, 4]])
    steps = [[(type(step[0]).__name__, step[0].stride) for step in level.steps] for level in module.levels]
    assert steps == [
        [("ConvTranspose3d", (2, 2, 2)), ("ConvTranspose3d", (2, 2, 1))],
        [("ConvTranspose3d", (2, 2, 2))],
        [],
        [("Conv3d", (2, 2, 2))],
    ]


def test_without_learning_there_are_no_weights_but_projections():
    assert [*built(BLOCKS, learned=False, channels=None).parameters()] == []
    names = {name for name, _ in built(BLOCKS, learned=False).named_parameters()}
    assert all(".project." in name for name in names)


# ---- in a graph


class Flat(Backbone):
    """Four layers of one stride, as a transformer's blocks; it rounds up or, without padding, down."""

    stride: tuple[int, ...] = (16, 16)
    pads: bool = True

    def features(self, image):
        return [FeatureInfo(f"blocks.{i}", 8, self.stride) for i in range(4)]

    def build(self, image):
        return FlatNet(image.channels, self.stride, self.pads)


class FlatNet(nn.Module):
    def __init__(self, channels, stride, pads) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[len(stride)]
        self.stride, self.pads = stride, pads
        self.embed = convolution(channels, 8, stride, stride=stride)
        self.blocks = nn.ModuleList(convolution(8, 8, 1) for _ in range(4))

    def forward(self, x):
        if self.pads:
            ends = [-n % s for n, s in zip(x.shape[2:], self.stride)]
            x = nn.functional.pad(x, [n for end in reversed(ends) for n in (0, end)])
        x = self.embed(x)
        for layer in self.blocks:
            x = layer(x)
        return x


DECODERS = {
    "unet_decoder": {"inputs": ["image", "pyramid.*"]},
    "unet_plus_plus": {"inputs": ["image", "pyramid.*"], "convs": 1},
    "fpn": {"inputs": ["pyramid.*"], "channels": 4, "levels": 4},
    "hypercolumn": {"inputs": ["image", "pyramid.*"], "channels": 4},
    "sum_of_logits": {"inputs": ["pyramid.*"], "channels": 3},
    "concat": {"inputs": ["pyramid.*"], "channels": 4},
}


def graph(decoder: str, size: tuple[int, ...], pyramid=None, **flat) -> GraphPlan:
    settings = {
        "backbones": {"vit": Flat(**flat)},
        "fusion": {
            "pyramid": {"use": "to_pyramid", "inputs": ["vit.*"], **(pyramid or {})},
            "decoded": {"use": decoder, **DECODERS[decoder]},
        },
        "head": {"input": "decoded"},
        "aux": {"heads": ["pyramid.1", "pyramid.4"], "schedule": "constant"},
    }
    image = ImageInfo(1, size, (1.0,) * len(size))
    return plan_graph(ModelSettings.model_validate(settings), image, 3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("size", "flat"),
    [((64, 96), {}), ((72, 57), {}), ((33, 64), {"pads": False}), ((40, 35, 5), {"stride": (16, 16, 2)})],
)
def test_decoders_take_its_levels_as_they_take_stages_whatever_the_size(decoder, size, flat):
    planned = graph(decoder, size, **flat)
    facts = verify(planned)
    model = build_segmenter(planned)
    for image in (size, tuple(n + 13 for n in size)):
        names = ("pyramid", "pyramid.1", "pyramid.4")
        logits, aux, made = model(torch.randn(2, 1, *image), ("pyramid.1",), names)
        assert tuple(logits.shape) == (2, 3, *image)
        assert torch.equal(made["pyramid"], made["pyramid.1"])
        for name in names:
            assert tuple(made[name].shape[2:]) == planned.features[name].size(image)
        assert aux["pyramid.1"].shape[2:] == made["pyramid.1"].shape[2:]
    assert facts.sizes["pyramid.1"] == planned.features["pyramid.1"].size(size)


def test_beyond_the_far_edge_a_level_is_cropped_so_that_it_lies_where_the_image_does():
    model = build_segmenter(graph("fpn", (72, 72), {"learned": False, "channels": None})).eval()
    x = torch.randn(1, 1, 72, 72)
    _, _, made = model(x, (), ("vit.blocks.0", "pyramid.1"))
    whole = resize(made["vit.blocks.0"], (20, 20))
    assert made["pyramid.1"].shape[2:] == (18, 18)
    torch.testing.assert_close(made["pyramid.1"], whole[..., :18, :18])


class Wrong(FusionBlock):
    """Declares a stride that it does not make."""

    aligns = False
    overhangs = True

    def plan(self, inputs):
        return FeatureInfo("wrong", inputs[0].channels, (4, 4))

    def build(self, inputs):
        return nn.Identity()


def test_a_wrong_stride_is_found_though_maps_may_overhang():
    settings = {
        "backbones": {"vit": Flat()},
        "fusion": {"wrong": Wrong(inputs=("vit.blocks.0",))},
        "head": {"input": "wrong"},
    }
    planned = plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (64, 64), (1.0, 1.0)), 2)
    with pytest.raises(
        PipelineError, match="declares stride 4×4 for wrong, 16×16 of 64×64 voxels, but makes 4×4"
    ):
        verify(planned)
