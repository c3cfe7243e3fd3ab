"""Pictures go the whole way: trained on, segmented, judged, in whatever file they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from PIL import Image

from medfuse import Predictor
from medfuse.volumes.read import read_labels, read_volume

RECORDS = ("manifest.", "quality.")


MM = 0.5
PIPELINE = """\
data: {use: folder, root: data, classes: {square: 1}, channels: %s}
split: {folds: 2}
sample: {batch_size: 2, workers: 0}
preprocess: {pixel_mm: [0.5, 0.5]}
augment: {rotate_degrees: 0}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 4, stages: 2}
  fusion:
    decoded: {use: unet_decoder, inputs: [encoder.*]}
  head: {input: decoded}
loss: dice_ce
train: {steps: 6, steps_per_epoch: 6, device: cpu, precision: fp32, validation_cases: 0}
infer: {runtime: {use: torch, precision: fp32}}
"""


def png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path.with_suffix(".png"))


def tiff(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path.with_suffix(".tif"), dpi=(25.4 / MM, 25.4 / MM))


def nifti(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    image = nibabel.Nifti1Image(pixels.T.copy(), np.diag([-MM, -MM, 1, 1]))
    nibabel.save(image, path.with_suffix(".nii.gz"))


def mha(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((MM, MM))
    sitk.WriteImage(image, str(path.with_suffix(".mha")), useCompression=True)


def colours(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Grey and its negative in colours, but label maps as they are."""
    channels = [pixels, 255 - pixels, pixels // 2] if pixels.max() > 1 else [pixels]
    png(path, np.dstack(channels).squeeze())


def write_pictures(root: Path, write: Callable[[Path, npt.NDArray[np.uint8]], None]) -> None:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for seed in range(4):
        chance = np.random.default_rng(seed)
        label = np.zeros((40, 32), np.uint8)
        row, column = chance.integers(2, 16, 2)
        label[row : row + 12, column : column + 12] = 1
        grey = chance.integers(40, 90, label.shape) + 100 * label
        write(root / "images" / f"c{seed}", grey.astype(np.uint8))
        write(root / "labels" / f"c{seed}", label)


def all_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch, medfuse: Any, write: Any) -> str:
    """Train, segment, judge; what the judge says."""
    monkeypatch.chdir(folder)
    write_pictures(folder / "data", write)
    (folder / "p.yaml").write_text(PIPELINE % ("[red, green, blue]" if write is colours else "[grey]"))
    for arguments in ("check p.yaml", "run p.yaml -q", "infer runs/p -i data/images -o out -q"):
        said = medfuse(*arguments.split())
        assert said.code == 0, said.err
    images = sorted((folder / "data" / "images").iterdir())
    made = sorted(path for path in (folder / "out").iterdir() if not path.name.startswith(RECORDS))
    assert [path.name for path in made] == [path.name for path in images]
    predictor = Predictor.load("runs/p", device="cpu")
    for image, label in zip(images, made):
        pixels = read_volume(image).array[:, :, 0]
        labels = predictor(np.moveaxis(pixels, 2, 0) if write is colours else pixels, spacing=(MM, MM))
        assert np.array_equal(labels, read_labels(label).array[:, :, 0])
    judged = medfuse("evaluate", "out", "data/labels", "-q")
    assert judged.code == 0, judged.err
    return str(judged.out)


def test_pictures_are_trained_on_segmented_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medfuse: Any
) -> None:
    all_the_way(tmp_path, monkeypatch, medfuse, png)


@pytest.mark.slow
def test_colours_are_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medfuse: Any) -> None:
    all_the_way(tmp_path, monkeypatch, medfuse, colours)


@pytest.mark.slow
def test_the_file_does_not_change_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medfuse: Any
) -> None:
    said = []
    for write in (png, tiff, nifti, mha):
        folder = tmp_path / write.__name__
        folder.mkdir()
        said.append(all_the_way(folder, monkeypatch, medfuse, write))
    assert len({*said}) == 1
