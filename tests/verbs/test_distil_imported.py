"""`medfuse distil` with teachers that nnU-Net trained: three and two axes, regions, stages of a cascade."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunet_model import write_model

from medfuse.core.errors import CheckpointError
from medfuse.core.reporter import Reporter
from medfuse.verbs.distil import distil_run
from medfuse.verbs.import_nnunet import import_nnunet

REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
AFFINE = np.diag([0.7, 0.8, 2.5, 1.0])
PIPELINE = """\
data: {{use: nnunet, root: {root}}}
split: {{fold: 0, folds: 2}}
sample: {{patch_size: {patch}, batch_size: 2, workers: 0}}
model:
  backbones: {{encoder: {{use: unet_encoder, base_channels: 4, stages: 2}}}}
  fusion: {{decoded: {{use: unet_decoder, inputs: [encoder.*]}}}}
  head: {{input: decoded}}
train: {{steps: 2, precision: fp32}}
infer: {{runtime: {{use: torch, precision: fp32}}}}
"""


@pytest.fixture
def plan(tmp_path, plain_report):
    """A pipeline file of six cases with two channels, as nnU-Net lays them out."""

    def write(axes: int, **facts) -> Path:
        data = tmp_path / "Dataset001_cubes"
        random = np.random.default_rng(0)
        for number in range(6):
            label = np.zeros((14, 18, 9), np.uint8)
            label[2:10, 3:12, 1:7], label[4:8, 5:9, 2:5] = 1, 2
            volumes = {f"labelsTr/cube_{number}": label}
            for channel in range(2):
                image = random.normal(20, 60, label.shape).astype(np.float32) + 100 * label
                volumes[f"imagesTr/cube_{number}_{channel:04d}"] = image
            for name, voxels in volumes.items():
                path = data / f"{name}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), path)
        listing = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "a": 1, "b": 2}}
        listing |= {"numTraining": 6, "file_ending": ".nii.gz", **facts}
        (data / "dataset.json").write_text(json.dumps(listing))
        path = tmp_path / "small.yaml"
        path.write_text(PIPELINE.format(root=data, patch=[8] * axes))
        return path

    return write


def imported(folder: Path, **model) -> Path:
    write_model(folder / "nnUNetTrainer__p__x", **model)
    import_nnunet(folder / "nnUNetTrainer__p__x", folder / "large", reporter=Reporter(quiet=True))
    return folder / "large"


@pytest.mark.parametrize(("axes", "facts"), [(3, {}), (2, {}), (3, REGIONS)], ids=["3-D", "2-D", "regions"])
def test_it_teaches_what_is_scaled_as_for_it_and_is_judged_beside_its_student(plan, tmp_path, axes, facts):
    large = imported(tmp_path, dims=axes, **facts)
    made = distil_run(
        large,
        into=str(plan(axes, **facts)),
        overrides=["train.teacher.unseen=true"],
        runs=tmp_path / "runs",
        reporter=Reporter(quiet=True),
    )
    assert [c["name"] for c in made.values["candidates"]][2] == "large"
    assert made.values["candidates"][2]["seconds"] is None
    assert (made.values["folder"] / "teacher" / "summary.json").is_file()
    taught, alone = (json.loads((f / "plan.json").read_text())["data"] for f in made.values["runs"].values())
    assert taught["normalization"] == alone["normalization"]
    assert [how["kind"] for how in taught["normalization"]] == ["ct", "nonzero_zscore"]
    assert taught["normalization"][0]["mean"] == 40.0
    assert taught["spacing_mm"] == [0.7, 0.8, 2.5]


def test_the_second_stage_of_a_cascade_cannot_teach(plan, tmp_path):
    write_model(tmp_path / "nnUNetTrainer__p__3d_lowres", name="3d_lowres", spacing=[5.0, 1.6, 1.4])
    second = tmp_path / "nnUNetTrainer__p__3d_cascade_fullres"
    write_model(second, cascade=True)
    import_nnunet(second, tmp_path / "large", reporter=Reporter(quiet=True))
    with pytest.raises(CheckpointError, match="second stage of a cascade, which cannot teach"):
        distil_run(
            tmp_path / "large", into=str(plan(3)), runs=tmp_path / "runs", reporter=Reporter(quiet=True)
        )
    assert not (tmp_path / "runs").exists()
