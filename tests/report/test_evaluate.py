import io

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medfuse.core.errors import DataError
from medfuse.core.reporter import Reporter
from medfuse.report import evaluate
from medfuse.report.evaluate import evaluate_folders
from medfuse.report.pairs import pair_folders

LABELS = {"background": 0, "organ": 1}


def folders(tmp_path):
    return tmp_path / "pred", tmp_path / "ref"


def test_cases_are_paired_by_name_whatever_their_endings(store, cube, tmp_path):
    store("ref/a.nii.gz", cube)
    image = sitk.GetImageFromArray(cube.transpose(2, 1, 0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # what NIfTI's identity affine is to ITK
    (tmp_path / "pred").mkdir()
    sitk.WriteImage(image, str(tmp_path / "pred" / "a.nrrd"))
    found = evaluate_folders(*folders(tmp_path), LABELS)
    assert (found.errors, found.cases[0].dice) == ((), 1)


def test_missing_predictions_are_one_error_line_with_the_first_of_them(store, cube, tmp_path):
    for name in ("pred/a.nii", *(f"ref/{n}.nii" for n in "abcdef")):
        store(name, cube)
    (line,) = evaluate_folders(*folders(tmp_path), LABELS).errors
    assert line.startswith(f"{tmp_path}/ref: 5 references (b.nii, c.nii, d.nii, …) without a prediction in ")


def test_a_prediction_without_a_reference_is_a_note(store, cube, tmp_path):
    for name in ("ref/a.nii", "pred/a.nii", "pred/b.nii", "pred/c.nii"):
        store(name, cube)
    _, errors, notes = pair_folders(*folders(tmp_path))
    words = "2 predictions (b.nii, c.nii) without a reference, not judged"
    assert (errors, notes) == ([], [f"{tmp_path}/pred: {words}"])


def test_what_infer_wrote_beside_a_label_map_is_no_prediction(store, cube, tmp_path):
    for name in ("ref/a.nii", "pred/a.nii", "pred/a_uncertainty.nii.gz", "pred/a_probabilities.nii.gz"):
        store(name, cube)
    (tmp_path / "pred" / "a_probabilities.zarr").mkdir()
    assert pair_folders(*folders(tmp_path))[1:] == ([], [])
    store("pred/other_uncertainty.nii.gz", cube)
    (note,) = pair_folders(*folders(tmp_path))[2]
    assert "1 prediction (other_uncertainty.nii.gz) without a reference" in note


@pytest.mark.parametrize("side", ["ref", "pred"])
def test_a_link_without_target_is_an_error_on_either_side_and_the_rest_go_on(store, cube, tmp_path, side):
    for name in ("ref/a.nii", "pred/a.nii", f"{'pred' if side == 'ref' else 'ref'}/b.nii"):
        store(name, cube)
    (tmp_path / side / "b.nii.gz").symlink_to("../archive/not-fetched")
    (tmp_path / side / "more").symlink_to("../archive/folder")
    found = evaluate_folders(*folders(tmp_path), LABELS)
    assert [case.name for case in found.cases] == ["a"]
    assert len(found.errors) == 2
    assert all("is a link to ../archive/" in line and "is not there" in line for line in found.errors)
    assert not any("without a reference" in line for line in found.notes)


def test_what_is_no_label_map_is_noted_but_for_what_medfuse_writes(store, cube, tmp_path):
    for name in ("ref/a.NII.GZ", "pred/a.nii"):
        store(name, cube)
    for name in ("pred/manifest.json", "pred/summary.json", "ref/readme.txt", "ref/b.mgz", "pred/._a.nii"):
        (tmp_path / name).touch()
    found = evaluate_folders(*folders(tmp_path), LABELS)
    assert len(found.cases) == 1
    assert len(found.notes) == 3
    for words in ("(readme.txt)", "(b.mgz)", "(._a.nii)"):
        assert any(words in note for note in found.notes)


def test_a_case_on_another_grid_is_named_and_the_rest_go_on(store, cube, tmp_path):
    for name in ("ref/a.nii", "pred/a.nii", "ref/b.nii"):
        store(name, cube)
    store("pred/b.nii", cube, np.diag([1, 1, 2, 1]))
    found = evaluate_folders(*folders(tmp_path), LABELS)
    assert [case.name for case in found.cases] == ["a"]
    assert "pred/b.nii: spacing (1, 1, 2) differs from (1, 1, 1) mm" in found.errors[0]


def test_an_unreadable_file_is_one_line(store, cube, tmp_path):
    for name in ("ref/a.nii", "pred/a.nii", "ref/b.nii"):
        store(name, cube)
    (tmp_path / "pred" / "b.nii").write_text("not an image")
    found = evaluate_folders(*folders(tmp_path), LABELS)
    assert len(found.errors) == 1
    assert found.errors[0].startswith(f"{tmp_path}/pred/b.nii: ")


def test_two_files_of_one_name_are_an_error(store, cube, tmp_path):
    for name in ("ref/a.nii", "pred/a.nii", "ref/b.nii", "pred/b.nii", "pred/b.nii.gz"):
        store(name, cube)
    pairs, errors, _ = pair_folders(*folders(tmp_path))
    assert [p.name for p in pairs] == ["a"]
    assert "b.nii and" in errors[0]


def test_without_labels_the_references_values_are_judged(store, cube, tmp_path):
    store("ref/a.nii", 5 * cube)
    store("pred/a.nii", 5 * cube + np.roll(cube, 5, 0))
    found = evaluate_folders(*folders(tmp_path))
    assert found.labels == {"5": 5}


def test_a_value_outside_the_labels_is_noted_once(store, cube, tmp_path):
    for name in "ab":
        store(f"ref/{name}.nii", cube)
        store(f"pred/{name}.nii", cube + 7 * np.roll(cube, 5, 0))
    notes = evaluate_folders(*folders(tmp_path), LABELS).notes
    assert any(n.startswith("value 7 in 2 predictions, a among them, is none of the labels") for n in notes)


def test_a_stored_flip_with_its_affine_changes_nothing_but_a_bare_flip_is_refused(store, cube, tmp_path):
    flipped = np.diag([-1.0, 1, 1, 1])
    store("ref/a.nii", cube, flipped)
    store("pred/a.nii", cube, flipped)
    store("ref/b.nii", cube)
    store("pred/b.nii", cube[::-1], flipped)
    found = evaluate_folders(*folders(tmp_path), LABELS)
    assert [c.name for c in found.cases] == ["a"]
    assert "direction differs" in found.errors[0]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        evaluate_folders(tmp_path / "nowhere", tmp_path, LABELS)


def test_folders_without_a_pair_are_an_error(store, cube, tmp_path):
    store("ref/a.nii", cube)
    (tmp_path / "pred").mkdir()
    with pytest.raises(DataError) as caught:
        evaluate_folders(*folders(tmp_path), LABELS)
    empty, lacking = caught.value.lines
    assert "pred: no label map here" in empty
    assert "ref: 1 reference (a.nii) without a prediction" in lacking


def test_folders_that_share_no_case_are_told_so_with_what_lacks_on_either_side(store, cube, tmp_path):
    for name in ("ref/a.nii", "ref/b.nii", "pred/c.nii"):
        store(name, cube)
    with pytest.raises(DataError) as caught:
        evaluate_folders(*folders(tmp_path), LABELS)
    apart, lacking, alone = caught.value.lines
    assert "share no case" in apart
    assert "2 references (a.nii, b.nii) without a prediction" in lacking
    assert "1 prediction (c.nii) without a reference" in alone


def test_a_label_that_no_file_holds_is_noted(store, cube, tmp_path):
    for name in ("ref/a.nii", "pred/a.nii", "ref/b.nii", "pred/b.nii"):
        store(name, cube if "a" in name else 2 * cube)
    (note,) = evaluate_folders(*folders(tmp_path), {"a": 1, "b": 2, "c": 7, "d": (2, 9)}).notes
    assert note.startswith("label c: no case that was judged holds 7")


def test_a_grid_in_another_unit_is_told_as_that(store, cube, tmp_path):
    store("ref/a.nii", cube)
    store("pred/a.nii", cube, np.diag([1e-3, 1e-3, 1e-3, 1]))
    (line,) = evaluate_folders(*folders(tmp_path), LABELS).errors
    assert "xyzt_units" in line
    assert "resample" not in line


def test_float_label_maps_are_read_as_integers(store, cube, tmp_path):
    store("ref/a.nii", cube)
    store("pred/a.nii", cube.astype(np.float32))
    assert nibabel.load(tmp_path / "pred" / "a.nii").get_data_dtype() == np.float32
    assert evaluate_folders(*folders(tmp_path), LABELS).cases[0].dice == 1


def test_progress_is_told(store, cube, tmp_path):
    for name in ("ref/a.nii", "pred/a.nii"):
        store(name, cube)
    stream = io.StringIO()
    evaluate_folders(*folders(tmp_path), LABELS, reporter=Reporter(stream))
    assert "evaluate: 100 %  a" in stream.getvalue()


def test_a_pair_that_memory_does_not_hold_is_an_error_line_and_the_rest_go_on(
    store, cube, tmp_path, monkeypatch
):
    for name in ("ref/a.nii", "pred/a.nii", "ref/b.nii", "pred/b.nii"):
        store(name, cube)

    def judge(pair, *rest, whole=evaluate._judge):
        if pair.name == "a":
            raise MemoryError
        return whole(pair, *rest)

    monkeypatch.setattr(evaluate, "_judge", judge)
    found = evaluate_folders(*folders(tmp_path), LABELS)
    assert [case.name for case in found.cases] == ["b"]
    (line,) = found.errors
    assert line.startswith(f"{tmp_path}/ref/a.nii: judging it takes more memory than is free")
