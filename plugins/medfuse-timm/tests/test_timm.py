"""Networks of timm, made small by their own parameters, with weights from files and stand-ins of the hub."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from medfuse_timm import Timm
from pydantic import ValidationError
from safetensors.torch import save_file

from medfuse import CheckpointError, FeatureInfo, ImageInfo, PluginError, ShapeError
from medfuse.model.repository import asked_anew
from medfuse.testing import check_backbone

SMALL = {"embed_dim": 16, "depth": 4, "num_heads": 2}
VITS = {
    "vit_small_patch16_224": {**SMALL, "patch_size": 8, "img_size": 32},
    "vit_small_patch14_dinov2": {**SMALL, "patch_size": 8, "img_size": 32},
    "vit_small_patch14_reg4_dinov2": {**SMALL, "patch_size": 8, "img_size": 32},
    "deit_tiny_distilled_patch16_224": {**SMALL, "patch_size": 8, "img_size": 32},
}
STAGES = {
    "resnet18": {"channels": [8, 8, 16, 16]},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 2,
    },
}
FLAT = ImageInfo(3, (32, 32), (1.0, 1.0))
WIDE = ImageInfo(3, (48, 32), (1.0, 1.0))
LARGE = ImageInfo(3, (64, 64), (1.0, 1.0))


def parameters(name: str) -> dict:
    return {**VITS, **STAGES}[name]


def own(timm, name: str, **further) -> torch.nn.Module:
    """timm's own, with weights that are far from where they begin."""
    torch.manual_seed(0)
    network = timm.create_model(name, **{**parameters(name), **further})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network.eval()


def saved(timm, name: str, path: Path, **further) -> Path:
    save_file(own(timm, name, **further).state_dict(), path)
    return path


def with_weights(plugin: Timm, image: ImageInfo) -> torch.nn.Module:
    torch.manual_seed(1)
    network = plugin.build(image).eval()
    found = network.load_state_dict(dict(plugin.weights(image)), strict=False)
    assert not found.unexpected_keys
    return network


def tapped(network: torch.nn.Module, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: made.__setitem__(name, out)
        )
    with torch.no_grad():
        network(x)
    return made


def maps_of(plugin: Timm, image: ImageInfo) -> list[FeatureInfo]:
    """What is offered but what the network says of the whole image."""
    return [feature for feature in plugin.features(image) if not feature.image_level]


def image_of(image: ImageInfo) -> torch.Tensor:
    return torch.rand(2, image.channels, *image.patch_size, generator=torch.Generator().manual_seed(3))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def as_theirs(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(n).view(1, 3, 1, 1) for n in (MEAN, STD))
    return (x - mean) / std


# ---- what is declared and what is made


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "convnext_atto"])
def test_the_contract_is_kept(name):
    check_backbone(Timm(name=name, parameters=parameters(name)), LARGE)


@pytest.mark.parametrize("name", sorted(VITS))
@pytest.mark.parametrize("image", [FLAT, WIDE])
def test_blocks_are_what_forward_intermediates_makes(timm, name, image, tmp_path):
    path = saved(timm, name, tmp_path / "model.safetensors")
    plugin = Timm(name=name, parameters=parameters(name), pretrained=str(path), mean=MEAN, std=STD)
    features = maps_of(plugin, image)
    assert [f.name for f in features] == [f"network.blocks.{n}" for n in range(4)]
    theirs, x = own(timm, name, dynamic_img_size=True), image_of(image)
    assert {(f.channels, f.stride, f.tokens.prefix) for f in features} == {
        (16, (8, 8), theirs.num_prefix_tokens)
    }
    blocks = tapped(with_weights(plugin, image), [f.name for f in features], x)
    for norm in (False, True):
        with torch.no_grad():
            expected = theirs.forward_intermediates(as_theirs(x), norm=norm, intermediates_only=True)
            for feature, map_ in zip(features, expected, strict=True):
                tokens = blocks[feature.name]
                made = theirs.norm(tokens) if norm else tokens
                assert torch.equal(feature.as_map(made, image.patch_size), map_)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_stages_are_what_features_only_makes(timm, name, tmp_path):
    sized = {"img_size": 64} if "swin" in name else {}
    path = saved(timm, name, tmp_path / "model.safetensors", **sized)
    plugin = Timm(name=name, parameters=parameters(name), pretrained=str(path), mean=MEAN, std=STD)
    features, x = maps_of(plugin, LARGE), image_of(LARGE)
    theirs = timm.create_model(name, features_only=True, **parameters(name), **sized).eval()
    theirs.load_state_dict(
        {theirs_name(k): t for k, t in own(timm, name, **sized).state_dict().items()}, strict=False
    )
    with torch.no_grad():
        expected = theirs(as_theirs(x))
    made = tapped(with_weights(plugin, LARGE), [f.name for f in features], x)
    assert [f.channels for f in features] == theirs.feature_info.channels()
    assert [f.stride[0] for f in features] == theirs.feature_info.reduction()
    for feature, map_ in zip(features, expected, strict=True):
        map_ = map_.movedim(-1, 1) if feature.channels_last else map_
        assert torch.equal(feature.as_map(made[feature.name], LARGE.patch_size), map_)


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "convnext_atto", "resnet18"])
def test_what_is_pooled_is_what_timm_says_of_the_whole_image(timm, name, tmp_path):
    path = saved(timm, name, tmp_path / "model.safetensors")
    plugin = Timm(name=name, parameters=parameters(name), pretrained=str(path), mean=MEAN, std=STD)
    pooled = next(feature for feature in plugin.features(FLAT) if feature.image_level)
    x, sized = image_of(FLAT), {"dynamic_img_size": True} if name in VITS else {}
    theirs = own(timm, name, **sized)
    made = tapped(with_weights(plugin, FLAT), [pooled.name], x)[pooled.name]
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(as_theirs(x)), pre_logits=True)
    assert made.shape == (2, pooled.channels)
    assert torch.equal(made, expected)


def theirs_name(name: str) -> str:
    """timm's feature networks have their stages side by side."""
    return re.sub(r"^(stages|layers|stem)\.(\d+)", r"\1_\2", name)


def test_a_patch_that_leaves_a_rest_is_refused_with_the_next_size_that_fits():
    name = "vit_small_patch14_dinov2"
    with pytest.raises(ShapeError, match=re.escape("the next size that fits is [40, 32]")):
        Timm(name=name, parameters=parameters(name)).features(ImageInfo(3, (33, 32), (1.0, 1.0)))


def test_a_volume_is_given_as_slices():
    with pytest.raises(ShapeError, match=r"use: slices, of: \{use: timm"):
        Timm(name="resnet18").features(ImageInfo(3, (32, 32, 8), (1.0, 1.0, 1.0)))


# ---- channels


def test_without_weights_it_follows_the_image():
    network = Timm(name="resnet18").build(ImageInfo(5, (32, 32), (1.0, 1.0)))
    assert network.network.conv1.in_channels == 5


def test_weights_refuse_channels_that_are_not_theirs_with_the_three_ways(timm, tmp_path):
    path = saved(timm, "resnet18", tmp_path / "w.safetensors")
    with pytest.raises(ShapeError, match="sees 3 channels, and is given 4") as caught:
        Timm(name="resnet18", pretrained=str(path)).features(ImageInfo(4, (32, 32), (1.0, 1.0)))
    assert all(f"channels: {way}" in str(caught.value) for way in ("each", "repeat", "first"))


@pytest.mark.parametrize(("way", "times"), [("each", 4), ("repeat", 1), ("first", 1)])
def test_four_channels_are_seen_in_the_way_that_is_said(timm, way, times, tmp_path):
    path, four = saved(timm, "resnet18", tmp_path / "w.safetensors"), ImageInfo(4, (32, 32), (1.0, 1.0))
    said = {"name": "resnet18", "parameters": parameters("resnet18"), "pretrained": str(path)}
    plugin = Timm(**said, channels=way)
    one = Timm(**said).features(FLAT)
    assert [f.channels for f in plugin.features(four)] == [times * f.channels for f in one]
    network, x = with_weights(plugin, four), image_of(four)
    made = tapped(network, ["network.layer2"], x)["network.layer2"]
    seen = {"each": x[:, 3:].expand(-1, 3, -1, -1), "repeat": x.mean(1, keepdim=True), "first": x[:, :3]}[way]
    alone = tapped(with_weights(Timm(**said), FLAT), ["network.layer2"], seen)["network.layer2"]
    torch.testing.assert_close(made[:, -alone.shape[1] :], alone, rtol=1e-4, atol=1e-5)


# ---- weights


@pytest.mark.parametrize("head", [0, 7, 1000])
def test_weights_with_a_head_or_without_are_those_of_the_file(timm, head, tmp_path):
    path = saved(timm, "resnet18", tmp_path / "w.safetensors", num_classes=head)
    plugin = Timm(name="resnet18", parameters=parameters("resnet18"), pretrained=str(path))
    found, theirs = plugin.weights(FLAT), own(timm, "resnet18", num_classes=head).state_dict()
    assert {name.removeprefix("network.") for name in found} == {n for n in theirs if not n.startswith("fc.")}
    assert all(torch.equal(tensor, theirs[name.removeprefix("network.")]) for name, tensor in found.items())


def test_a_state_dict_of_torch_is_read(timm, tmp_path):
    state = own(timm, "resnet18").state_dict()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    found = Timm(
        name="resnet18", parameters=parameters("resnet18"), pretrained=str(tmp_path / "w.pth")
    ).weights(FLAT)
    assert torch.equal(found["network.conv1.weight"], state["conv1.weight"])


class Harm:
    def __reduce__(self):
        return (print, ("a pickle ran code",))


def spoil_pickle(timm, path: Path) -> None:
    torch.save({"conv1.weight": Harm()}, path)


def spoil_others(timm, path: Path) -> None:
    torch.save({"blocks.0.weight": torch.zeros(3)}, path)


def spoil_some(timm, path: Path) -> None:
    state = own(timm, "resnet18").state_dict()
    torch.save({name: t for name, t in state.items() if "layer2" not in name}, path)


def spoil_width(timm, path: Path) -> None:
    torch.save(own(timm, "resnet18", channels=[8, 8, 16, 32]).state_dict(), path)


def spoil_length(timm, path: Path) -> None:
    torch.save(own(timm, "resnet18").state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])


def spoil_absent(timm, path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_pickle, "cannot be read as weights"),
        (spoil_others, "is not of timm's resnet18"),
        (spoil_some, "is not of timm's resnet18: .*[Mm]issing"),
        (spoil_width, "is not of timm's resnet18: .*size mismatch"),
        (spoil_length, "cannot be read as weights"),
        (spoil_absent, "no such file"),
    ],
)
def test_weights_that_are_not_right_are_one_line(timm, spoil, message, tmp_path, capsys):
    path = tmp_path / "w.pth"
    spoil(timm, path)
    plugin = Timm(name="resnet18", parameters=parameters("resnet18"), pretrained=str(path))
    with pytest.raises(CheckpointError, match=message) as caught:
        plugin.weights(FLAT)
    assert len(str(caught.value).splitlines()) == 1
    assert "a pickle ran code" not in capsys.readouterr().out


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of folders below tmp_path: OWNER/NAME/COMMIT/FILE."""
    library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    asked_anew()

    def answer(name, file, *, revision, local_files_only):
        (commit,) = (tmp_path / name).iterdir()
        if not (commit / file).exists():
            raise library.errors.EntryNotFoundError(file)
        return str(commit / file)

    monkeypatch.setattr(library, "hf_hub_download", answer)
    monkeypatch.setattr(library, "get_hf_file_metadata", lambda _: None)
    yield tmp_path
    asked_anew()


def test_timms_own_weights_come_from_its_hub(timm, hub):
    commit = hub / "timm" / "resnet18.a1_in1k" / ("c" * 40)
    commit.mkdir(parents=True)
    (commit / "config.json").write_text("{}")
    saved(timm, "resnet18", commit / "model.safetensors")
    plugin = Timm(name="resnet18.a1_in1k", parameters=parameters("resnet18"), pretrained=True)
    origin = plugin.origin()
    assert origin.source == f"timm/resnet18.a1_in1k@{'c' * 40}"
    assert (origin.license, origin.normalize[0]) == ("apache-2.0", "unit")
    expected = own(timm, "resnet18").state_dict()["conv1.weight"]
    assert torch.equal(plugin.weights(FLAT)["network.conv1.weight"], expected)
    pinned = plugin.pinned()
    assert pinned.pretrained == origin.source
    assert pinned.pinned() == pinned


def test_a_repository_of_timms_kind_describes_its_network(timm, hub):
    commit = hub / "somebody" / "net" / ("d" * 40)
    commit.mkdir(parents=True)
    about = {"mean": [0.5] * 3, "std": [0.25] * 3, "license": "mit", "num_classes": 0}
    said = {"architecture": "resnet18", "pretrained_cfg": about, "model_args": parameters("resnet18")}
    (commit / "config.json").write_text(json.dumps(said))
    saved(timm, "resnet18", commit / "model.safetensors", num_classes=0)
    plugin = Timm(name="hf-hub:somebody/net", pretrained=True)
    features = plugin.features(FLAT)
    assert features[-1].channels == 16
    assert plugin.origin().license == "mit"
    pinned = Timm.model_validate(json.loads(json.dumps(plugin.pinned().model_dump(mode="json"))))
    assert (pinned.name, pinned.pretrained) == ("resnet18", f"somebody/net@{'d' * 40}")
    (commit / "config.json").unlink()
    asked_anew()
    (commit / ".gitattributes").write_text("")
    assert pinned.features(FLAT) == features
    assert [*pinned.named_code()] == []
    assert [code.package for code in plugin.named_code()] == ["timm"]


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ({"name": "resnet81"}, PluginError, "no network 'resnet81'; did you mean 'resnet"),
        ({"name": "resnet18.nowhere", "pretrained": True}, CheckpointError, "Invalid pretrained tag"),
        ({"name": "test_vit", "pretrained": "a/b"}, CheckpointError, "."),
        ({"name": "resnet18", "parameters": {"colour": 1}}, ShapeError, "cannot be made.*colour"),
    ],
)
def test_what_timm_does_not_have_is_one_line(hub, said, kind, message, tmp_path):
    if said.get("pretrained") == "a/b":
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    plugin = Timm(**said)
    with pytest.raises(kind, match=message) as caught:
        plugin.weights(FLAT) if plugin.pretrained else plugin.features(FLAT)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key", ["pretrained_cfg", "checkpoint_path", "features_only", "num_classes", "cache_dir"]
)
def test_parameters_are_the_networks_alone(key):
    with pytest.raises(ValidationError, match=f"{key} is no parameter of the network"):
        Timm(name="resnet18", parameters={key: 1})


@pytest.mark.parametrize("name", ["", "local-dir:/etc", "a b", "hf-hub:x"])
def test_a_name_is_one_of_timm_or_of_a_repository(name):
    with pytest.raises(ValidationError):
        Timm(name=name)


def test_fresh_weights_come_from_nowhere():
    plugin = Timm(name="resnet18")
    assert plugin.origin() is None
    assert plugin.weights(FLAT) == {}


@pytest.mark.parametrize(
    ("missing", "message"),
    [("timm", "pip install timm"), ("torchvision", "pip install torchvision")],
)
def test_what_cannot_be_imported_is_one_line(monkeypatch, missing, message):
    for name in [n for n in sys.modules if n.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(PluginError, match=message) as caught:
        Timm(name="resnet18").features(FLAT)
    assert len(str(caught.value).splitlines()) == 1
