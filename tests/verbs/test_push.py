"""`medfuse push`: a model goes to a hub with its card, and comes back by its name."""

import hashlib
import json

import nibabel
import numpy as np
import pytest
from sharing.models import write_model, write_scans

pytest.importorskip("huggingface_hub", reason="pip install 'medfuse[hub]' to push")

from hub_upload import taking_hub  # which imports it


@pytest.fixture
def hub(tmp_path):
    with taking_hub(tmp_path / "hub") as made:
        yield made


@pytest.fixture
def weights(tmp_path):
    return write_model(tmp_path / "small.safetensors")


def test_a_run_is_sent_private_with_its_card(hub, weights, medfuse):
    said = medfuse("push", weights, "hub:ann/liver", "--license", "cc-by-4.0")
    assert said.code == 0, said.err
    assert hub.made == [
        {"name": "liver", "organization": "ann", "visibility": "private", "type": "model"}
    ] or (hub.made[0]["visibility"] == "private")
    files = hub.pushed("ann/liver")
    assert {"README.md", "config.json", "model.safetensors", "medfuse.json", "labels.csv", "SHA256SUMS"} <= {
        *files
    }
    assert files["model.safetensors"] == weights.read_bytes()
    assert b"license: cc-by-4.0" in files["README.md"]


def test_what_was_pushed_gives_the_labels_of_the_run(hub, weights, medfuse, tmp_path):
    assert medfuse("push", weights, "hub:ann/liver").code == 0
    scans = write_scans(tmp_path / "scans")
    for model, output in ((weights, "ours"), ("hub:ann/liver", "theirs")):
        said = medfuse("infer", model, "-i", scans, "-o", tmp_path / output, "-q")
        assert said.code == 0, said.err
    for path in (tmp_path / "ours").glob("*.nii.gz"):
        ours, theirs = (
            nibabel.load(tmp_path / which / path.name).get_fdata() for which in ("ours", "theirs")
        )
        assert np.array_equal(ours, theirs)


def test_info_asks_the_hub_for_the_description_alone(hub, weights, medfuse):
    assert medfuse("push", weights, "hub:ann/liver", "--license", "MIT").code == 0
    hub.asked.clear()
    said = medfuse("info", "hub:ann/liver", "--json")
    assert json.loads(said.out)["license"] == "MIT"
    assert not [path for _, path, _ in hub.asked if "safetensors" in path]


def test_a_training_starts_from_the_commit_that_there_is(hub, weights, medfuse):
    from medfuse.planning.sources import read_start

    assert medfuse("push", weights, "hub:ann/liver").code == 0
    start = read_start("hub:ann/liver")
    assert {*start.whole["transfer"]} == {"encoder", "decoded"}
    assert start.whole["transfer"]["encoder"] == {"hub": f"ann/liver/model.safetensors@{'3' * 40}"}


def test_a_branch_is_made_and_written(hub, weights, medfuse):
    assert medfuse("push", weights, "hub:ann/liver", "--revision", "v1").code == 0
    assert "main" not in hub.repos["ann/liver"]
    assert "model.safetensors" in hub.pushed("ann/liver", "v1")
    assert [path for _, path, _ in hub.asked if path.endswith("/branch/v1")]


def test_a_dry_run_lists_all_and_asks_nothing(hub, weights, medfuse):
    said = medfuse("push", weights, "hub:ann/liver", "--dry-run")
    assert said.code == 0
    for name in ("model.safetensors", "README.md", "SHA256SUMS"):
        assert name in said.out
    assert "you alone can read" in said.out
    assert hub.asked == []


def test_a_folder_is_sent_as_it_was_exported(hub, weights, medfuse, tmp_path):
    folder = tmp_path / "liver"
    assert medfuse("export", weights, "--format", "bundle", "-o", folder, "--license", "MIT").code == 0
    assert medfuse("push", folder, "hub:ann/liver").code == 0
    files = hub.pushed("ann/liver")
    for line in files["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[name]).hexdigest() == digest


def test_a_folder_that_was_changed_is_not_sent(hub, weights, medfuse, tmp_path):
    folder = tmp_path / "liver"
    assert medfuse("export", weights, "--format", "huggingface", "-o", folder).code == 0
    (folder / "patients.csv").write_text("Doe, John")
    said = medfuse("push", folder, "hub:ann/liver")
    assert said.code == 2
    assert "patients.csv" in said.err
    assert hub.asked == []


def test_what_everybody_can_read_is_not_written_by_accident(hub, weights, medfuse):
    hub.public.add("ann/liver")
    said = medfuse("push", weights, "hub:ann/liver")
    assert said.code == 2
    assert "--public" in said.err
    assert "ann/liver" not in hub.repos
    assert medfuse("push", weights, "hub:ann/liver", "--public").code == 0


@pytest.mark.parametrize(
    ("code", "told"), [(401, "hf auth login"), (403, "write access"), (404, "no such"), (418, "refuses")]
)
def test_a_refusal_is_a_line(code, told, hub, weights, medfuse):
    hub.refused = code
    said = medfuse("push", weights, "hub:ann/liver")
    assert said.code == 2
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert "hf_good" not in said.err


def test_a_wrong_token_is_a_line_that_does_not_tell_it(hub, weights, medfuse, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = medfuse("push", weights, "hub:ann/liver")
    assert said.code == 2
    assert "hf auth login" in said.err
    assert "hf_wrong" not in said.err


@pytest.mark.parametrize(
    "name", ["ann/liver", "hub:liver", "hub:../liver", "hub:ann/li ver", "hub:", "hub:a/b/c"]
)
def test_a_name_that_is_none_is_refused_before_any_work(name, weights, medfuse):
    said = medfuse("push", weights, name)
    assert said.code == 2
    assert "hub:OWNER/NAME" in said.err


def test_a_repository_without_a_model_of_ours_is_told(hub, medfuse, tmp_path):
    hub.repos["ann/other"] = {
        "main": ("3" * 40, {"config.json": b"{}"}),
        "3" * 40: ("3" * 40, {"config.json": b"{}"}),
    }
    said = medfuse("infer", "hub:ann/other", "-i", tmp_path, "-o", tmp_path / "out", "-q")
    assert said.code == 2
    assert "model.safetensors" in said.err


def test_weights_of_strangers_call_nothing(hub, weights, medfuse, tmp_path):
    """A file that names code, which a pipeline may and weights may not."""
    model = {
        "backbones": {
            "encoder": {"use": "module", "target": "os:system", "parameters": {"command": "touch x"}}
        }
    }
    bad = write_model(tmp_path / "bad.safetensors", more={"model": {**model, "head": {"input": "encoder.x"}}})
    files = {"config.json": b"{}", "model.safetensors": bad.read_bytes(), "medfuse.json": b"{}"}
    hub.repos["eve/liver"] = {"main": ("3" * 40, files), "3" * 40: ("3" * 40, files)}
    said = medfuse("infer", "hub:eve/liver", "-i", tmp_path, "-o", tmp_path / "out", "-q")
    assert said.code == 2
    assert "--trust" in said.err
