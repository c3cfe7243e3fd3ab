"""The folder for Hugging Face: a card that their own library reads, and weights that are the run's."""

import json

import pytest
import yaml
from sharing.models import write_model, write_scans

from medfuse.sharing.described import describe
from medfuse.sharing.description import Mean, Score, Source
from medfuse.sharing.formats import write_model as share
from medfuse.sharing.huggingface import head


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    made = tmp_path_factory.mktemp("hub") / "cubes"
    share(finished_run.folder / "weights_last.safetensors", made, kind="huggingface", license="CC-BY-NC-4.0")
    return made


def test_its_weights_are_the_very_file(folder, finished_run):
    assert (folder / "model.safetensors").read_bytes() == (
        finished_run.folder / "weights_last.safetensors"
    ).read_bytes()


def test_its_card_is_read_by_their_library(folder):
    hub = pytest.importorskip("huggingface_hub", reason="pip install 'medfuse[hub]' to read cards")
    data = hub.ModelCard.load(folder / "README.md").data
    assert data.license == "cc-by-nc-4.0"
    assert data.to_dict()["library_name"] == "medfuse"
    assert data.pipeline_tag == "image-segmentation"
    assert {"medical", "3d", "cube"} <= {*data.tags}


def test_its_score_is_a_model_index(folder, finished_run):
    hub = pytest.importorskip("huggingface_hub", reason="pip install 'medfuse[hub]' to read cards")
    results = hub.ModelCard.load(folder / "README.md").data.eval_results
    score = describe(finished_run.folder).score
    assert results[0].metric_type == "dice"
    assert results[0].metric_value == pytest.approx(score.overall.dice)


def test_its_pipeline_is_whole_but_for_the_data(folder):
    said = yaml.safe_load((folder / "pipeline.yaml").read_text())
    assert said["model"]["backbones"]["encoder"]["use"] == "unet_encoder"
    assert said["data"] == {"use": "decathlon", "root": "DATA"}


def test_infer_and_init_read_the_folder(folder, medfuse, tmp_path):
    from medfuse.planning.sources import read_start

    scans = write_scans(tmp_path / "scans")
    said = medfuse("infer", folder, "-i", scans, "-o", tmp_path / "out", "-q")
    assert said.code == 0, said.err
    assert {*read_start(str(folder)).whole["transfer"]} == {"encoder", "decoded"}


def test_its_configuration_says_the_library(folder):
    said = json.loads((folder / "config.json").read_text())
    assert said["model_type"] == "medfuse"
    assert said["data"]["labels"] == {"background": 0, "cube": 1}


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("LicenseRef-own", {"license": "other", "license_name": "licenseref-own", "license_link": "LICENSE"}),
        ("", {}),
    ],
)
def test_a_licence_has_the_name_that_the_hub_knows(license, told, tmp_path):
    said = describe(write_model(tmp_path / "small.safetensors")).model_copy(update={"license": license})
    assert {key: value for key, value in head(said).items() if key.startswith("license")} == told


def test_pretrained_weights_of_the_hub_are_its_base(tmp_path):
    sources = (Source(part="encoder", source="facebook/dinov2-small@1a2b", license="apache-2.0"),)
    said = describe(write_model(tmp_path / "small.safetensors")).model_copy(update={"sources": sources})
    assert head(said)["base_model"] == ["facebook/dinov2-small"]


def test_a_label_without_a_score_is_left_out(tmp_path):
    labels = (Mean(name="liver", dice=None, cases=0), Mean(name="tumour", dice=0.5, cases=2))
    overall = Mean(name="mean foreground", dice=0.5, cases=2)
    score = Score(of="held-out cases", overall=overall, labels=labels)
    said = describe(write_model(tmp_path / "small.safetensors")).model_copy(update={"score": score})
    (result,) = head(said)["model-index"][0]["results"]
    assert [metric["name"] for metric in result["metrics"]] == ["mean foreground Dice", "Dice of tumour"]
