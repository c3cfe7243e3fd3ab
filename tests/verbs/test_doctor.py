"""`medfuse doctor`: a line for each finding, a summary, JSON, and exit codes that a script can use."""

import json

import nibabel
import numpy as np
import pytest
from anatomy import AFFINE, dataset, patient, write


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data"), 9)


def test_nothing_found_is_exit_code_0(medfuse, sound):
    said = medfuse("doctor", sound, "-q")
    assert (said.code, said.out) == (0, f"{sound}: 9 cases examined: nothing found\n")


def test_findings_are_lines_with_case_file_what_how_sure_and_what_to_do(medfuse, tmp_path):
    root = dataset(tmp_path / "data", 9)
    image, label = patient(4)
    write(root, "p04", image, np.zeros_like(label))
    said = medfuse("doctor", root, "-q")
    assert said.code == 1
    assert said.out.splitlines() == [
        f"p04: {root}/labels/p04.nii.gz: empty (certain): its label map holds background alone; label it, or "
        "leave the case out if nobody looked at it",
        f"{root}: 9 cases examined: findings in 1 (1 empty)",
    ]
    told = json.loads(medfuse("doctor", root, "-q", "--json").out)
    assert (told["cases"], told["notes"]) == (9, [])
    (finding,) = told["findings"]
    assert {*finding} == {"kind", "case", "file", "what", "sure", "remedy"}
    assert (finding["kind"], finding["case"], finding["sure"]) == ("empty", "p04", "certain")


def test_what_is_no_dataset_is_exit_code_2_and_a_line(medfuse, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        said = medfuse("doctor", path, "-q")
        assert said.code == 2
        assert str(path) in said.err
        assert "Traceback" not in said.err


def test_a_pipeline_file_says_where_its_dataset_is(medfuse, sound, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        f"data: {{use: folder, root: {sound}, classes: {{a: 1, b: 2}}, channels: [MR]}}\n"
        "model:\n  backbones: {e: {use: unet_encoder}}\n"
        "  fusion: {d: {use: unet_decoder, inputs: [e.*]}}\n  head: {input: d}\n"
        "train: {steps: 1}\n"
    )
    assert medfuse("doctor", file, "-q").code == 0


def test_a_copy_of_an_image_among_those_without_label_is_found(medfuse, tmp_path):
    root = dataset(tmp_path / "data", 9)
    nibabel.save(nibabel.Nifti1Image(patient(2)[0] * 2, AFFINE), root / "images/other.nii.gz")
    said = medfuse("doctor", root, "-q")
    assert "copy" in said.out
    assert "is the image of" in said.out
