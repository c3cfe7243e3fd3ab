"""`medfuse rank`: the scans of a pool in the order in which to annotate them."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest


@pytest.fixture
def pool(finished_run, tmp_path):
    folder = tmp_path / "pool"
    shutil.copytree(finished_run.data / "imagesTr", folder)
    return folder


@pytest.fixture
def rank(finished_run, medfuse, pool, tmp_path):
    def speak(*words, output=tmp_path / "out"):
        return medfuse("rank", finished_run.folder, "-i", pool, "-o", output, "-q", *words)

    speak.run = finished_run.folder
    return speak


def rows(folder):
    return list(csv.DictReader((folder / "ranking.csv").read_text().splitlines()))


def test_every_case_is_ranked_once_with_a_label_map_to_begin_with(rank, pool, tmp_path):
    said = rank("--number", 2)
    assert said.code == 0, said.err
    names = sorted(path.name.removesuffix(".nii.gz") for path in pool.iterdir())
    found = rows(tmp_path / "out")
    assert sorted(row["case"] for row in found) == names
    assert [int(row["place"]) for row in found] == [*range(1, len(names) + 1)]
    assert all((tmp_path / "out" / f"{name}.nii.gz").exists() for name in names)
    assert all(0 <= float(row["doubt"]) <= 1 and 0 <= float(row["novelty"]) <= 1 for row in found)
    assert f"{len(names)} cases ranked, 2 to annotate next" in said.out


def test_again_it_says_the_same_and_infers_nothing(rank, tmp_path):
    first = rank("--json")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    again = rank("--json")
    assert json.loads(again.out)["chosen"] == json.loads(first.out)["chosen"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")} == before


def test_a_copy_of_what_is_annotated_is_not_new(rank, pool, tmp_path):
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    first = sorted(pool.iterdir())[0]
    shutil.copy(first, labelled)
    assert rank("--labelled", labelled, "--number", 1).code == 0
    found = {row["case"]: float(row["novelty"]) for row in rows(tmp_path / "out")}
    assert found[first.name.removesuffix(".nii.gz")] == pytest.approx(0, abs=1e-3)


def test_slices_with_labels_are_counted_across_the_thickest_axis(rank, tmp_path):
    assert rank("--cost", "slices").code == 0
    for row in rows(tmp_path / "out"):
        image = nibabel.load(tmp_path / "out" / f"{row['case']}.nii.gz")
        axis = int(np.argmax(image.header.get_zooms()))
        others = tuple(a for a in range(3) if a != axis)
        slices = (np.asarray(image.dataobj) != 0).any(axis=others).sum()
        assert float(row["cost"]) == max(1, slices)


def test_a_case_that_fails_is_named_and_the_others_are_ranked(rank, pool, tmp_path):
    (pool / "broken.nii.gz").write_bytes(b"no image")
    said = rank()
    assert said.code == 2
    assert "broken" in said.out
    assert "broken" not in {row["case"] for row in rows(tmp_path / "out")}


def test_another_channel_count_fails_and_says_that_nothing_can_be_ranked(finished_run, medfuse, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.nii.gz").write_bytes(b"no image")
    said = medfuse("rank", finished_run.folder, "-i", tmp_path / "bad", "-o", tmp_path / "out", "-q")
    assert said.code == 2
    assert "no case can be ranked" in said.err


@pytest.mark.parametrize("words", [("--number", 0), ("--layer", "encodr.stages.1")])
def test_mistakes_are_a_line(rank, words):
    said = rank(*words)
    assert said.code == 2
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", [("--layer", "encodr.stages.1"), ("--labelled", "nowhere")])
def test_mistakes_are_told_before_anything_is_inferred(rank, words, tmp_path):
    assert rank(*words).code == 2
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_the_run_has_a_label_of_is_told(rank, pool, tmp_path):
    first, *others = sorted(pool.iterdir())
    shutil.copy(first, pool / "again.nii.gz")
    for other in others:
        image = nibabel.load(other)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata() + 1.0, image.affine), other)
    name = first.name.removesuffix(".nii.gz")
    assert f"2 are annotated already, as {rank.run} has a label of them: again, {name}" in rank().out


def test_a_ranking_that_somebody_wrote_stays(rank, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ranking.json").write_text("{}")
    said = rank()
    assert said.code == 2
    assert "ranking.json: is not what medfuse wrote" in said.err


def test_a_table_is_refused_before_anything_is_inferred(finished_run, medfuse, tmp_path):
    (tmp_path / "cases.csv").write_text("image\na.nii.gz\n")
    out = tmp_path / "out"
    said = medfuse("rank", finished_run.folder, "-i", tmp_path / "cases.csv", "-o", out, "-q")
    assert said.code == 2
    assert "cases.csv: is not taken by rank" in said.err
    assert not out.exists()
