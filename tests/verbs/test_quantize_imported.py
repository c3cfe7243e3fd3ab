"""`medfuse quantize` of what nnU-Net trained: networks of three and two axes, regions, folds, cascades."""

import json

import nibabel
import numpy as np
import pytest
from nnunet_model import write_model

from medfuse.core.reporter import Reporter
from medfuse.verbs.import_nnunet import import_nnunet
from medfuse.verbs.quantize import quantize_model

pytest.importorskip("nncf", reason="pip install 'medfuse[int8]' to quantise")
pytestmark = pytest.mark.slow

REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
AFFINE = np.diag([0.7, 0.8, 2.5, 1.0])
PIPELINE = """\
data: {{use: nnunet, root: {root}}}
split: {{fold: 0, folds: 2}}
model:
  backbones: {{encoder: {{use: unet_encoder}}}}
  fusion: {{decoded: {{use: unet_decoder, inputs: [encoder.*]}}}}
  head: {{input: decoded}}
train: {{steps: 1}}
"""


@pytest.fixture
def cases(tmp_path):
    """A pipeline file of six cases with two channels, as nnU-Net lays them out."""

    def write(**facts):
        data = tmp_path / "Dataset001_cubes"
        random = np.random.default_rng(0)
        for number in range(6):
            label = np.zeros((14, 18, 9), np.uint8)
            label[2:10, 3:12, 1:7], label[4:8, 5:9, 2:5] = 1, 2
            for channel in range(2):
                image = random.normal(20, 60, label.shape).astype(np.float32) + 100 * label
                place = data / "imagesTr" / f"cube_{number}_{channel:04d}.nii.gz"
                place.parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(image, AFFINE), place)
            place = data / "labelsTr" / f"cube_{number}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(label, AFFINE), place)
        listing = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "a": 1, "b": 2}}
        listing |= {"numTraining": 6, "file_ending": ".nii.gz", **facts}
        (data / "dataset.json").write_text(json.dumps(listing))
        path = tmp_path / "cubes.yaml"
        path.write_text(PIPELINE.format(root=data))
        return path

    return write


@pytest.fixture(autouse=True)
def gains(monkeypatch):
    def clock(runs, example):
        return {name: 1.0 if name == "int8" else 2.0 for name in runs}

    monkeypatch.setattr("medfuse.model.quantized.seconds_in_turns", clock)


def taken(run, data, medfuse, tmp_path) -> list[str]:
    """The precision of each network, once the gate is passed and a scan went through."""
    said = quantize_model(run, data=data, bound=1.0, reporter=Reporter(quiet=True))
    assert said.code == 0, said
    scans = tmp_path / "scans"
    scans.mkdir()
    for channel in range(2):
        source = data.parent / "Dataset001_cubes" / "imagesTr" / f"cube_0_{channel:04d}.nii.gz"
        (scans / source.name).write_bytes(source.read_bytes())
    how = ("--set", "runtime={use: openvino, precision: int8}")
    said = medfuse("infer", run, "-i", scans, "-o", tmp_path / "out", *how)
    assert said.code == 0, said.err
    (case,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["cases"].values()
    return [engine["precision"] for engine in case["engines"]]


@pytest.mark.parametrize("dims", [3, 2])
def test_networks_of_three_and_two_axes(cases, medfuse, tmp_path, dims):
    write_model(tmp_path / "nnUNetTrainer__p__x", dims=dims)
    import_nnunet(tmp_path / "nnUNetTrainer__p__x", tmp_path / "run", reporter=Reporter(quiet=True))
    assert taken(tmp_path / "run", cases(), medfuse, tmp_path) == ["int8"]


def test_regions(cases, medfuse, tmp_path):
    write_model(tmp_path / "nnUNetTrainer__p__x", **REGIONS)
    import_nnunet(tmp_path / "nnUNetTrainer__p__x", tmp_path / "run", reporter=Reporter(quiet=True))
    assert taken(tmp_path / "run", cases(**REGIONS), medfuse, tmp_path) == ["int8"]
    assert json.loads((tmp_path / "run" / "int8.json").read_text())["kind"] == "regions"


def test_folds(cases, medfuse, tmp_path):
    write_model(tmp_path / "nnUNetTrainer__p__x", folds=(0, 1))
    import_nnunet(tmp_path / "nnUNetTrainer__p__x", tmp_path / "run", reporter=Reporter(quiet=True))
    assert set(taken(tmp_path / "run", cases(), medfuse, tmp_path)) == {"int8"}
    gates = [json.loads((tmp_path / f"run/fold_{fold}/int8.json").read_text()) for fold in (0, 1)]
    assert all(gate["passed"] for gate in gates)
    assert not {*gates[0]["held_out"]} & {*gates[1]["held_out"]}  # each by those that its fold did not see


def test_the_second_stage_of_a_cascade_is_shown_the_first_ones_labels(cases, medfuse, tmp_path):
    first = tmp_path / "nnUNetTrainer__p__3d_lowres"
    write_model(first, name="3d_lowres", spacing=[5.0, 1.6, 1.4])
    second = tmp_path / "nnUNetTrainer__p__3d_cascade_fullres"
    write_model(second, cascade=True)
    import_nnunet(second, tmp_path / "run", reporter=Reporter(quiet=True))
    assert taken(tmp_path / "run", cases(), medfuse, tmp_path) == ["int8"]
