"""nnssl's checkpoints as the start of a pipeline: all of the encoder, and what the plan says of itself."""

import os
import pickle

import nnssl_model
import pytest
import torch
import yaml

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.core.errors import CheckpointError, OutputError
from medfuse.core.reporter import Reporter
from medfuse.imports.nnssl import read_nnssl
from medfuse.model.checkpoints import read_checkpoint
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.transfer import transfer
from medfuse.verbs.import_nnssl import import_nnssl, try_out

INSTALLED = {entry.name for entry in registry.entries(Backbone.group)}
needs_residual = pytest.mark.skipif(
    "residual_encoder" not in INSTALLED, reason="residual encoders come with plugins/medfuse-dynamic"
)


def read(path):
    return read_nnssl(path, read_checkpoint(path))


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.pth"
    nnssl_model.plain(path)
    return path


def test_spacing_patch_and_normalisation_are_those_of_the_plan_in_our_order_of_axes(plain):
    start = read(plain)
    assert (start.spacing_mm, start.patch_size) == ((1.0, 2.0, 3.0), (48, 32, 16))
    assert (start.normalize, start.channels, start.multiple) == ("zscore", 1, (4, 4, 2))


def test_the_network_is_that_of_the_plan_its_axes_turned(plain):
    assert read(plain).backbone == {
        "use": "unet_encoder",
        "channels": [4, 8, 16],
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
        "kernels": [[3, 3, 1], [3, 3, 3], [3, 3, 3]],
        "convs": [2, 2, 2],
    }


def test_of_a_plain_encoder_all_is_taken(plain):
    assert try_out(read(plain), plain).startswith("100% of the encoder's parameters")


@needs_residual
@pytest.mark.parametrize("kind", ["ResEncL", "NoSkipResEncL"])
def test_of_a_residual_encoder_all_is_taken(tmp_path, kind):
    nnssl_model.residual(tmp_path / "resenc.pth", kind)
    start = read(tmp_path / "resenc.pth")
    assert start.decoder == {"convs": 1}
    assert try_out(start, tmp_path / "resenc.pth").startswith("100% of the encoder's parameters")


@pytest.mark.skipif("primus" not in INSTALLED, reason="primus is not installed")
@pytest.mark.parametrize("prefix", ["", "encoder"])
def test_of_primus_all_is_taken_whatever_stands_before_its_names(tmp_path, prefix):
    nnssl_model.primus(tmp_path / "primus.pth", prefix=prefix)
    start = read(tmp_path / "primus.pth")
    assert start.tap == {"use": "tokens", "layers": "quarter"}
    assert start.transfer.get("prefix", "") == prefix
    assert try_out(start, tmp_path / "primus.pth").startswith("100% of the encoder's parameters")


def test_what_the_encoder_makes_is_what_nnssls_makes_with_axes_turned(tmp_path):
    from nnunet_model import UNet

    weights = nnssl_model.plain(tmp_path / "plain.pth")
    kwargs = nnssl_model.PLAIN
    theirs = UNet(1, 1, [4, 8, 16], kwargs["strides"], kwargs["kernel_sizes"], 2)
    theirs.load_state_dict(weights)
    settings = ModelSettings.model_validate(read(tmp_path / "plain.pth").model())
    ours = build_segmenter(plan_graph(settings, ImageInfo(1, (16, 8, 4), (1.0, 1.0, 1.0)), 2))
    transfer(ours, settings.transfer)
    image = torch.randn(1, 1, 4, 8, 16)
    with torch.no_grad():
        expected = theirs.encoder.stages(image).permute(0, 1, 4, 3, 2)
        made = ours.backbones["encoder"](image.permute(0, 1, 4, 3, 2))
    torch.testing.assert_close(made["stages.2"], expected, atol=1e-4, rtol=0)


def test_a_stem_of_one_channel_is_repeated_over_four(plain):
    settings = ModelSettings.model_validate(read(plain).model())
    four = build_segmenter(plan_graph(settings, ImageInfo(4, (16, 16, 16), (1.0, 1.0, 1.0)), 2)).eval()
    one = build_segmenter(plan_graph(settings, ImageInfo(1, (16, 16, 16), (1.0, 1.0, 1.0)), 2)).eval()
    assert transfer(four, settings.transfer)["encoder"].share == 1
    transfer(one, settings.transfer)
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        made = four.backbones["encoder"](image.expand(1, 4, 16, 16, 16))["stages.0"]
        torch.testing.assert_close(made, one.backbones["encoder"](image)["stages.0"], atol=1e-5, rtol=0)


def test_kernels_of_another_size_are_adapted(plain):
    model = read(plain).model()
    model["backbones"]["encoder"]["kernels"] = [[3, 3, 3]] * 3
    settings = ModelSettings.model_validate(model)
    made = build_segmenter(plan_graph(settings, ImageInfo(1, (16, 16, 16), (1.0, 1.0, 1.0)), 2))
    assert transfer(made, settings.transfer)["encoder"].share == 1


def test_a_pipeline_is_written_that_names_what_is_left_to_say(plain, tmp_path):
    written = tmp_path / "pipelines" / "pretrained.yaml"
    import_nnssl(plain, written, reporter=Reporter(quiet=True))
    said = yaml.safe_load(written.read_text())
    assert said["preprocess"] == {"spacing_mm": [1.0, 2.0, 3.0], "normalize": "zscore"}
    assert said["sample"]["patch_size"] == [48, 32, 16]
    assert said["model"]["transfer"]["encoder"]["weights"] == os.path.relpath(plain, written.parent)
    with pytest.raises(OutputError, match="is there already"):
        import_nnssl(plain, written, reporter=Reporter(quiet=True))


def test_the_command_says_how_to_go_on(medfuse, plain, tmp_path):
    said = medfuse("import-nnssl", plain, "-o", tmp_path / "pretrained.yaml")
    assert said.code == 0
    assert f"medfuse init DATA --from {plain}" in said.out


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"architecture_plans": {"arch_class_name": "SwinUNETR"}}, "its network is a SwinUNETR; ResEncL"),
        ({"architecture_plans": {"arch_class_name": "a.b.Evil"}}, "its network is a Evil"),
        ({"architecture_plans": {}}, "arch_class_name"),
        ({"pretrain_plan": {"configurations": {}}}, "configurations"),
        ({"pretrain_plan": None}, "pretrain_plan"),
        ({"key_to_encoder": None}, "key_to_encoder"),
        ({"key_to_encoder": "nowhere.stages", "key_to_stem": "nowhere.stem"}, "no two stages"),
        ({"recommended_downstream_patchsize": [16, 16]}, "recommended_downstream_patchsize"),
    ],
)
def test_an_odd_plan_is_one_line(tmp_path, changed, words):
    nnssl_model.plain(tmp_path / "odd.pth", **changed)
    with pytest.raises(CheckpointError, match=words) as caught:
        read(tmp_path / "odd.pth")
    assert len(caught.value.lines) == 1
    assert str(caught.value).startswith(f"{tmp_path / 'odd.pth'}: nnssl_adaptation_plan")


def test_axes_that_were_exchanged_are_refused(tmp_path):
    plan = {
        **nnssl_model.PLAN,
        "transpose_forward": [2, 0, 1],
        "configurations": {"a": nnssl_model.CONFIGURATION},
    }
    nnssl_model.plain(tmp_path / "odd.pth", pretrain_plan=plan)
    with pytest.raises(CheckpointError, match="transpose_forward"):
        read(tmp_path / "odd.pth")


def test_a_class_that_is_not_installed_names_the_package(tmp_path, monkeypatch):
    nnssl_model.residual(tmp_path / "resenc.pth")
    monkeypatch.setattr(registry, "entries", lambda group: ())
    with pytest.raises(
        CheckpointError, match="its network is a ResEncL; install the package medfuse-dynamic"
    ):
        read(tmp_path / "resenc.pth")


class Code:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_what_is_no_checkpoint_of_nnssl_is_one_line(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(plain.read_bytes()[:1000])
    code = tmp_path / "code.pth"
    torch.save({"network_weights": {}, "nnssl_adaptation_plan": Code()}, code)
    raw = tmp_path / "raw.pth"
    raw.write_bytes(pickle.dumps(Code()))
    other = tmp_path / "other.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}}, other)
    empty = tmp_path / "empty.pth"
    state = torch.load(plain, weights_only=True)
    torch.save({**state, "network_weights": {}}, empty)
    for path in (cut, code, raw, other, empty, tmp_path / "none.pth"):
        with pytest.raises(CheckpointError, match=f"^{path}: ") as caught:
            import_nnssl(path, tmp_path / "made.yaml", reporter=Reporter(quiet=True))
        assert len(caught.value.lines) == 1
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "made.yaml").exists()
