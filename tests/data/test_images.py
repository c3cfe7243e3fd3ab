import gzip

import numpy as np
import pytest

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.data.images import open_image, read_case_labels, read_image

CUBE = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def test_one_file_per_channel_becomes_one_array(tmp_path, write):
    case = Case(
        "a", (write(tmp_path / "a.nii.gz", CUBE), write(tmp_path / "b.nii", CUBE.astype(np.uint8) * 2))
    )
    image, _ = read_image(case, 2)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, [CUBE, CUBE * 2])


def test_a_4d_file_has_its_channels_last(tmp_path, write):
    case = Case("a", (write(tmp_path / "a.nii.gz", np.stack([CUBE, CUBE + 1], axis=-1)),))
    np.testing.assert_array_equal(read_image(case, 2)[0], [CUBE, CUBE + 1])


def test_a_4d_file_where_one_channel_is_wanted_is_refused(tmp_path, write):
    case = Case("a", (write(tmp_path / "a.nii.gz", np.stack([CUBE] * 10, axis=-1)),))
    with pytest.raises(DataError, match=r"a\.nii\.gz: .* 10 channels .*where the dataset names 1"):
        read_image(case, 1)


def test_a_trained_model_and_no_dataset_wants_the_channels_at_inference(tmp_path, write):
    case = Case("a", (write(tmp_path / "a.nii.gz", CUBE),))
    with pytest.raises(DataError, match=r"has 1 channel \(.* where the model takes 3; give") as caught:
        open_image(case, 3, by_model=True)
    assert "dataset" not in str(caught.value)


def test_nan_and_infinite_voxels_are_counted(tmp_path, write):
    array = CUBE.astype(np.float32)
    array[0, 0, :2] = np.nan, np.inf
    with pytest.raises(DataError, match=r"a\.nii\.gz: 2 voxels are NaN or infinite"):
        read_image(Case("a", (write(tmp_path / "a.nii.gz", array),)), 1)


def test_channels_on_different_grids_are_refused(tmp_path, write):
    case = Case("a", (write(tmp_path / "a.nii", CUBE), write(tmp_path / "b.nii", CUBE, spacing=(1, 1, 2))))
    with pytest.raises(DataError, match=r"b\.nii: spacing .* differs .* a\.nii"):
        read_image(case, 2)


def test_every_unreadable_channel_is_named(tmp_path, write):
    whole = write(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(16, 16, 16)))
    whole.write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "b.nii.gz").write_text("not an image")
    with pytest.raises(DataError) as caught:
        read_image(Case("a", (whole, tmp_path / "b.nii.gz")), 2)
    assert [line.split(":")[0] for line in caught.value.lines] == [str(whole), str(tmp_path / "b.nii.gz")]


def test_a_text_file_in_gzip_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"not an image"))
    with pytest.raises(DataError, match=r"a\.nii\.gz"):
        read_image(Case("a", (tmp_path / "a.nii.gz",)), 1)


def test_label_values_outside_the_labels_are_named(make_case):
    case = make_case(label=np.full((8, 9, 10), 3, np.uint8))
    geometry = read_image(case, 1)[1]
    with pytest.raises(
        DataError, match=r"a\.nii\.gz: holds value 3 that `labels` does not name \(it has 0, 1\)"
    ):
        read_case_labels(case, geometry, {0: "background", 1: "organ"})


def test_a_label_on_another_grid_is_refused(make_case, write):
    case = make_case()
    write(case.label, np.zeros((8, 9, 10), np.uint8), spacing=(1, 1, 1.5))
    with pytest.raises(DataError, match=r"labels/a\.nii\.gz: label spacing .*1\.5.* differs"):
        read_case_labels(case, read_image(case, 1)[1], {0: "background"})


def test_a_label_in_another_unit_is_told_as_that(make_case, write):
    case = make_case()
    write(case.label, np.zeros((8, 9, 10), np.uint8), spacing=(1000, 1000, 1000))
    with pytest.raises(DataError, match=r"label spacing .*xyzt_units.* mend it, or drop case") as caught:
        read_case_labels(case, read_image(case, 1)[1], {0: "background"})
    assert "resample" not in str(caught.value)


def test_a_tolerance_lets_nearly_equal_grids_pass(make_case, write):
    case = make_case()
    write(case.label, np.zeros((8, 9, 10), np.uint8), spacing=(1, 1, 1.01))
    labels = read_case_labels(case, read_image(case, 1)[1], {0: "background"}, tolerance_mm=0.1)
    assert labels.shape == (8, 9, 10)
