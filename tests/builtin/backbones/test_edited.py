"""Backbones whose layers are changed."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.core.errors import MedfuseError, PluginError, ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.testing import check_backbone

FLAT = ImageInfo(1, (32, 32), (1.0, 1.0))
UNET = {"use": "unet_encoder", "base_channels": 4, "stages": 3, "convs": 1}
RESNET = {"use": "resnet", "depth": 10, "conv1_stride": 1}
NORM = {
    "replace": "*bn?",
    "by": "torch.nn.GroupNorm",
    "arguments": {"num_groups": 4, "num_channels": "$channels"},
}
DROPOUT = {"module": "torch.nn.Dropout2d", "arguments": {"p": 0.1}}
IDENTITY = "torch.nn.Identity"


class Twice(nn.Module):
    """Uses one activation in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1)
        self.act = self.alias = nn.ReLU()
        self.list = nn.ModuleList([nn.Conv2d(3, 3, 1)])

    def forward(self, x):
        return self.list[0](self.alias(self.second(self.act(self.first(x)))))


TWICE = {"use": "module", "target": f"{__name__}:Twice"}


def edited(*edits, of=UNET) -> Backbone:
    return registry.get(Backbone.group, "edited").model_validate({"of": of, "edits": edits})


def network(plugin: Backbone) -> nn.Module:
    torch.manual_seed(0)
    return plugin.build(FLAT).eval()


def unedited(of=UNET) -> Backbone:
    return registry.get(Backbone.group, of["use"])(**{k: v for k, v in of.items() if k != "use"})


def output(plugin: Backbone) -> torch.Tensor:
    made = network(plugin)
    torch.manual_seed(1)
    return made(torch.randn(2, 1, 32, 32))


def names(plugin: Backbone) -> list[str]:
    return [f.name for f in plugin.features(FLAT)]


@pytest.mark.parametrize(
    "plugin",
    [
        edited(NORM, {"remove": "layer4"}, {"insert_after": "layer2", **DROPOUT}, of=RESNET),
        edited({"replace": "*.act", "by": "torch.nn.SiLU"}, {"insert_after": "stages.1", **DROPOUT}),
    ],
    ids=["resnet", "unet_encoder"],
)
def test_the_contract_is_kept(plugin):
    check_backbone(plugin, FLAT)


# ---- laws


@pytest.mark.parametrize("of", [UNET, RESNET], ids=["unet_encoder", "resnet"])
def test_a_layer_replaced_by_its_like_changes_nothing(of):
    act = {"replace": "*.act", "by": "torch.nn.ReLU" if of is RESNET else "torch.nn.LeakyReLU"}
    assert torch.equal(output(edited(act, of=of)), output(unedited(of)))


@pytest.mark.parametrize("layer", ["stages.1", "stages.1.0.conv", "stages.*"])
def test_an_identity_after_a_layer_changes_nothing(layer):
    assert torch.equal(output(edited({"insert_after": layer, "module": IDENTITY})), output(unedited()))


def test_a_removed_layer_passes_on_what_it_is_given():
    made = network(edited({"remove": "layer4"}, of=RESNET))
    assert torch.equal(made.layer4(x := torch.randn(1, 3, 2, 2)), x)
    assert not list(made.layer4.parameters())


def test_removing_the_last_layer_leaves_the_output_of_the_one_before():
    whole = network(unedited())
    before = whole.stages[:2](torch.ones(2, 1, 32, 32))
    assert torch.equal(network(edited({"remove": "stages.2"}))(torch.ones(2, 1, 32, 32)), before)


@pytest.mark.parametrize("layer", ["stages.1", "stages.1.0.conv"])
def test_an_inserted_layer_is_run_once_on_what_the_layer_makes(layer):
    made, ran = network(edited({"insert_after": layer, "module": "torch.nn.Tanh"})), []
    inserted = made.get_submodule(f"{layer}.inserted")
    inserted.register_forward_hook(lambda _, given, __: ran.append(given[0]))
    tapped = []
    made.get_submodule(layer).register_forward_hook(lambda _, __, y: tapped.append(y))
    made(torch.randn(1, 1, 32, 32))
    assert len(ran) == 1
    assert torch.equal(tapped[0], ran[0].tanh())


def test_inserting_renames_nothing():
    plain = network(unedited()).state_dict()
    assert set(network(edited({"insert_after": "stages.?", **DROPOUT})).state_dict()) == set(plain)


def test_layers_are_inserted_in_the_order_of_the_edits():
    edits = [{"insert_after": "stages.0", "module": f"torch.nn.{name}"} for name in ("Tanh", "Softplus")]
    made = network(edited(*edits)).stages[0]
    assert [type(m).__name__ for m in list(made)[-2:]] == ["Tanh", "Softplus"]


def test_a_layer_in_two_places_stays_one():
    made = network(edited({"replace": "a*", "by": "torch.nn.PReLU"}, of=TWICE))
    assert made.act is made.alias
    assert isinstance(made.act, nn.PReLU)


def test_of_layers_inside_each_other_the_outermost_changes():
    made = network(
        edited({"replace": "stages.1*", "by": "torch.nn.MaxPool2d", "arguments": {"kernel_size": 2}})
    )
    assert isinstance(made.stages[1], nn.MaxPool2d)


def test_channels_of_the_replaced_layer_are_filled_in():
    made = network(edited(NORM, of=RESNET))
    norms = [m.num_channels for m in made.modules() if isinstance(m, nn.GroupNorm)]
    assert {64, 128, 256, 512} <= {*norms}


def test_both_ways_to_write_a_class_are_one():
    dotted, colon = ({"replace": "*.act", "by": f"torch.nn{sign}SiLU"} for sign in ".:")
    assert torch.equal(output(edited(dotted)), output(edited(colon)))


# ---- features


def test_what_is_removed_is_not_offered():
    assert names(edited({"remove": "layer4"}, of=RESNET)) == ["act", "layer1", "layer2", "layer3"]


def test_only_what_the_other_backbone_declares_is_offered():
    assert names(edited({"insert_after": "stages.0", **DROPOUT})) == names(unedited())


def test_channels_and_strides_are_those_of_the_edited_network():
    pool = {"replace": "stages.0", "by": "torch.nn.AvgPool2d", "arguments": {"kernel_size": 2}}
    conv = {"by": "torch.nn.Conv2d", "arguments": {"in_channels": 1, "out_channels": 8, "kernel_size": 1}}
    found = edited(pool, {"replace": "stages.1.0.conv", **conv}).features(FLAT)[:2]
    assert [(f.name, f.channels, f.stride) for f in found] == [
        ("stages.0", 1, (2, 2)),
        ("stages.1", 8, (2, 2)),
    ]


@pytest.mark.parametrize("taps", ["forward_hook", "sequential_truncation", "fx_graph"])
def test_an_inserted_layer_is_kept_by_every_way_of_tapping(taps):
    settings = {
        "backbones": {"encoder": edited({"insert_after": "stages.1.0.conv", "module": "torch.nn.Tanh"})},
        "taps": {"encoder": taps},
        "head": {"input": "encoder.stages.1"},
    }
    torch.manual_seed(0)
    model = build_segmenter(plan_graph(ModelSettings.model_validate(settings), FLAT, 2)).eval()
    made = network(settings["backbones"]["encoder"])
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(model.backbones["encoder"](x)["stages.1"], made.stages[:2](x))


# ---- what to do


@pytest.mark.parametrize(
    ("edit", "of", "error", "message"),
    [
        ({"remove": "stages.9"}, UNET, ShapeError, r"edits\[0\], remove stages.9: the network has no layer"),
        ({"remove": "stage.1"}, UNET, ShapeError, "near are stages.1"),
        ({"replace": "*.act", "by": "torch.nn.SiLUU"}, UNET, PluginError, "did you mean 'SiLU'"),
        ({"insert_after": "list", "module": IDENTITY}, TWICE, ShapeError, "list is a list of layers"),
        (
            {"replace": "act", "by": IDENTITY, "arguments": {"n": "$channels"}},
            TWICE,
            PluginError,
            r"arguments.n: a ReLU does not say its channels; give the number",
        ),
    ],
)
def test_an_edit_that_cannot_be_made_is_named(edit, of, error, message):
    with pytest.raises(error, match=message):
        edited(edit, of=of).features(FLAT)


def test_the_edit_after_which_the_network_fails_is_named():
    edits = ({"replace": "*.act", "by": "torch.nn.SiLU"}, {"remove": "stages.0"}, {"remove": "stages.2"})
    with pytest.raises(
        ShapeError, match=r"edits\[1\], remove stages.0: the edited network fails on a batch of 2×1"
    ):
        edited(*edits).features(FLAT)


def test_a_network_that_fails_by_itself_is_no_edits_fault():
    with pytest.raises(MedfuseError) as caught:
        edited({"remove": "1"}, of={**TWICE, "target": "torch.nn:Bilinear"}).features(FLAT)
    assert "edits" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({}, "give one of replace, remove and insert_after"),
        ({"remove": "a", "replace": "b"}, "give one of replace, remove and insert_after"),
        ({"replace": "a"}, "`replace` needs `by:`"),
        ({"insert_after": "a", "by": IDENTITY}, "`insert_after` needs `module:`|`by` does not go with"),
        ({"remove": "a", "arguments": {"p": 1}}, "take them out"),
        ({"replace": "a", "by": "SiLU"}, "should match pattern"),
    ],
)
def test_an_edit_does_one_thing(edit, message):
    with pytest.raises(ValidationError, match=message):
        registry.get(Backbone.group, "edited").model_validate({"of": UNET, "edits": [edit]})


def test_layers_that_cannot_run_on_the_patch_are_left_to_the_tap_strategy():
    deep = edited({"replace": "bn1", "by": IDENTITY}, of={"use": "resnet", "depth": 10, "norm": "instance"})
    names = [f.name for f in deep.features(FLAT)]
    assert names == ["act", "layer1", "layer2", "layer3"]
    broken = edited({"replace": "layer2", "by": "torch.nn.Conv2d", "arguments": WRONG}, of=RESNET)
    with pytest.raises(ShapeError, match=r"edits\[0\], replace layer2: the edited network fails"):
        broken.features(FLAT)


WRONG = {"in_channels": 7, "out_channels": 7, "kernel_size": 1}
