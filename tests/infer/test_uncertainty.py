"""`--uncertainty`: the entropy of the probabilities in each voxel, as a volume beside the label map."""

import json
import math

import nibabel
import numpy as np
import pytest

from medfuse.infer.probabilities import entropies


def brute(p):
    """-∑ p log p over log(classes), voxel by voxel."""
    p = np.asarray(p, np.float64)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    return -terms.sum(0) / math.log(len(p))


def test_entropy_of_classes_is_that_of_the_textbook():
    p = np.random.default_rng(1).dirichlet([0.3] * 4, size=(5, 6, 7)).transpose(3, 0, 1, 2)
    assert np.allclose(entropies(p.astype(np.float16), "softmax"), brute(p), atol=5e-3)


@pytest.mark.parametrize("classes", [2, 3, 117])
def test_it_is_0_where_sure_and_1_where_all_are_alike(classes):
    sure, alike = np.zeros((classes, 1), np.float16), np.full((classes, 1), 1 / classes, np.float16)
    sure[0] = 1
    assert entropies(sure, "softmax")[0] == 0
    assert entropies(alike, "softmax")[0] == pytest.approx(1, abs=2e-2)


def test_of_regions_the_most_doubtful_tells():
    p = np.array([[0.5, 1.0, 0.9], [0.0, 0.0, 0.5]], np.float16)
    assert entropies(p, "regions").tolist() == [1.0, 0.0, 1.0]


@pytest.fixture
def infer(finished_run, medfuse, tmp_path):
    def speak(name, *words):
        said = medfuse(
            "infer",
            finished_run.folder,
            "-i",
            finished_run.data / "imagesTr",
            "-o",
            tmp_path / name,
            "-q",
            *words,
        )
        assert said.code == 0, said.err
        return tmp_path / name

    return speak


def test_the_volume_is_the_entropy_of_the_probabilities_on_the_grid_of_the_scan(infer, finished_run):
    out = infer("out", "--uncertainty", "--probabilities", "nifti")
    for scan in (finished_run.data / "imagesTr").glob("*.nii.gz"):
        case = scan.name.removesuffix(".nii.gz")
        made = nibabel.load(out / f"{case}_uncertainty.nii.gz")
        p = np.asarray(nibabel.load(out / f"{case}_probabilities.nii.gz").dataobj)
        assert made.shape == nibabel.load(scan).shape
        assert np.array_equal(made.affine, nibabel.load(scan).affine)
        assert np.allclose(np.asarray(made.dataobj), brute(np.moveaxis(p, -1, 0)), atol=5e-3)


def test_label_maps_stay_as_they_are_and_workers_write_the_same(infer):
    plain, unsure = infer("plain"), infer("unsure", "--uncertainty")
    several = infer("several", "--uncertainty", "--workers", "2")
    for path in plain.glob("*.nii.gz"):
        assert (unsure / path.name).read_bytes() == path.read_bytes()
    assert {p.name for p in several.glob("*.gz")} == {p.name for p in unsure.glob("*.gz")}
    listed = json.loads((unsure / "manifest.json").read_text())["cases"]
    assert all(
        any(name.endswith("_uncertainty.nii.gz") for name in case["files"]) for case in listed.values()
    )


def test_it_is_no_label_map_for_others(infer, medfuse, finished_run, tmp_path):
    out = infer("out", "--uncertainty", "--statistics")
    cases = {path.name for path in (finished_run.data / "imagesTr").glob("*.nii.gz")}
    assert {f"{name}.nii.gz" for name in json.loads((out / "statistics.json").read_text())["cases"]} == cases
    said = medfuse("view", out, "--output", tmp_path / "view.html")
    assert said.code == 0, said.err
    said = medfuse("evaluate", out, finished_run.data / "labelsTr", "--output", tmp_path / "judged")
    assert said.code == 0, said.err


def test_without_it_the_volume_of_an_earlier_call_stays_and_is_told(infer, caplog):
    out = infer("out", "--uncertainty")
    infer("out")
    assert [*out.glob("*_uncertainty*")]
    assert any("_uncertainty.nii.gz" in record.getMessage() for record in caplog.records)
