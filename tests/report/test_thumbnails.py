import io

import nibabel
import numpy as np
import pytest
from PIL import Image

from medfuse.report.overlays import OverlayCase
from medfuse.report.thumbnails import HEIGHT_PX, thumbnails


def write(path, array, spacing=(1, 1, 1)):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


@pytest.fixture
def case(tmp_path):
    def made(shape=(20, 16, 10), spacing=(1, 1, 1)) -> OverlayCase:
        label = np.zeros(shape, np.uint8)
        label[: shape[0] // 4, : shape[1] // 2] = 1  # to the left of the patient, at the back
        scan = write(tmp_path / "scan.nii", np.full(shape, 7, np.int16), spacing)
        return OverlayCase("c", scan, None, write(tmp_path / "label.nii", label, spacing))

    return made


def pixels(thumbnail) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(thumbnail.jpeg)).convert("RGB"), int)


def test_planes_are_those_of_the_patient_in_one_scale(case):
    axial, coronal, sagittal = thumbnails(case(spacing=(1, 1, 3)), {"organ": 1})
    assert [t.name for t in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    per_mm = {round(t.size_px[0] / t.width_mm, 1) for t in (axial, coronal, sagittal)}
    assert len(per_mm) == 1
    assert max(t.size_px[1] for t in (axial, coronal, sagittal)) <= HEIGHT_PX


def test_the_patients_right_is_on_the_left_and_the_front_on_top(case):
    axial = pixels(thumbnails(case(), {"organ": 1})[0])
    coloured = np.ptp(axial, axis=2) > 40
    rows, columns = np.nonzero(coloured)
    assert columns.min() > 0.7 * axial.shape[1]  # x from 0: left of the patient, on the right of the picture
    assert rows.min() > 0.45 * axial.shape[0]


def test_a_slice_of_a_volume_has_three_planes_too(case):
    assert all(min(t.size_px) >= 1 for t in thumbnails(case(shape=(20, 16, 1)), {"organ": 1}))
