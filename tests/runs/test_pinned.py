"""A run that began with a hub goes on, is judged and infers without one."""

import io
import json
import shutil

import hubbed
import pytest
import torch
import yaml
from hub_server import FIRST, SECOND, serving
from phantoms import PIPELINE, write_dataset

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.model.weights import load_weights, tensors_hash
from medfuse.trained.loading import load_trained
from medfuse.verbs.run import run_pipeline

pytestmark = pytest.mark.usefixtures("plain_report")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run on a network of a hub, which is gone since."""
    home = tmp_path_factory.mktemp("hubbed")
    with hubbed.installed(home / "site"):
        weights = hubbed.write_hub(home / "net")
        write_dataset(home / "cubes")
        text = PIPELINE.format(root=home / "cubes").replace(
            "{use: unet_encoder, base_channels: 4, stages: 3}", f"{{use: hubbed, folder: {home / 'net'}}}"
        )
        text = text.replace("heads: [decoded.*]", "heads: [encoder.deep]").replace("steps: 4", "steps: 2")
        (home / "p.yaml").write_text(text)
        run_pipeline(home / "p.yaml", runs=home / "runs", reporter=Reporter(quiet=True))
        shutil.rmtree(home / "net")
        yield home, weights


def test_the_folder_says_where_weights_came_from(begun):
    home, weights = begun
    said = json.loads((home / "runs" / "cubes" / "transfer.json").read_text())["encoder"]["brought"]
    assert said == {
        "source": "net@1",
        "license": "cc-by-nc-4.0",
        "sha256": tensors_hash(weights),
        "tensors": 9,
        "of": 9,
        "share_of_parameters": 1.0,
    }


def test_it_infers_without_the_hub(begun):
    home, _ = begun
    trained = load_trained([home / "runs" / "cubes" / "weights_last.safetensors"], device="cpu")
    assert trained.segmenter()(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)


def test_it_goes_on_without_the_hub(begun, tmp_path):
    home, _ = begun
    shutil.copytree(home / "runs" / "cubes", tmp_path / "cubes")
    run_pipeline(home / "p.yaml", ["train.steps=4"], runs=tmp_path, reporter=Reporter(quiet=True))
    _, facts = load_weights(tmp_path / "cubes" / "weights_last.safetensors")
    assert facts["trained"]["step"] == 4
    resolved = yaml.safe_load((tmp_path / "cubes" / "resolved.yaml").read_text())
    assert resolved["model"]["backbones"]["encoder"]["config"] == {"width": 4}


def test_a_training_that_starts_needs_it(begun, tmp_path):
    home, _ = begun
    with pytest.raises(MedfuseError, match=r"p\.yaml:\d+:\d+: model\.backbones\.encoder: .*no such f"):
        run_pipeline(home / "p.yaml", runs=tmp_path, reporter=Reporter(quiet=True))
    assert not (tmp_path / "cubes").exists()


def test_a_run_folder_that_was_passed_on_brings_no_code_in(begun, tmp_path):
    home, _ = begun
    shutil.copytree(home / "runs" / "cubes", tmp_path / "cubes")
    theirs = {"use": "module", "target": "theirs:Net"}
    (tmp_path / "cubes" / "pinned.json").write_text(json.dumps({"backbones": {"encoder": theirs}}))
    with pytest.raises(MedfuseError, match=r"pinned\.json: .*theirs:Net"):
        run_pipeline(home / "p.yaml", ["train.steps=4"], runs=tmp_path, reporter=Reporter(quiet=True))


def state_dict(value: float) -> bytes:
    """Weights for the first convolution of the phantoms' encoder, as a file."""
    content = io.BytesIO()
    torch.save({"stages.0.0.conv.weight": torch.full((4, 1, 3, 3, 3), value)}, content)
    return content.getvalue()


def test_weights_of_a_branch_are_those_of_the_commit_that_it_was_when_the_run_began(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    name = "owner/net/folder/net.pth"
    transfer = f"  transfer: {{encoder: {{hub: {name}, at_least: 0}}}}\n  fusion:"
    write_dataset(tmp_path / "cubes")
    text = PIPELINE.format(root=tmp_path / "cubes").replace("  fusion:", transfer)
    (tmp_path / "p.yaml").write_text(text)
    said = io.StringIO()

    def run(*overrides: str) -> None:
        run_pipeline(tmp_path / "p.yaml", overrides, runs=tmp_path / "runs", reporter=Reporter(said))

    with serving(tmp_path / "hub") as hub:
        hub.publish(FIRST, state_dict(1.0))
        run("train.steps=2")
        folder = tmp_path / "runs" / "cubes"
        given = json.loads((folder / "transfer.json").read_text())["encoder"]
        assert given["hub"] == f"{name}@{FIRST}"
        assert f"tensors from {name}@{FIRST}, SHA-256 {given['sha256'][:12]}" in said.getvalue()
        resolved = yaml.safe_load((folder / "resolved.yaml").read_text())
        assert resolved["model"]["transfer"]["encoder"]["hub"] == f"{name}@{FIRST}"
        hub.publish(SECOND, state_dict(2.0))
        hub.asked.clear()
        run("train.steps=4")
        assert hub.asked == []
        with pytest.raises(MedfuseError, match=rf"p\.yaml:\d+:\d+: .*hub: .*@{FIRST} to keep .*@{SECOND} to"):
            run("name=later")
        run("name=later", f"model.transfer.encoder.hub={name}@{SECOND}", "train.steps=1")
