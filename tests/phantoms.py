"""A tiny dataset of bright cubes on noise, in the Decathlon's layout."""

import json
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (20, 18, 16)
AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])


def write_case(folder: Path, name: str, *, seed: int = 0, channels: int = 1, label: bool = True) -> None:
    """`imagesTr/NAME.nii.gz` (channels on the fourth axis where there are several) and its label map."""
    random = np.random.default_rng(seed)
    where = np.zeros(SHAPE, np.uint8)
    x, y, z = random.integers(2, 8, 3)
    where[x : x + 8, y : y + 8, z : z + 6] = 1
    image = np.stack([where * 100 + random.normal(0, 20, SHAPE) for _ in range(channels)], -1).astype(
        np.float32
    )
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "labelsTr").mkdir(parents=True, exist_ok=True)
    nibabel.save(
        nibabel.Nifti1Image(image.squeeze(-1) if channels == 1 else image, AFFINE),
        folder / "imagesTr" / f"{name}.nii.gz",
    )
    if label:
        nibabel.save(nibabel.Nifti1Image(where, AFFINE), folder / "labelsTr" / f"{name}.nii.gz")


def write_dataset(folder: Path, *, cases: int = 4, channels: int = 1) -> Path:
    names = [f"cube_{i:02d}" for i in range(cases)]
    for seed, name in enumerate(names):
        write_case(folder, name, seed=seed, channels=channels)
    describe(folder, names, channels=channels)
    return folder


def describe(folder: Path, names: list[str], *, channels: int = 1) -> None:
    """dataset.json and splits_final.json: the last case is held out."""
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    modality = {str(i): "MRI" if channels == 1 else f"MRI{i}" for i in range(channels)}
    listing = {"modality": modality, "labels": {"0": "background", "1": "cube"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(listing, indent=1))
    (folder / "splits_final.json").write_text(json.dumps([{"train": names[:-1], "val": names[-1:]}]))


PIPELINE = """\
name: cubes
data: {{use: decathlon, root: {root}}}
sample: {{patch_size: [16, 16, 16], batch_size: 2, workers: 0}}
model:
  backbones:
    encoder: {{use: unet_encoder, base_channels: 4, stages: 3}}
  fusion:
    decoded: {{use: unet_decoder, inputs: [encoder.*]}}
  head: {{input: decoded}}
  aux:
    heads: [decoded.*]
    schedule: {{use: linear_decay, start: 0.5, end: 0.0}}
train: {{steps: 4, steps_per_epoch: 2, precision: fp32}}
"""


def write_pipeline(path: Path, root: Path) -> Path:
    path.write_text(PIPELINE.format(root=root))
    return path
