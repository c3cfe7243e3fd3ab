"""What a network says of the whole image: found, planned, fused with maps, supervised, whatever the size."""

import pytest
import torch
from torch import nn

from medfuse import registry
from medfuse.api import Backbone, FeatureInfo, FusionBlock, ImageInfo
from medfuse.core.errors import PipelineError
from medfuse.model.blocks import blocks_of, in_order, last_by_stride
from medfuse.model.graph import plan_graph
from medfuse.model.layers import find_layers
from medfuse.model.maps import Shown, read_map
from medfuse.model.plan import GraphPlan
from medfuse.model.resample import resize
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify

IMAGES = {2: ImageInfo(1, (32, 48), (1.0, 1.0)), 3: ImageInfo(1, (16, 16, 8), (1.0, 1.0, 1.0))}
OTHER = {2: (41, 39), 3: (19, 24, 11)}


class Classifier(nn.Module):
    """Two stages, a pooled output in two shapes, scores, and a tail of many halvings."""

    def __init__(self, dims: int, halvings: int = 6) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims]
        self.stem = convolution(1, 4, 3, stride=2, padding=1)
        self.deep = nn.Sequential(*(convolution(4, 4, 3, stride=2, padding=1) for _ in range(halvings)))
        self.pool, self.flat, self.fc = pool(1), nn.Flatten(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(self.flat(self.pool(x))) + self.deep(x).mean()


def made(dims: int) -> nn.Module:
    return Classifier(dims)


CLASSIFIER = {"use": "module", "target": f"{__name__}:made"}


FUSED = {"fused": {"use": "concat", "inputs": ["net.stem", "net.flat"]}}


def graph(
    dims: int = 2, *, fusion=FUSED, head="fused", aux=None, loss=None, backbones=None, image=None, **more
) -> GraphPlan:
    settings = {
        "backbones": backbones or {"net": {**CLASSIFIER, "parameters": {"dims": dims}}},
        "fusion": fusion,
        "head": {"input": head},
        **({"aux": {"heads": aux, "schedule": "constant", "loss": loss}} if aux else {}),
        **more,
    }
    return plan_graph(ModelSettings.model_validate(settings), image or IMAGES[dims], 3)


# ---- what it is


@pytest.mark.parametrize("dims", [2, 3])
def test_pooled_outputs_are_found_and_deep_maps_of_one_voxel_are_none(dims):
    layers = {layer.name: layer for layer in find_layers(lambda: Classifier(dims), IMAGES[dims])}
    assert {name for name, layer in layers.items() if layer.image_level} == {"", "pool", "flat", "fc"}
    for name, channels in (("pool", 4), ("flat", 4), ("fc", 3)):
        assert layers[name].map_size == (channels, *(1,) * dims)
        assert layers[name].stride == IMAGES[dims].patch_size
    assert layers["deep.5"].map_size[1:] == (1,) * dims
    assert layers["deep.5"].stride == (128,) * dims


def offered(build) -> list[FeatureInfo]:
    ran = in_order(find_layers(build, IMAGES[2]))
    return [feature for layer in ran if (feature := layer.feature())]


def test_what_a_package_taps_of_a_network_that_nobody_described_are_maps():
    made = offered(lambda: Classifier(2, halvings=2))
    assert [feature.name for feature in last_by_stride(made)] == ["stem", "deep.0", "deep"]
    heads = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(*(nn.Linear(3, 3) for _ in range(5))))
    heads.insert(1, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert offered(lambda: heads)[-1].image_level
    assert not any(feature.image_level for feature in blocks_of(offered(lambda: heads)))


def test_what_has_other_channels_for_other_images_is_no_image_level_output():
    shown = [Shown((2, 12), (32, 48)), Shown((2, 24), (64, 48))]
    assert "other numbers of channels" in read_map(shown).reason
    assert not read_map(shown).stride


def test_without_an_image_that_is_wide_one_voxel_tells_nothing():
    shown = [Shown((2, 12, 1, 1), (32, 48)), Shown((2, 12, 1, 1), (16, 64))]
    assert not read_map(shown).image_level
    assert read_map([*shown, Shown((2, 12, 1, 1), (256, 512))]).image_level


@pytest.mark.parametrize("dims", [2, 3])
def test_in_the_graph_it_is_one_voxel_whose_stride_is_the_patch(dims):
    feature = graph(dims).features["net.flat"]
    assert (feature.channels, feature.stride) == (4, IMAGES[dims].patch_size)
    assert feature.size(OTHER[dims]) == feature.size(IMAGES[dims].patch_size) == (1,) * dims


def test_a_glob_means_maps_and_what_is_image_level_is_named():
    fusion = {"fused": {"use": "concat", "inputs": ["net.*"]}}
    names = [f.name for f in graph(fusion=fusion).nodes[0].inputs]
    assert "net.stem" in names
    assert not {"net.pool", "net.flat", "net.fc"} & {*names}


def test_a_node_of_nothing_but_image_level_maps_is_one():
    fusion = {
        "both": {"use": "concat", "inputs": ["net.flat", "net.fc"]},
        "fused": {"use": "concat", "inputs": ["net.stem", "both"]},
    }
    planned = graph(fusion=fusion)
    assert planned.features["both"].image_level
    assert planned.features["both"].size((99, 99)) == (1, 1)
    assert not planned.features["fused"].image_level
    assert verify(planned).sizes["both"] == (1, 1)


def test_the_table_and_the_boxes_say_so():
    planned = graph(aux=["net.flat"])
    (row,) = [line for line in planned.table().splitlines() if line.startswith("net.flat")]
    assert "whole image" in row
    assert "aux (labels in the patch)" in row
    (view,) = [view for view in planned.views() if view.name == "aux net.flat"]
    assert view.text == "4 channels, whole image\nlabels in the patch"


# ---- what it is fused with


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("taps", ["forward_hook", "fx_graph"])
@pytest.mark.parametrize("name", ["pool", "flat", "fc"])
def test_brought_to_a_grid_it_is_the_same_everywhere_to_the_last_bit(name, taps, dims):
    fusion = {"fused": {"use": "concat", "inputs": ["net.stem", f"net.{name}"]}}
    planned = graph(dims, fusion=fusion, taps={"net": {"use": taps}})
    verify(planned)
    model = build_segmenter(planned).eval()
    for size in (IMAGES[dims].patch_size, OTHER[dims]):
        logits, _, found = model(torch.randn(2, 1, *size), (), ("fused", f"net.{name}", "net.stem"))
        told = found[f"net.{name}"]
        assert told.shape == (2, planned.features[f"net.{name}"].channels, *(1,) * dims)
        assert torch.equal(found["fused"][:, :4], found["net.stem"])
        assert torch.equal(found["fused"][:, 4:], told.expand(-1, -1, *found["net.stem"].shape[2:]))
        assert logits.shape == (2, 3, *size)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("size", [(5, 7), (3, 4, 6)])
def test_one_voxel_is_spread_as_it_is(size, mode):
    x = torch.randn(2, 3, *(1,) * len(size))
    assert torch.equal(resize(x, size, mode), x.expand(2, 3, *size))


TAKERS = {
    "concat": [{}, {"channels": 6}],
    "projected_concat": [{"channels": 6}, {"channels": 6, "kernel": 3}],
    "input_concat": [
        {"upsample": u, **c}
        for u in ("linear", "nearest", "transposed", "pixelshuffle")
        for c in ({}, {"channels": 6})
    ],
    "conditional_concat": [{}, {"channels": 6}, {"mask": "per_channel"}],
    **{
        name: [{}, {"channels": 6}]
        for name in ("add", "subtract", "multiply", "divide", "max", "mean", "weighted")
    },
    "attention": [{"kind": kind} for kind in ("squeeze_excite", "spatial", "gate", "cross")],
    "spp": [{}],
    "aspp": [{}],
    "fpn": [{"channels": 6}],
    "hypercolumn": [{"channels": 6}],
    "sum_of_logits": [{}],
    "unet_decoder": [{}],
    "unet_plus_plus": [{}],
    "global_pool": [{}],
}


def test_every_block_is_asked():
    built_in = {e.name for e in registry.entries(FusionBlock.group) if e.package == "medfuse"}
    assert built_in == {*TAKERS, "to_pyramid"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "parameters"), [(name, given) for name, each in TAKERS.items() for given in each]
)
def test_every_block_hears_what_it_says(name, parameters, training):
    """Another value of it changes what is made, as no norm takes it out; and its gradient comes back."""
    fusion = {
        "whole": {"use": "global_pool", "inputs": ["net.stem"]},
        "fused": {"use": name, "inputs": ["image", "net.stem", "whole"], **parameters},
        "seen": {"use": "concat", "inputs": ["image", "fused"]},
    }
    settings = {"backbones": {"net": Wide()}, "fusion": fusion, "head": {"input": "seen"}}
    planned = plan_graph(ModelSettings.model_validate(settings), WIDE, 3)
    verify(planned)
    node = planned.nodes[1]
    torch.manual_seed(0)
    module = node.block.build(node.inputs).train(training)
    sizes = [(16, 24)] * 3 if node.reference else [(16, 24), (8, 12), (1, 1)]
    image, mapped = (torch.randn(2, 4, *size) for size in sizes[:2])
    made = []
    for seed in (1, 2):
        told = torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        output = module(image, mapped, told.expand(2, 4, *sizes[2]))
        made.append(output[0] if isinstance(output, list) else output)
    assert (made[0] - made[1]).abs().max() > 1e-3
    (gradient,) = torch.autograd.grad(made[1].square().sum(), told)
    assert gradient.abs().max() > 1e-4


WIDE = ImageInfo(4, (16, 24), (1.0, 1.0))


class Wide(Backbone):
    """One layer of four channels."""

    def features(self, image):
        return [FeatureInfo("stem", 4, (2, 2))]

    def build(self, image):
        network = nn.Sequential()
        network.stem = nn.Conv2d(image.channels, 4, 3, stride=2, padding=1)
        return network


def test_concatenated_and_projected_it_is_added_after_the_norm():
    a, whole = FeatureInfo("a", 3, (2, 2)), FeatureInfo("whole", 2, (2, 2), image_level=True)
    block = registry.get(FusionBlock.group, "concat")(inputs=("a", "whole"), channels=5)
    module = block.build([a, whole])
    x, told = torch.randn(2, 3, 6, 4), torch.randn(2, 2, 1, 1)
    normed = nn.functional.instance_norm(nn.functional.conv2d(x, module.project.weight, module.project.bias))
    shift = nn.functional.conv2d(told, module.shift.weight, module.shift.bias)
    expected = nn.functional.leaky_relu(normed + shift, 0.01)
    torch.testing.assert_close(module(x, told.expand(2, 2, 6, 4)), expected)


def test_a_feature_pyramid_carries_it_down_to_every_level():
    fusion = {"fused": {"use": "fpn", "inputs": ["net.stem", "net.flat"], "channels": 5, "levels": 2}}
    model = build_segmenter(graph(fusion=fusion)).eval()
    _, _, found = model(torch.randn(1, 1, 41, 39), (), ("net.stem", "net.flat", "fused", "fused.1"))
    block = model.fusion["fused"]
    top = block.lateral[0](found["net.flat"])
    merged = block.lateral[1](found["net.stem"]) + top
    torch.testing.assert_close(found["fused"], block.smooth[0](merged))
    torch.testing.assert_close(found["fused.1"], block.smooth[1](top))


def test_a_sum_of_logits_adds_its_scores_everywhere():
    fusion = {"fused": {"use": "sum_of_logits", "inputs": ["net.stem", "net.fc"], "channels": 3}}
    model = build_segmenter(graph(fusion=fusion)).eval()
    _, _, found = model(torch.randn(1, 1, 32, 48), (), ("net.stem", "net.fc", "fused"))
    stem, whole = (
        score(found[name]) for score, name in zip(model.fusion["fused"].score, ("net.stem", "net.fc"))
    )
    torch.testing.assert_close(found["fused"], stem + whole)


def test_a_decoder_takes_it_as_its_coarsest_map_though_strides_do_not_nest():
    fusion = {"fused": {"use": "unet_decoder", "inputs": ["net.flat", "net.stem"]}}
    planned = graph(fusion=fusion, image=ImageInfo(1, (35, 49), (1.0, 1.0)))
    assert planned.nodes[0].inputs[0].stride == (35, 49)
    verify(planned)
    for size in ((35, 49), (41, 39)):
        assert build_segmenter(planned)(torch.randn(2, 1, *size)).shape[2:] == size


# ---- what it cannot be


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fusion": {}, "head": "net.flat"}, "'net.flat' says one thing of the whole image, and has no grid"),
        (
            {"fusion": {"fused": {**FUSED["fused"], "resample_to": "net.flat"}}},
            "model.fusion.fused.resample_to: 'net.flat' says one thing of the whole image",
        ),
        (
            {
                "fusion": {
                    "pyramid": {"use": "to_pyramid", "inputs": ["net.flat"]},
                    "fused": {"use": "concat", "inputs": ["net.stem", "pyramid.1"]},
                }
            },
            "net.flat says one thing of the whole image; take it out",
        ),
    ],
)
def test_what_it_cannot_be_is_refused_at_its_key(given, message):
    with pytest.raises(PipelineError, match=message):
        graph(**given)


def test_a_loss_for_heads_that_have_their_own_is_refused():
    with pytest.raises(PipelineError, match=r"all heads tell which labels are in the patch.*remove `loss`"):
        graph(aux=["net.flat"], loss="dice_ce")
    assert graph(aux=["net.flat", "net.stem"], loss="dice_ce").presence == ("net.flat",)


@pytest.mark.parametrize("wanted", ["finest", "coarsest"])
def test_it_is_never_the_grid_that_others_are_brought_to(wanted):
    fusion = {
        "fused": {"use": "concat", "inputs": ["net.flat", "net.stem", "net.deep.0"], "resample_to": wanted}
    }
    assert graph(fusion=fusion).features["fused"].stride == {"finest": (2, 2), "coarsest": (4, 4)}[wanted]


class Lying(Backbone):
    """Declares a map image-level."""

    size: int = 1

    def features(self, image):
        return [FeatureInfo("conv", 3, (1, 1)), FeatureInfo("pool", 3, (7, 7), image_level=True)]

    def build(self, image):
        network = nn.Sequential()
        network.conv = nn.Conv2d(image.channels, 3, 3, padding=1)
        network.pool = nn.AdaptiveAvgPool2d(1) if self.size == 1 else nn.MaxPool2d(self.size)
        return network


@pytest.mark.parametrize(
    ("size", "found"), [(1, ""), (4, "8×12 of an image of 32×48"), (32, "of an image of")]
)
def test_what_is_declared_image_level_is_held_to_it_at_another_size_too(size, found):
    fusion = {"fused": {"use": "concat", "inputs": ["net.conv", "net.pool"]}}
    planned = graph(fusion=fusion, backbones={"net": Lying(size=size)})
    assert planned.features["net.pool"].stride == (32, 48)
    if not found:
        verify(planned)
        return
    with pytest.raises(PipelineError, match=f"declares net.pool image-level, but makes.*{found}"):
        verify(planned)


# ---- what supervises it


def test_its_auxiliary_head_makes_one_logit_for_each_class_whatever_the_size():
    planned = graph(aux=["net.flat", "net.deep.0"])
    assert planned.presence == ("net.flat",)
    model = build_segmenter(planned)
    _, aux = model(torch.randn(2, 1, 41, 39), planned.aux)
    assert aux["net.flat"].shape == (2, 3, 1, 1)


def test_a_deep_map_of_one_voxel_on_a_small_patch_is_judged_voxel_by_voxel():
    planned = graph(aux=["net.deep.5"])
    assert planned.presence == ()
    assert planned.features["net.deep.5"].size((32, 48)) == (1, 1)


def test_summed_scores_that_are_image_level_have_a_head_of_their_own():
    fusion = {"fused": {"use": "sum_of_logits", "inputs": ["net.stem", "net.flat"], "channels": 3}}
    planned = graph(fusion=fusion, aux=["fused.1", "fused.2"])
    assert planned.presence == ("fused.2",)
    assert {*build_segmenter(planned).aux} == {"fused__2"}


@pytest.mark.parametrize(
    ("use", "maps", "message"),
    [
        ("feature_matching", ["net.flat", "net.fc"], ""),
        (
            "feature_matching",
            ["net.stem", "net.flat"],
            "net.flat says one thing of the whole image, and net.stem",
        ),
        ("orthogonality", ["net.flat"], "net.flat is one voxel; take it out"),
        ("l2", ["net.flat"], ""),
    ],
)
def test_losses_on_activations_take_it_where_they_need_no_space(use, maps, message):
    losses = {"one": {"use": use, "maps": maps, "weight": 0.1}}
    if message:
        with pytest.raises(PipelineError, match=message):
            graph(activation_losses=losses)
        return
    planned = graph(activation_losses=losses)
    verify(planned)
    _, _, found = build_segmenter(planned)(torch.randn(2, 1, 41, 39), (), tuple(maps))
    loss = planned.activations[0].loss.build(planned.activations[0].maps)(*(found[name] for name in maps))
    assert loss.isfinite()


class Pooled2D(Backbone):
    """A 2-D network that declares its pooled output, of whatever stride."""

    def features(self, image):
        return [FeatureInfo("conv", 3, (1, 1)), FeatureInfo("flat", 3, (1, 1), image_level=True)]

    def build(self, image):
        network = nn.Sequential()
        network.conv = nn.Conv2d(image.channels, 3, 3, padding=1)
        network.pool, network.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return network


def test_of_slices_it_is_one_voxel_a_slice():
    fusion = {"fused": {"use": "concat", "inputs": ["net.conv", "net.flat"]}}
    planned = graph(3, fusion=fusion, backbones={"net": {"use": "slices", "of": Pooled2D(), "neighbours": 0}})
    assert planned.features["net.flat"].stride == (16, 16, 1)
    verify(planned)
    _, _, found = build_segmenter(planned)(
        torch.randn(2, 1, 19, 24, 5), (), ("net.conv", "net.flat", "fused")
    )
    pooled = found["net.conv"].mean((2, 3), keepdim=True)
    torch.testing.assert_close(found["net.flat"], pooled)
    torch.testing.assert_close(found["fused"][:, 3:], pooled.expand(-1, -1, 19, 24, -1))


@pytest.mark.parametrize("crop", [None, [16, 24]])
def test_of_views_each_has_its_own(crop):
    views = {"use": "view", "of": Pooled2D(), "channels": {"a": [0], "b": [1]}, "crop": crop}
    fusion = {"fused": {"use": "concat", "inputs": ["net.a.conv", "net.b.flat"]}}
    planned = graph(fusion=fusion, backbones={"net": views}, image=ImageInfo(2, (32, 48), (1.0, 1.0)))
    assert planned.features["net.b.flat"].image_level
    verify(planned)
    x = torch.randn(1, 2, 32, 48)
    _, _, found = build_segmenter(planned)(x, (), ("net.a.conv", "net.b.flat"))
    assert found["net.b.flat"].shape == (1, 3, 1, 1)
    assert found["net.a.conv"].shape == (1, 3, 32, 48)
