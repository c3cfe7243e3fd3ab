"""Every way into a trained network tells of images that are plainly not of its kind, once for each kind."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from phantoms import AFFINE
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
        predictor(np.ones((16, 16, 12), np.float32), spacing=(1.5, 1.5, 2.0))
    assert not told(caplog)
    for _ in range(2):
        predictor(np.ones((20, 20, 9), np.float32), spacing=(0.15, 0.15, 2.0))
    (line,) = told(caplog)
    assert line.startswith(f"{TOLD}array: a spacing of 0.15 mm along x, where training saw 1.5")


@pytest.mark.parametrize("how", [(), ("--strict",)])
def test_the_images_of_training_are_no_matter(finished_run, medfuse, tmp_path, caplog, how):
    folder = finished_run.data / "imagesTr"
    ended = medfuse("infer", finished_run.folder, "--input", folder, "--output", tmp_path / "out", "-q", *how)
    assert ended.code == 0
    assert not told(caplog)
    assert not any("unlike_training" in entry for entry in manifest(tmp_path)["cases"].values())


def manifest(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out/manifest.json").read_text())


def changed(finished_run, path: Path, of=lambda voxels: voxels, affine=AFFINE) -> Path:
    """An image of training, with other voxels or another header."""
    image = nibabel.load(finished_run.data / "imagesTr/cube_00.nii.gz")
    nibabel.save(nibabel.Nifti1Image(of(np.asarray(image.dataobj)), affine), path)
    return path


def other_kinds(finished_run, folder: Path) -> dict[str, str]:
    """File → what is to be said of it."""
    changed(finished_run, folder / "inverted.nii.gz", np.negative)
    changed(finished_run, folder / "ct.nii.gz", lambda v: np.where(v < 20, -1000, v))
    changed(finished_run, folder / "far.nii.gz", affine=AFFINE @ np.diag([9, 1, 1, 1]))
    changed(finished_run, folder / "wide.nii.gz", lambda v: np.tile(v, (3, 1, 1)))
    turned = np.eye(4)
    turned[:2, :2] = [[0.75, -0.6614], [0.6614, 0.75]]
    changed(finished_run, folder / "turned.nii.gz", affine=turned @ AFFINE)
    return {
        "inverted": "intensities of MRI are spread otherwise: where the median lies",
        "ct": "MRI goes down to -1000 as CT does, where training saw nothing below -",
        "far": "a spacing of 13.5 mm along x, where training saw 1.5",
        "wide": "mm along x, where training saw",
        "turned": "turned by 41 degrees against the patient's, where training saw 0 at most",
    }


def test_the_manifest_tells_of_each_case_in_how_far_it_is_of_another_kind(finished_run, medfuse, tmp_path):
    (tmp_path / "in").mkdir()
    wanted = other_kinds(finished_run, tmp_path / "in")
    into = ("--input", tmp_path / "in", "--output", tmp_path / "out", "-q")
    assert medfuse("infer", finished_run.folder, *into).code == 0
    entries = manifest(tmp_path)["cases"]
    assert {name for name in wanted if wanted[name] in " ".join(entries[name]["unlike_training"])} == {
        *wanted
    }


@pytest.mark.parametrize("earlier", [False, True])
def test_strict_refuses_what_is_of_another_kind_and_does_the_rest(finished_run, medfuse, tmp_path, earlier):
    (tmp_path / "in").mkdir()
    wanted = other_kinds(finished_run, tmp_path / "in")
    changed(finished_run, tmp_path / "in/sound.nii.gz")
    into = ("--input", tmp_path / "in", "--output", tmp_path / "out", "-q")
    if earlier:
        assert medfuse("infer", finished_run.folder, *into).code == 0
    ended = medfuse("infer", finished_run.folder, *into, "--strict")
    assert ended.code == 2
    assert f"{len(wanted)} failed:" in ended.out
    for name, said in wanted.items():
        (line,) = [line for line in ended.out.splitlines() if line.startswith(f"  {name}: ")]
        assert said in line
    assert (tmp_path / "out/sound.nii.gz").exists()
    assert (tmp_path / "out/far.nii.gz").exists() == earlier


def test_a_predictor_refuses_as_well(finished_run, tmp_path):
    file = changed(finished_run, tmp_path / "inverted.nii.gz", np.negative)
    outcome = Predictor.load(finished_run.folder, device="cpu").files(file, tmp_path / "out", strict=True)
    assert "spread otherwise" in outcome.failed["inverted"]


def test_explain_is_as_strict_about_headers(finished_run, medfuse, tmp_path):
    (tmp_path / "in").mkdir()
    other_kinds(finished_run, tmp_path / "in")
    how = ("--input", tmp_path / "in", "--explain", "-q")
    assert medfuse("infer", finished_run.folder, *how).code == 0
    ended = medfuse("infer", finished_run.folder, *how, "--strict")
    assert ended.code == 2
    assert {line.partition(":")[0] for line in ended.out.splitlines() if "unlike" in line} == {
        "far",
        "turned",
        "wide",
    }
