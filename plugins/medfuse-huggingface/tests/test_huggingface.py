"""Networks of transformers, made small by their own configurations, saved to a folder and loaded from it."""

import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from medfuse import CheckpointError, ImageInfo, PluginError, ShapeError
from medfuse.testing import check_backbone

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from medfuse_huggingface import HuggingFace  # noqa: E402  behind the skip, as it needs transformers
from medfuse_huggingface.configs import quiet  # noqa: E402  likewise
from medfuse_huggingface.families import KNOWN  # noqa: E402  likewise

EVEN = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32}
DEEP = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
WINDOWS = {
    "embed_dim": 8,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "image_size": 64,
}

TOKENS = {
    "Dinov2Config": {**EVEN, "patch_size": 8, "layerscale_value": 0.5},
    "Dinov2WithRegistersConfig": {**EVEN, "patch_size": 8, "num_register_tokens": 3},
    "DINOv3ViTConfig": {**EVEN, "patch_size": 8, "num_register_tokens": 4, "intermediate_size": 32},
    "ViTConfig": {**EVEN, "patch_size": 8, "intermediate_size": 32},
    "DeiTConfig": {**EVEN, "patch_size": 8, "intermediate_size": 32},
    "BeitConfig": {**EVEN, "patch_size": 8, "intermediate_size": 32, "use_relative_position_bias": True},
}
MAPS = {
    "DINOv3ConvNextConfig": DEEP,
    "ConvNextConfig": DEEP,
    "ConvNextV2Config": DEEP,
    "ResNetConfig": {**DEEP, "embedding_size": 8, "layer_type": "basic"},
    "SwinConfig": WINDOWS,
    "Swinv2Config": WINDOWS,
    "HieraConfig": {
        "embed_dim": 8,
        "depths": [1, 1, 2, 1],
        "num_heads": [1, 1, 2, 2],
        "image_size": [64, 64],
    },
    "PvtV2Config": {**DEEP, "num_attention_heads": [1, 1, 2, 2], "hidden_sizes": [8, 8, 16, 16]},
    "VitDetConfig": {**EVEN, "patch_size": 8, "pretrain_image_size": 32},
}
FAMILIES = {**TOKENS, **MAPS}
FLAT = ImageInfo(3, (64, 64), (1.0, 1.0))
WIDE = ImageInfo(3, (96, 64), (1.0, 1.0))  # rows and columns of unlike size, and of unlike pretraining


def maps_of(plugin, image):
    """What it offers but for what it says of the whole image."""
    return [feature for feature in plugin.features(image) if not feature.image_level]


def made(name: str, **changes):
    with quiet():
        return getattr(transformers, name)(**{**FAMILIES[name], **changes})


def network_of(name: str) -> torch.nn.Module:
    """transformers' own, with weights that are far from where they begin."""
    config = made(name)
    torch.manual_seed(0)
    with quiet():
        mapping = transformers.models.auto.modeling_auto.MODEL_MAPPING
        network = mapping[type(config)](config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a family, written once by save_pretrained, as a hub has it."""

    @cache
    def write(name: str) -> Path:
        path = tmp_path_factory.mktemp(name)
        with quiet():
            network_of(name).save_pretrained(path)
        (path / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_normalize": True})
        )
        (path / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A network\n")
        return path

    return write


def with_weights(plugin: HuggingFace, image: ImageInfo) -> torch.nn.Module:
    torch.manual_seed(1)
    network = plugin.build(image).eval()
    found = network.load_state_dict(dict(plugin.weights(image)), strict=False)
    assert not found.unexpected_keys
    return network


def tapped(network: torch.nn.Module, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: made.__setitem__(name, out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        network(x)
    return made


def image_of(image: ImageInfo) -> torch.Tensor:
    return torch.rand(2, image.channels, *image.patch_size, generator=torch.Generator().manual_seed(3))


def as_theirs(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(n).view(1, 3, 1, 1) for n in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    return (x - mean) / std


# ---- what is declared and what is made


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("Dinov2WithRegistersConfig", {"num_hidden_layers": 2}), ("ConvNextConfig", {"depths": [1, 1, 1, 1]})],
)
def test_the_contract_is_kept(name, smaller, folder):
    small = HuggingFace(config=plain(name, **smaller), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    check_backbone(small, ImageInfo(3, (32, 32), (1.0, 1.0)))


def test_of_a_network_with_weights_as_well(folder, tmp_path):
    with quiet():
        tiny = transformers.SwinConfig(**{**WINDOWS, "depths": [1, 1], "num_heads": [1, 1]})
        transformers.SwinModel(tiny).save_pretrained(tmp_path)
    check_backbone(HuggingFace(name=str(tmp_path)), ImageInfo(3, (32, 32), (1.0, 1.0)))


@pytest.mark.parametrize("name", sorted(TOKENS))
@pytest.mark.parametrize("image", [FLAT, WIDE])
def test_blocks_are_tokens_on_the_patch_grid(name, image, folder):
    plugin = HuggingFace(name=str(folder(name)))
    features = maps_of(plugin, image)
    assert len(features) == 4
    assert {(f.channels, f.stride) for f in features} == {(16, (8, 8))}
    config = made(name)
    prefix = 1 + getattr(config, "num_register_tokens", 0) + (name == "DeiTConfig")
    assert {f.tokens.prefix for f in features} == {prefix}


@pytest.mark.parametrize(
    "name", ["Dinov2Config", "Dinov2WithRegistersConfig", "DINOv3ViTConfig", "BeitConfig"]
)
@pytest.mark.parametrize("image", [ImageInfo(3, (32, 32), (1.0, 1.0)), WIDE])
def test_blocks_through_the_last_norm_are_what_auto_backbone_makes(name, image, folder):
    plugin = HuggingFace(name=str(folder(name)))
    network, x = with_weights(plugin, image), image_of(image)
    features = maps_of(plugin, image)
    blocks = tapped(network, [f.name for f in features], x)
    last = getattr(network.network, "layernorm", None) or getattr(network.network, "norm", None)
    theirs = backbone_of(folder(name), [f"stage{i}" for i in range(1, 5)])
    with torch.no_grad():
        expected = theirs(as_theirs(x)).feature_maps
        for feature, map_ in zip(features, expected, strict=True):
            tokens = blocks[feature.name]
            normed = last(tokens) if last is not None else tokens
            assert torch.equal(feature.as_map(normed, image.patch_size), map_)


def backbone_of(path: Path, stages: list[str]) -> torch.nn.Module:
    with quiet():
        config = transformers.AutoConfig.from_pretrained(path)
        config.out_features = stages
        kind = transformers.models.auto.modeling_auto.MODEL_FOR_BACKBONE_MAPPING[type(config)]
        return kind.from_pretrained(path, config=config).eval()


@pytest.mark.parametrize("name", sorted({*MAPS} - {"VitDetConfig"}))
@pytest.mark.parametrize("image", [FLAT, WIDE])
def test_stages_are_what_auto_backbone_makes(name, image, folder):
    plugin = HuggingFace(name=str(folder(name)))
    features = maps_of(plugin, image)
    assert [f.name for f in features] == ["stage1", "stage2", "stage3", "stage4"]
    if name == "HieraConfig" and image is not FLAT:
        return  # AutoBackbone takes no other size than that of its configuration
    theirs = backbone_of(folder(name), [f.name for f in features])
    x = image_of(image)
    made = tapped(with_weights(plugin, image), [f.name for f in features], x)
    with torch.no_grad():
        expected = theirs(as_theirs(x)).feature_maps
    for feature, map_ in zip(features, expected, strict=True):
        assert torch.equal(made[feature.name], map_)
        assert feature.size(image.patch_size) == map_.shape[2:]
        assert feature.channels == map_.shape[1]


def test_a_network_whose_blocks_make_maps_offers_these(folder):
    features = HuggingFace(name=str(folder("VitDetConfig"))).features(WIDE)
    assert [(f.channels, f.stride, f.tokens) for f in features] == [(16, (8, 8), None)] * 4


def test_a_masked_autoencoder_is_the_same_network_unmasked(folder, tmp_path):
    with quiet():
        torch.manual_seed(0)
        masked = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**TOKENS["ViTConfig"]))
        masked.save_pretrained(tmp_path / "mae")
        unmasked = transformers.ViTModel(made("ViTConfig"), add_pooling_layer=False)
        unmasked.save_pretrained(tmp_path / "vit")
    mae, vit = (HuggingFace(name=str(tmp_path / one)) for one in ("mae", "vit"))
    assert mae.features(FLAT) == vit.features(FLAT)
    found, own = mae.weights(FLAT), masked.vit.state_dict()
    assert {*found} == {*vit.weights(FLAT)}
    assert all(torch.equal(tensor, own[name.removeprefix("network.")]) for name, tensor in found.items())


def test_tokens_behind_those_of_places_are_refused():
    config = {"model_type": "yolos", **TOKENS["ViTConfig"], "image_size": [32, 32], "num_detection_tokens": 5}
    with pytest.raises(ShapeError, match="6 tokens that have no place, and 1 of them stand in front"):
        HuggingFace(config=config).features(FLAT)


def test_of_images_and_texts_the_part_for_images_is_taken(tmp_path):
    texts = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with quiet():
        torch.manual_seed(0)
        both = transformers.CLIPConfig(vision_config=TOKENS["ViTConfig"], text_config=texts)
        whole = transformers.CLIPModel(both)
        whole.save_pretrained(tmp_path)
    plugin = HuggingFace(name=str(tmp_path))
    assert [(f.channels, f.stride, f.tokens.prefix) for f in maps_of(plugin, FLAT)] == [(16, (8, 8), 1)] * 4
    own = whole.vision_model.state_dict()
    found = {name.removeprefix("network."): tensor for name, tensor in plugin.weights(FLAT).items()}
    assert {name.removeprefix("vision_model.") for name in found} == {*own}
    assert all(torch.equal(tensor, own[name.removeprefix("vision_model.")]) for name, tensor in found.items())


def test_hiera_is_made_for_the_patch_with_its_positions_interpolated(folder):
    plugin = HuggingFace(name=str(folder("HieraConfig")))
    positions = {
        image: plugin.weights(image)["network.embeddings.position_embeddings"] for image in (FLAT, WIDE)
    }
    assert positions[FLAT].shape == (1, 16 * 16, 8)
    grid = positions[FLAT].transpose(1, 2).unflatten(2, (16, 16))
    expected = torch.nn.functional.interpolate(grid, size=(24, 16), mode="bicubic", align_corners=False)
    assert torch.equal(positions[WIDE].transpose(1, 2).unflatten(2, (24, 16)), expected)
    with_weights(plugin, WIDE)(image_of(WIDE))


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [
        ("Dinov2Config", (60, 64), "[64, 64]"),
        ("DINOv3ViTConfig", (64, 33), "[64, 40]"),
        ("HieraConfig", (64, 70), "[64, 96]"),
    ],
)
def test_a_patch_that_leaves_a_rest_is_refused_with_the_next_size_that_fits(name, size, fits, folder):
    with pytest.raises(ShapeError, match=re.escape(f"the next size that fits is {fits}")) as caught:
        HuggingFace(name=str(folder(name))).features(ImageInfo(3, size, (1.0, 1.0)))
    assert len(caught.value.lines) == 1


def test_a_volume_is_given_as_slices():
    with pytest.raises(ShapeError, match=r"use: slices, of: \{use: huggingface"):
        HuggingFace(config=plain("Dinov2Config")).features(ImageInfo(3, (32, 32, 8), (1.0, 1.0, 1.0)))


# ---- channels


def plain(name: str, **changes) -> dict:
    return {"model_type": getattr(transformers, name).model_type, **FAMILIES[name], **changes}


def test_channels_that_do_not_fit_are_refused_with_the_three_ways():
    four = ImageInfo(4, (32, 32), (1.0, 1.0))
    with pytest.raises(ShapeError, match=r"sees 3 channels, and is given 4") as caught:
        HuggingFace(config=plain("Dinov2Config")).features(four)
    assert all(f"channels: {way}" in str(caught.value) for way in ("each", "repeat", "first"))


def test_one_channel_is_repeated():
    one = ImageInfo(1, (32, 32), (1.0, 1.0))
    torch.manual_seed(0)
    network, x = HuggingFace(config=plain("ConvNextConfig")).build(one).eval(), image_of(one)
    with torch.no_grad():
        once, thrice = network(x), network(x.expand(-1, 3, -1, -1))
    assert all(torch.equal(once[name], thrice[name]) for name in once)


@pytest.mark.parametrize("way", ["each", "repeat", "first"])
@pytest.mark.parametrize("name", ["Dinov2Config", "ConvNextConfig"])
def test_four_channels_are_seen_in_the_way_that_is_said(way, name, folder):
    four = ImageInfo(4, (64, 64), (1.0, 1.0))
    plugin = HuggingFace(name=str(folder(name)), channels=way)
    alone = HuggingFace(name=str(folder(name)))
    features, inner = maps_of(plugin, four), maps_of(alone, FLAT)
    network, x = with_weights(plugin, four), image_of(four)
    made = tapped(network, [f.name for f in features], x)
    seen = {
        "each": [x[:, c : c + 1].expand(-1, 3, -1, -1) for c in range(4)],
        "repeat": [x.mean(1, keepdim=True).expand(-1, 3, -1, -1)],
        "first": [x[:, :3]],
    }[way]
    for feature, one in zip(features, inner, strict=True):
        assert (feature.channels, feature.stride) == (one.channels * len(seen), one.stride)
        parts = []
        for part in seen:
            theirs = tapped(with_weights(alone, FLAT), [one.name], part)[one.name]
            parts.append(one.as_map(theirs, FLAT.patch_size))
        torch.testing.assert_close(
            feature.as_map(made[feature.name], four.patch_size), torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5
        )


# ---- weights


PLAIN_NAMES = ("DINOv3ViTConfig", "DINOv3ConvNextConfig")  # whose base is called as a part of it is


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_weights_are_those_of_the_folder(name, folder):
    plugin, path = HuggingFace(name=str(folder(name))), folder(name)
    own, saved = dict(plugin.weights(FLAT)), network_of(name).state_dict()
    base = f"network.{network_of(name).base_model_prefix}."  # AutoBackbone may have the network inside it
    prefix = base if any(key.startswith(base) for key in own) and name not in PLAIN_NAMES else "network."
    inside = {key.removeprefix(prefix): t for key, t in own.items()}
    found = [key for key in saved if key in inside and torch.equal(saved[key], inside[key])]
    unused = {key for key in saved if key not in inside}
    assert found, path
    assert {*saved} == {*found} | unused
    assert all(re.search(r"pooler|^layernorm|^norm|layer_norm", key) for key in unused), unused


def test_several_files_are_read_by_their_index(folder, tmp_path):
    with quiet():
        network_of("Dinov2Config").save_pretrained(tmp_path, max_shard_size="10KB")
    assert len([*tmp_path.glob("model-*.safetensors")]) > 1
    parts, whole = (HuggingFace(name=str(p)).weights(FLAT) for p in (tmp_path, folder("Dinov2Config")))
    assert all(torch.equal(parts[key], whole[key]) for key in whole)


def test_a_pickle_of_tensors_alone_is_read(folder, tmp_path):
    whole = copy_of(folder("Dinov2Config"), tmp_path / "net")
    state = load_file(whole / "model.safetensors")
    (whole / "model.safetensors").unlink()
    torch.save(state, whole / "pytorch_model.bin")
    found, expected = (HuggingFace(name=str(p)).weights(FLAT) for p in (whole, folder("Dinov2Config")))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


class Harm:
    def __reduce__(self):
        return (print, ("a pickle ran code",))


def copy_of(path: Path, to: Path) -> Path:
    shutil.copytree(path, to)
    return to


def spoil_pickle(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save({"embeddings.cls_token": Harm()}, path / "pytorch_model.bin")


def spoil_whole(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save(torch.nn.Linear(2, 2), path / "pytorch_model.bin")


def spoil_length(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def spoil_head(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"\xff" * 100)


def spoil_others(path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(3), "head.bias": torch.zeros(2)}, path / "model.safetensors")


def spoil_width(path: Path) -> None:
    said = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**said, "hidden_size": 32}))


def spoil_some(path: Path) -> None:
    state = load_file(path / "model.safetensors")
    save_file({k: t for k, t in state.items() if "layer.2" not in k}, path / "model.safetensors")


def spoil_absent(path: Path) -> None:
    (path / "model.safetensors").unlink()


def spoil_index(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_pickle, "pytorch_model.bin: cannot be read as weights"),
        (spoil_whole, "pytorch_model.bin: cannot be read as weights"),
        (spoil_length, "model.safetensors: cannot be read as weights"),
        (spoil_head, "truncated or no safetensors file"),
        (spoil_others, "is not of this network: .* it lacks"),
        (spoil_width, "is of another network than its configuration"),
        (spoil_some, "is not of this network: .* it lacks"),
        (spoil_absent, "has no model.safetensors and no pytorch_model.bin"),
        (spoil_index, "does not say which file has which tensor"),
    ],
)
def test_weights_that_are_not_right_are_one_line(spoil, message, folder, tmp_path, capsys):
    path = copy_of(folder("Dinov2Config"), tmp_path / "net")
    spoil(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        HuggingFace(name=str(path)).weights(FLAT)
    assert len(str(caught.value).splitlines()) == 1
    assert "a pickle ran code" not in capsys.readouterr().out


def said(**changes) -> dict:
    return {**plain("Dinov2Config"), **changes}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            said(hidden_sise=16),
            r"Dinov2Config of transformers .* knows no hidden_sise; did you mean 'hidden_size'",
        ),
        (said(model_type="dinov9"), r"has no network 'dinov9'; did you mean 'dinov2'"),
        (said(model_type="mine", auto_map={"AutoModel": "x.Y"}), "the repository's own code is not run"),
        ({"hidden_size": 4}, "names no model_type"),
        ({"architecture": "vit_tiny_patch16_224"}, "use: timm"),
        (said(hidden_size="wide"), "Dinov2Config refuses it"),
    ],
)
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_configuration_that_is_not_right_is_one_line(config, message, by_hand, tmp_path):
    if by_hand:
        plugin = HuggingFace(config=config)
    else:
        config = {**config, "transformers_version": transformers.__version__}
        (tmp_path / "config.json").write_text(json.dumps(config))
        plugin = HuggingFace(name=str(tmp_path))
    with pytest.raises(CheckpointError, match=message) as caught:
        plugin.features(FLAT)
    assert len(str(caught.value).splitlines()) == 1


def test_keys_that_an_older_version_wrote_and_this_one_gave_up_are_left_out(tmp_path):
    config = said(path_norm=True, transformers_version="4.30.0", id2label={"0": "cat"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert HuggingFace(name=str(tmp_path)).features(FLAT) == HuggingFace(config=said()).features(FLAT)


def test_quantised_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(said(quantization_config={"bits": 4})))
    with pytest.raises(CheckpointError, match="quantised"):
        HuggingFace(name=str(tmp_path)).features(FLAT)


def test_a_network_of_texts_is_refused():
    with pytest.raises(ShapeError, match="no network for images"):
        HuggingFace(config={"model_type": "bert", "hidden_size": 24, "num_hidden_layers": 1}).features(FLAT)


@pytest.mark.parametrize("name", ["", "a b", "one/two/three", "../nowhere"])
def test_a_name_that_is_neither_folder_nor_repository_is_refused(name):
    with pytest.raises(
        (ValidationError, CheckpointError), match=r"no folder that is there|no such folder|name"
    ):
        HuggingFace(name=name).features(FLAT)


def test_neither_name_nor_config_is_refused():
    with pytest.raises(ValidationError, match="give `name`"):
        HuggingFace()


# ---- where weights come from


def test_origin_says_source_licence_and_normalisation(folder):
    origin = HuggingFace(name=str(folder("Dinov2Config"))).origin()
    assert (origin.source, origin.license, origin.normalize) == (
        str(folder("Dinov2Config")),
        "apache-2.0",
        ("unit", "window", "windows"),
    )


@pytest.mark.parametrize(
    ("card", "license_"),
    [
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        ("# no head\nlicense: mit\n", ""),
        ("---\n: [\n---\n", ""),
    ],
)
def test_the_licence_is_that_of_the_model_card(card, license_, folder, tmp_path):
    path = copy_of(folder("Dinov2Config"), tmp_path / "net")
    (path / "README.md").write_text(card)
    assert HuggingFace(name=str(path)).origin().license == license_


def test_fresh_weights_come_from_nowhere():
    plugin = HuggingFace(config=plain("ConvNextConfig"))
    assert plugin.origin() is None
    assert plugin.weights(FLAT) == {}


def test_pinned_it_needs_no_folder(folder, tmp_path):
    path = copy_of(folder("Dinov2Config"), tmp_path / "net")
    plugin = HuggingFace(name=str(path))
    features, torch_state = plugin.features(FLAT), with_weights(plugin, FLAT).state_dict()
    pinned = json.loads(json.dumps(plugin.pinned().model_dump(mode="json")))
    shutil.rmtree(path)
    again = HuggingFace.model_validate(pinned)
    assert again.features(FLAT) == features
    network = again.build(FLAT).eval()
    network.load_state_dict(torch_state)
    assert again.pinned() == again


def test_from_a_strangers_file_only_what_is_written_and_known_is_made(folder):
    assert [*HuggingFace(name=str(folder("SwinConfig"))).pinned().named_code()] == []
    (named,) = HuggingFace(name="somebody/network").named_code()
    assert (named.package, named.arguments) == ("transformers", {"name": "somebody/network"})
    (named,) = HuggingFace(config={"model_type": "dpt"}).named_code()
    assert named.target == "transformers:AutoModel.from_config"


def test_known_families_are_those_of_the_library():
    mapping = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    assert all(kind in mapping for kind in KNOWN)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginError, match="pip install transformers"):
        HuggingFace(config=plain("Dinov2Config")).features(FLAT)


def test_it_has_no_loss_of_its_own_which_would_warn_whoever_looks_at_it():
    network = HuggingFace(config=plain("Dinov2Config")).build(FLAT)
    found = [module for module in network.modules() if hasattr(type(module), "loss_function")]
    assert found
    assert all(module.loss_function is None for module in found)


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        (
            "pvt",
            {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
        ),
        (
            "sam_vision_model",
            {**EVEN, "mlp_dim": 32, "patch_size": 8, "window_size": 2, "output_channels": 8},
        ),
    ],
)
def test_what_takes_one_size_alone_names_it_where_it_is_shown_another(model_type, more):
    network = HuggingFace(config={"model_type": model_type, **more, "image_size": 64})
    assert network.features(FLAT)
    with pytest.raises(ShapeError, match=r"on \[64, 64\], the size that this .* was made for, it runs"):
        network.features(WIDE)


def test_a_size_too_small_for_any_network_of_its_kind_names_no_other():
    network = HuggingFace(config={"model_type": "dinov2", **EVEN, "patch_size": 8})
    with pytest.raises(ShapeError, match="the next size that fits") as raised:
        network.features(ImageInfo(3, (30, 32), (1.0, 1.0)))
    assert "was made for" not in str(raised.value)


@pytest.mark.parametrize("name", TOKENS)
def test_what_it_says_of_the_whole_image_is_its_class_token_and_can_be_tapped(name):
    network = network_of(name)
    plugin, own = HuggingFace(config=plain(name)), ImageInfo(3, (32, 32), (1.0, 1.0))
    built = plugin.build(own).eval()
    assert not built.network.load_state_dict(network.state_dict(), strict=False).missing_keys
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad(), quiet():
        made = built(x)
        theirs = network(pixel_values=x)
    torch.testing.assert_close(made["pooled"], theirs.last_hidden_state[:, 0])
    (feature,) = [feature for feature in plugin.features(FLAT) if feature.image_level]
    assert (feature.name, feature.channels) == ("pooled", 16)
