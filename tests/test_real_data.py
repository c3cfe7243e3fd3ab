"""Real volumes through the whole path: label maps overlay their images in nibabel and in SimpleITK."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medfuse.core.reporter import Reporter
from medfuse.verbs.infer import infer_volumes
from medfuse.verbs.run import run_pipeline

pytestmark = pytest.mark.slow

PIPELINE = """\
name: quick
data: {data}
split: {{folds: 2}}
preprocess: {{spacing_mm: [6, 6, 6]}}
sample: {{patch_size: [24, 24, 24], batch_size: 2, workers: 0}}
model:
  backbones:
    encoder: {{use: unet_encoder, base_channels: 4, stages: 3}}
  fusion:
    decoded: {{use: unet_decoder, inputs: [encoder.*]}}
  head: {{input: decoded}}
train: {{steps: 2, precision: fp32, validation_cases: 0}}
"""


def train(folder: Path, data: str) -> Path:
    pipeline = folder / "quick.yaml"
    pipeline.write_text(PIPELINE.format(data=data))
    return run_pipeline(pipeline, runs=folder / "runs", reporter=Reporter(quiet=True)).folder


def assert_overlays(labels: Path, image: Path) -> None:
    ours, theirs = nibabel.load(labels), nibabel.load(image)
    assert ours.shape == theirs.shape[:3]
    assert np.array_equal(ours.affine, theirs.affine)
    assert nibabel.aff2axcodes(ours.affine) == nibabel.aff2axcodes(theirs.affine)
    a, b = sitk.ReadImage(str(labels)), sitk.ReadImage(str(image))
    assert a.GetSize() == b.GetSize()
    assert a.GetSpacing() == b.GetSpacing()
    assert a.GetOrigin() == b.GetOrigin()
    assert a.GetDirection() == b.GetDirection()


def test_a_four_channel_mr_goes_through(real_data, tmp_path):
    channels = ("flair", "t1", "t1post", "t2")
    images = ", ".join(f'"{{case}}/{c}.nii.gz"' for c in channels)
    source = real_data / "ms_lesions"
    run = train(
        tmp_path,
        f'{{use: folder, root: {source}, images: [{images}], labels: "{{case}}/lesions.nii.gz", '
        f"classes: {{lesion: 1}}, channels: [{', '.join(channels)}]}}",
    )
    infer_volumes([run], [source / "patient07"], tmp_path / "out", reporter=Reporter(quiet=True))
    assert_overlays(tmp_path / "out" / "patient07.nii.gz", source / "patient07" / "flair.nii.gz")


def test_a_torso_ct_goes_through(real_data, tmp_path):
    phantoms = Path(__file__).parents[1] / "sample_data"
    run = train(tmp_path, f"{{use: decathlon, root: {phantoms}}}")
    image = real_data / "ct_torso" / "ct.nii.gz"
    infer_volumes([run], [image], tmp_path / "out", reporter=Reporter(quiet=True))
    assert_overlays(tmp_path / "out" / "ct.nii.gz", image)
