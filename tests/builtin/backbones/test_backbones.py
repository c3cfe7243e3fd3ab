"""Built-in backbones: the contract, and what each promises."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import nn

from medfuse import registry
from medfuse.api import Backbone, FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.errors import PluginError, ShapeError, lacks
from medfuse.core.named import NamedCode
from medfuse.model.pictures import refuse_unlike
from medfuse.model.trial import trial
from medfuse.testing import check_backbone

FLAT, DEEP = ImageInfo(2, (32, 32), (1.0, 1.0)), ImageInfo(1, (16, 16, 16), (1.0, 1.0, 1.0))
LARGE, SOLID = ImageInfo(2, (64, 64), (1.0, 1.0)), ImageInfo(1, (32, 32, 32), (1.0, 1.0, 1.0))


def backbone(name: str, **parameters) -> Backbone:
    return registry.get(Backbone.group, name)(**parameters)


def strides(image: ImageInfo, **parameters) -> list[tuple[int, ...]]:
    return [f.stride for f in backbone("unet_encoder", **parameters).features(image)]


class Net(nn.Module):
    """Takes a size, makes maps of stride 1 and 2, and numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(2, width, 3, padding=1)
        self.coarse = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 1))
        self.idle = nn.Conv2d(2, 2, 1)
        self.numbers = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.numbers(self.coarse(self.fine(x))).flatten(1)


class Lacking(nn.Module):
    """Imports what is not there, when it is made or when it runs, before or behind its `first` layer."""

    def __init__(self, at_once: bool, package: str, before: bool = True) -> None:
        super().__init__()
        self.first, self.package, self.before = nn.Conv2d(2, 4, 1), package, before
        if at_once:
            import_module(package)

    def forward(self, x):
        if self.before:
            import_module(self.package)
        x = self.first(x)
        import_module(self.package)
        return x


class Deep(nn.Module):
    """Runs a layer well, and then one inside a layer that raises."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(2, 4, 1)
        self.bad = nn.Sequential(nn.Identity(), nn.Conv2d(9, 4, 1))

    def forward(self, x):
        return self.bad(self.good(x))


def small(width: int) -> nn.Module:
    return Net(width)


class Given(nn.Module):
    """Takes a class somewhere in its arguments."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = (norm[0]["a"] if isinstance(norm, list) else norm)(4)

    def forward(self, x):
        return self.norm(self.conv(x))


class Counted(nn.Module):
    """Needs the value of a weight to be made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, int(torch.ones(3).sum().item()), 1)

    def forward(self, x):
        return self.conv(x)


RAISED = {"width must be 8": "RuntimeError", "width\nmust be 8": "LookupError", "width": "ZeroDivisionError"}


class Picky(nn.Module):
    """Refuses by an exception of its author's choice."""

    def __init__(self, how: str) -> None:
        kinds = {
            "RuntimeError": RuntimeError,
            "LookupError": LookupError,
            "ZeroDivisionError": ZeroDivisionError,
        }
        raise kinds[RAISED[how]](how)


MODULE = __name__
THIS, PICKY = f"{MODULE}:Net", f"{MODULE}:Picky"

SAMPLES = {
    "unet_encoder": [({"base_channels": 4}, FLAT), ({"base_channels": 4, "convs": 1}, DEEP)],
    "resnet": [({"depth": 10, "norm": "group"}, FLAT), ({"depth": 10, "conv1_stride": 1}, FLAT)],
    "module": [({"target": THIS, "parameters": {"width": 3}}, FLAT)],
    "edited": [
        (
            {
                "of": {"use": "unet_encoder", "base_channels": 4},
                "edits": [{"replace": "*.act", "by": "torch.nn.SiLU"}],
            },
            FLAT,
        )
    ],
    "view": [
        ({"of": {"use": "unet_encoder", "base_channels": 4}, "channels": {"a": [0], "b": [1]}}, FLAT),
        ({"of": {"use": "unet_encoder", "base_channels": 4}, "crop": [8, 16, 8]}, DEEP),
    ],
    "lora": [({"of": {"use": "unet_encoder", "base_channels": 4}, "on": ["conv"], "rank": 2}, FLAT)],
    "slices": [({"of": {"use": "unet_encoder", "base_channels": 4}}, DEEP)],
    "densenet": [({"norm": "group"}, LARGE)],
    "efficientnet": [({"norm": "group"}, LARGE)],
    "mednext": [
        ({"base_channels": 4, "global_response_norm": True}, FLAT),
        ({"base_channels": 4, "kernel": 5}, SOLID),
    ],
    "swin_unetr": [
        ({"channels": 12, "window": 4}, LARGE),
        ({"channels": 12, "window": 3, "v2": True}, SOLID),
    ],
    "primus": [({"channels": 12, "depth": 2, "heads": 2, "grid": 4}, SOLID)],
    "dino3d": [({"channels": 8, "depth": 2, "heads": 2, "grid": 2}, SOLID)],
}


SLOW = {"densenet", "efficientnet", "mednext", "swin_unetr"}
"""They take seconds, as they are deep, or have no meta kernels."""


@pytest.mark.parametrize(
    ("name", "parameters", "image"),
    [
        pytest.param(n, p, i, marks=pytest.mark.slow if n in SLOW else ())
        for n, cases in SAMPLES.items()
        for p, i in cases
    ],
)
def test_the_contract_is_kept(name, parameters, image):
    check_backbone(backbone(name, **parameters), image)


def test_every_backbone_has_a_sample():
    built_in = {e.name for e in registry.entries(Backbone.group) if e.package == "medfuse"}
    assert built_in == set(SAMPLES)


# ---- unet_encoder


def test_an_isotropic_patch_is_halved_while_eight_voxels_are_left():
    assert strides(ImageInfo(1, (64, 64, 64), (1.0,) * 3))[-1] == (16, 16, 16)


def test_a_coarse_axis_waits_until_the_others_have_caught_up():
    assert strides(ImageInfo(1, (64, 64, 32), (1.0, 1.0, 4.0)))[:4] == [
        (1, 1, 1),
        (2, 2, 1),
        (4, 4, 1),
        (8, 8, 2),
    ]


def test_kernels_are_flat_along_an_axis_whose_voxels_are_far_apart():
    network = backbone("unet_encoder", base_channels=2).build(ImageInfo(1, (32, 32, 16), (1.0, 1.0, 3.0)))
    assert network.stages[0][0].conv.kernel_size == (3, 3, 1)
    assert network.stages[-1][0].conv.kernel_size == (3, 3, 3)


@pytest.mark.parametrize(("image", "most"), [(DEEP, 320), (ImageInfo(1, (256, 256), (1.0, 1.0)), 512)])
def test_channels_double_up_to_nnunets_limit(image, most):
    channels = [f.channels for f in backbone("unet_encoder", base_channels=256).features(image)]
    assert channels[0] == 256
    assert channels[-1] == most


def test_channels_and_strides_can_be_given():
    made = backbone("unet_encoder", channels=[4, 6], strides=[1, [1, 2]]).features(FLAT)
    assert [(f.channels, f.stride) for f in made] == [(4, (1, 1)), (6, (1, 2))]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stages": 9}, "allows 4 stages, not 9; enlarge sample.patch_size"),
        ({"channels": [4, 8]}, "channels has 2 entries for 4 stages"),
        ({"strides": [1, [2, 2, 2]]}, "does not fit a 2-D patch"),
        ({"strides": [1, 2], "stages": 3}, "remove one of the two"),
    ],
)
def test_a_shape_that_does_not_fit_says_what_to_do(parameters, message):
    with pytest.raises(ShapeError, match=message):
        backbone("unet_encoder", **parameters).features(FLAT)


def test_the_activation_does_not_overwrite_a_stage():
    network = backbone("unet_encoder", base_channels=4).build(FLAT)
    made = []
    network.stages[0].register_forward_hook(lambda _, __, y: made.extend([y, y.clone()]))
    network(torch.randn(1, 2, 32, 32))
    assert torch.equal(*made)


# ---- resnet


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (34, 512), (50, 2048), (101, 2048)])
def test_a_resnet_of_any_depth_is_as_wide_as_it_says(depth, channels):
    plugin = backbone("resnet", depth=depth)
    with torch.device("meta"):
        network = plugin.build(FLAT)
        widths = network.layer4(torch.empty(2, plugin.features(FLAT)[3].channels, 2, 2)).shape[1]
    assert plugin.features(FLAT)[-1].channels == widths == channels


def test_a_resnets_stem_stride_is_given_per_axis():
    made = backbone("resnet", conv1_stride=[2, 2, 1]).features(DEEP)
    assert [f.stride for f in made[:3]] == [(2, 2, 1), (4, 4, 2), (8, 8, 4)]


def test_a_resnet_has_one_kind_of_norm_throughout():
    network = backbone("resnet", depth=10, norm="instance").build(FLAT)
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


# ---- module


def test_features_of_any_module_are_found_by_a_trial():
    made = backbone("module", target=THIS, parameters={"width": 3}).features(FLAT)
    assert [(f.name, f.channels, f.stride) for f in made[:4]] == [
        ("fine", 3, (1, 1)),
        ("coarse.0", 3, (2, 2)),
        ("coarse.1", 6, (2, 2)),
        ("coarse", 6, (2, 2)),
    ]


@pytest.mark.parametrize(
    ("target", "parameters", "message"),
    [
        ("no.such:Net", {}, "no.such cannot be imported"),
        ("torch.nn:Conv2x", {}, "torch.nn has no 'Conv2x'; did you mean 'Conv2d'"),
        ("math:pi", {}, "is no class and no function"),
        ("math:sqrt", {"x": 4}, "refuses these parameters: TypeError"),
        ("fractions:Fraction", {}, "makes a Fraction and no torch.nn.Module"),
        ("torch.nn:Conv2d", {"width": 3}, "refuses these parameters: TypeError"),
        ("torch.nn:Conv2d.no", {}, "torch.nn has no 'Conv2d.no'"),
        *((PICKY, {"how": how}, f"refuses these parameters: {kind}: width") for how, kind in RAISED.items()),
        (f"{MODULE}:Given", {"norm": "import:torch.nn.BatchNorm9d"}, "has no 'BatchNorm9d'; did you mean"),
        (f"{MODULE}:Given", {"norm": "import:no_such.Norm"}, "no_such cannot be imported"),
    ],
)
def test_a_module_that_cannot_be_made_says_why(target, parameters, message):
    with pytest.raises(PluginError, match=message) as caught:
        backbone("module", target=target, parameters=parameters).features(FLAT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_package_that_a_network_lacks_is_named_with_what_installs_it(at_once):
    parameters = {"at_once": at_once, "package": "no_such_package.part"}
    with pytest.raises(PluginError) as caught:
        backbone("module", target=f"{MODULE}:Lacking", parameters=parameters).features(FLAT)
    assert "needs the package no_such_package, which is not installed" in str(caught.value)
    assert "run pip install no_such_package" in str(caught.value)
    assert caught.value.at == (("target",) if at_once else ())


@pytest.mark.parametrize("edits", [[], [{"insert_after": "first", "module": "torch.nn.Tanh"}]])
@pytest.mark.parametrize("strategy", ["sequential_truncation", "fx_graph", "forward_hook"])
def test_a_package_that_is_needed_behind_the_last_tap_alone_is_needed_by_those_who_run_that(strategy, edits):
    parameters = {"at_once": False, "package": "no_such_package", "before": False}
    made = backbone("module", target=f"{MODULE}:Lacking", parameters=parameters)
    made = backbone("edited", of=made, edits=edits) if edits else made
    features = made.features(FLAT)
    assert [(f.name, f.channels) for f in features if f.name == "first"] == [("first", 4)]
    taps = registry.get(TapStrategy.group, strategy)()
    if strategy == "forward_hook":
        with pytest.raises(PluginError, match="needs the package no_such_package"):
            taps.attach(made.build(FLAT), features[:1], FLAT)
    else:
        tapped = taps.attach(made.build(FLAT), features[:1], FLAT)
        assert tapped(torch.zeros(1, 2, 8, 8))[features[0].name].shape == (1, 4, 8, 8)


def test_an_extra_that_brings_a_package_along_is_named():
    assert lacks(ImportError("import einops (No module named 'einops')")).endswith(
        'run pip install einops or pip install "medfuse[swin]"'
    )


def test_the_layer_that_raises_is_named():
    with pytest.raises(ShapeError, match=r"RuntimeError: .* \(in its layer 'bad\.1'\)$"):
        trial(Deep(), FLAT)


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("monai.networks.nets.ResNet", "monai.networks.nets:ResNet"),
        ("torch.nn.Conv2d", "torch.nn:Conv2d"),
        ("ResNet", "monai.networks.nets:ResNet"),
        ("", "monai.networks.nets:ResNet"),
    ],
)
def test_a_target_without_a_colon_is_told_how_it_is_written(target, meant):
    with pytest.raises(ValidationError, match=f"write it as `package.module:name`, such as `{meant}`"):
        backbone("module", target=target)


def test_the_network_that_the_documents_show_can_be_made():
    text = (Path(__file__).parents[3] / "docs/techniques.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"`encoder: (\{use: module.*?)` \|", text)
    image = ImageInfo(1, (32, 32, 32), (1.0, 1.0, 1.0))
    settings = yaml.safe_load(shown)
    assert backbone(settings.pop("use"), **settings).features(image)


def test_a_function_makes_a_network_as_a_class_does():
    of_class = backbone("module", target=THIS, parameters={"width": 3}).features(FLAT)
    assert backbone("module", target=f"{MODULE}:small", parameters={"width": 3}).features(FLAT) == of_class
    of_monai = backbone(
        "module", target="monai.networks.nets:resnet18", parameters={"spatial_dims": 2, "n_input_channels": 2}
    ).features(FLAT)
    assert {"layer1", "layer2", "layer3", "layer4"} <= {f.name for f in of_monai}


@pytest.mark.parametrize("path", ["torch.nn.InstanceNorm2d", "torch.nn:InstanceNorm2d"])
def test_an_argument_may_be_a_class_wherever_it_stands(path):
    plugin = backbone("module", target=f"{MODULE}:Given", parameters={"norm": [{"a": f"import:{path}"}]})
    assert isinstance(plugin.build(FLAT).norm, nn.InstanceNorm2d)
    assert {f.name for f in plugin.features(FLAT)} == {"conv", "norm"}


def test_a_network_that_needs_real_numbers_to_be_made_is_made():
    assert backbone("module", target=f"{MODULE}:Counted").features(FLAT)


def test_what_a_module_names_is_listed():
    parameters = {"a": [{"b": "import:x.y.Z"}], "c": "plain"}
    named = [*backbone("module", target="p.q:R", parameters=parameters).named_code()]
    assert named == [NamedCode("p.q:R", parameters), NamedCode("x.y:Z")]


# ---- slices


def test_a_slice_sees_its_neighbours_and_no_further():
    plugin = backbone("slices", of={"use": "unet_encoder", "base_channels": 4, "convs": 1}, neighbours=1)
    network = plugin.build(DEEP).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    changed = image.clone()
    changed[..., 8] += 1
    with torch.no_grad():
        before, after = network(image)["stages.0"], network(changed)["stages.0"]
    differ = [(before[..., z] != after[..., z]).any().item() for z in range(16)]
    assert [z for z, d in enumerate(differ) if d] == [7, 8, 9]


@pytest.mark.parametrize("neighbours", [0, 1, 3])
@pytest.mark.parametrize("depth", [1, 4])
def test_the_stack_of_a_slice_is_its_neighbours_of_each_channel_with_the_last_ones_repeated(
    neighbours, depth, monkeypatch
):
    network = backbone("slices", of={"use": "unet_encoder"}, neighbours=neighbours)
    network = network.build(ImageInfo(2, (16, 8, depth), (1.0, 1.0, 1.0)))
    given = []
    monkeypatch.setattr(network.inner, "forward", lambda stacks: given.append(stacks) or {})
    image = torch.randn(2, 2, 16, 8, depth)
    for laid in (image, image.contiguous(memory_format=torch.channels_last_3d)):
        network(laid)
    seen = [[min(max(z + i, 0), depth - 1) for i in range(-neighbours, neighbours + 1)] for z in range(depth)]
    wanted = [torch.stack([x[c, ..., n] for c in range(2) for n in near]) for x in image for near in seen]
    assert torch.equal(given[0], torch.stack(wanted))
    assert torch.equal(given[0], given[1])
    assert given[0].is_contiguous()


def test_without_neighbours_slices_are_those_of_the_flat_network():
    plugin = backbone("slices", of={"use": "unet_encoder", "base_channels": 4}, neighbours=0)
    network = plugin.build(DEEP).eval()
    image = torch.randn(1, 1, 16, 16, 4)
    with torch.no_grad():
        made = network(image)["stages.1"]
        flat = [network.inner(image[..., z])["stages.1"] for z in range(4)]
    torch.testing.assert_close(made, torch.stack(flat, dim=-1))


def test_slices_of_a_flat_patch_are_refused():
    with pytest.raises(ShapeError, match="works on 3-D patches"):
        backbone("slices", of="unet_encoder").features(FLAT)


# ---- what is asked for stage by stage


def test_kernels_and_convolutions_can_be_given_for_each_stage():
    network = backbone(
        "unet_encoder", channels=[2, 4], strides=[1, 2], kernels=[[1, 3], 5], convs=[1, 3]
    ).build(FLAT)
    assert [len(stage) for stage in network.stages] == [1, 3]
    assert [stage[0].conv.kernel_size for stage in network.stages] == [(1, 3), (5, 5)]


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd number"):
        backbone("unet_encoder", kernels=[2, 3])


# ---- MONAI's


def test_efficientnets_widths_are_monais():
    from monai.networks.nets.efficientnet import EfficientNetEncoder

    declared = [
        tuple(f.channels for f in backbone("efficientnet", size=f"b{i}").features(LARGE)) for i in range(8)
    ]
    assert declared == EfficientNetEncoder.num_channels_per_output()[:8]


def test_an_efficientnet_of_an_even_image_is_monais():
    from monai.networks.nets.efficientnet import EfficientNetBNFeatures

    ours = backbone("efficientnet").build(LARGE).eval()
    theirs = EfficientNetBNFeatures("efficientnet-b0", pretrained=False, in_channels=2).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    image = torch.randn(1, 2, 224, 224)  # for which MONAI's padding is made
    with torch.no_grad():
        for mine, monais in zip(ours(image), theirs(image), strict=True):
            assert (mine - monais).abs().max() < 1e-4 * monais.abs().max()


def test_swin_needs_channels_that_its_heads_part():
    with pytest.raises(ShapeError, match="cannot be parted into 3 heads"):
        backbone("swin_unetr", channels=10).build(FLAT)


class Coloured(Backbone):
    """A network of three channels that says so as those of transformers and timm do."""

    def features(self, image):
        refuse_unlike(image, 3, "coloured")
        return [FeatureInfo("layer", 4, (1, 1))]


@pytest.mark.parametrize(
    ("channels", "neighbours", "words"),
    [
        (
            4,
            1,
            "sees 3 channels, and is given 12: 4 of the image, each of 3 slices; say how, by `channels:",
        ),
        (4, 0, "sees 3 channels, and is given 4; say how, by `channels: each`"),
        (1, 2, "sees 3 channels, and is given 5 slices; set `neighbours` to 1, or to 0"),
    ],
)
def test_slices_say_what_channels_they_are_that_a_network_does_not_see(channels, neighbours, words):
    plugin = backbone("slices", of="unet_encoder", neighbours=neighbours)
    plugin = plugin.model_copy(update={"of": Coloured()})
    with pytest.raises(ShapeError, match=re.escape(words)) as caught:
        plugin.features(ImageInfo(channels, (16, 16, 4), (1.0, 1.0, 1.0)))
    assert caught.value.at == ()
