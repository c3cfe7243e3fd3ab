"""Every way into a trained network tells of images that are plainly not of its kind, once for each kind."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medfuse import Predictor

TOLD = "unlike the images of training: "
FLAT = f"{TOLD}p0, p1 (2 of 3): one voxel thin along z, where training saw 16 at least"
FAR = f"{TOLD}far (1 of 3): a spacing of 15 mm along x, where training saw 1.5"


@pytest.fixture
def scans(tmp_path) -> list[Path]:
    """Two pictures, and a volume with a spacing ten times that of training."""
    paths = [tmp_path / f"p{n}.png" for n in range(2)] + [tmp_path / "far.nii.gz"]
    for path in paths[:2]:
        Image.fromarray(np.full((20, 18), 99, np.uint8)).save(path, dpi=(25.4 / 1.5, 25.4 / 1.5))
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 9), np.int16), np.diag([15, 1.5, 2, 1])), paths[2])
    return paths


def told(caplog) -> list[str]:
    return [line for record in caplog.records if (line := record.getMessage()).startswith(TOLD)]


@pytest.mark.parametrize("verb", ["infer", "infer --max-memory 8GiB", "infer --explain", "features"])
def test_a_verb_tells_each_kind_once(finished_run, medfuse, scans, tmp_path, caplog, verb):
    words = {"features": ("--layers", "decoded")}.get(verb, ())
    output = () if "--explain" in verb else ("--output", tmp_path / "out")
    inputs = [word for path in scans for word in ("--input", path)]
    verb, *options = verb.split()
    assert medfuse(verb, finished_run.folder, *inputs, *output, *options, *words, "-q").code == 0
    flat, far = told(caplog)
    assert flat.startswith(FLAT)
    assert far.startswith(FAR)


def test_a_predictor_tells_of_files_in_each_call(finished_run, scans, tmp_path, caplog):
    predictor = Predictor.load(finished_run.folder, device="cpu")
    for n in range(2):
        predictor.files(scans, tmp_path / f"out{n}")
    assert len(told(caplog)) == 4
    predictor.files(scans, tmp_path / "out1")
    assert len(told(caplog)) == 4  # nothing is left to do


def test_a_predictor_tells_of_arrays_once(finished_run, caplog):
    predictor = Predictor.load(finished_run.folder, device="cpu")
    for _ in range(2):
        predictor(np.ones((8, 8, 8), np.float32), spacing=(1.5, 1.5, 2.0))
    assert not told(caplog)
    for _ in range(2):
        predictor(np.ones((20, 20, 9), np.float32), spacing=(0.15, 0.15, 2.0))
    (line,) = told(caplog)
    assert line.startswith(f"{TOLD}array: a spacing of 0.15 mm along x, where training saw 1.5")


def test_the_images_of_training_are_no_matter(finished_run, medfuse, tmp_path, caplog):
    folder = finished_run.data / "imagesTr"
    medfuse("infer", finished_run.folder, "--input", folder, "--output", tmp_path / "out", "-q")
    assert not told(caplog)
