"""Frames become a stack where the patient was cut, or it is told why they are none."""

from itertools import product

import numpy as np
import pytest
import scanner
from pydicom import dcmread

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.index import index_of, write_index
from medfuse.volumes.dicom.series import Scans, find_series
from medfuse.volumes.read import read_volume

ORIENTATIONS = {"axial": scanner.AXIAL, "sagittal": scanner.SAGITTAL, "oblique": scanner.OBLIQUE}


def read(path, tmp_path, **how):
    """Name → voxels of every series."""
    found = find_series(path, Scans(**how)).series
    return {one.name: read_volume(write_index(one, tmp_path / "kept")).array for one in found}


def faults(path, **how):
    return "\n".join(fault for one in find_series(path, Scans(**how)).series for fault in one.stack.faults)


def saved(folder, made):
    for n, d in enumerate(made):
        scanner.save(d, folder / f"{n:03d}.dcm")
    return folder


@pytest.mark.parametrize(("plane", "along", "sign"), [*product(ORIENTATIONS, (0, 1), (1, -1))])
def test_a_stack_that_leans_to_any_side_lies_where_it_was(plane, along, sign, tmp_path):
    """A pattern that is a function of the place in the patient is that function afterwards."""
    six = ORIENTATIONS[plane]
    row, column = np.array(six[:3]), np.array(six[3:])
    step = 3 * np.cross(row, column) + sign * (row, column)[along] * 3 * np.tan(np.radians(15))
    shape = (20, 24, 6)

    def pattern(affine, shape):
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        return (index @ affine[:3, :3].T + affine[:3, 3]) @ (5, -7, 11)

    at = scanner.affine(six, pixel_mm=(1, 1), step=step)
    array = np.rint(pattern(at, shape)).astype(np.int16)
    scanner.write(tmp_path / "in", array, orientation=six, pixel_mm=(1, 1), step=step)
    (one,) = find_series(tmp_path / "in").series
    found = read_volume(write_index(one, tmp_path / "kept"))
    assert "lean by 15.0 degrees" in one.notes[0]
    assert found.geometry.shear_degrees < 1e-6
    right = np.abs(found.array - pattern(found.geometry.affine, found.array.shape)) < 1.5
    inside = right[1:-1] if along else right[:, 1:-1]
    least = (shape[0] - 2) * (shape[1] - 2)
    assert all(inside[:, :, k].sum() >= least - 2 * sum(shape[:2]) for k in range(shape[2]))


def test_a_stack_that_leans_more_than_a_gantry_can_is_refused(tmp_path):
    scanner.write(tmp_path / "in", scanner.voxels(), step=(9, 0, 2.5))
    assert "lean by 74 degrees" in faults(tmp_path / "in")


def test_small_gaps_that_add_up_are_no_even_stack(tmp_path):
    made = scanner.headers(scanner.voxels((4, 4, 41)))
    for k, d in enumerate(made):
        d.ImagePositionPatient = [-20, -30, 40 + 2.5 * k + 0.05 * max(0, k - 20)]
    told = faults(saved(tmp_path / "in", made))
    assert "2.5 to 2.55 mm add up" in told
    assert "--uneven resample" in told
    (array,) = read(tmp_path / "in", tmp_path, uneven=True).values()
    assert array.shape[2] == 41


def test_a_missing_slice_of_a_small_animal_is_seen(tmp_path):
    made = scanner.headers(scanner.voxels(), step_mm=0.05, pixel_mm=(0.05, 0.05))
    assert not faults(saved(tmp_path / "whole", made))
    assert "(1 missing)" in faults(saved(tmp_path / "in", made[:3] + made[4:]))


def test_more_slices_than_there_are_are_not_made_up(tmp_path):
    made = scanner.headers(scanner.voxels())
    made[-1].ImagePositionPatient = [-20, -30, 1e6]
    assert "most of the slices between are not there" in faults(saved(tmp_path / "in", made), uneven=True)


def test_volumes_are_told_apart_by_two_tags_together(tmp_path):
    arrays = [scanner.voxels(seed=n) for n in range(4)]
    for n, array in enumerate(arrays):
        how = {"EchoTime": 10 + n // 2, "FlipAngle": 5 + n % 2, "series": "1.2.3", "modality": "MR"}
        scanner.write(tmp_path / "in", array, ending=f"_{n}.dcm", **how)
    found = read(tmp_path / "in", tmp_path)
    assert list(found) == [f"P1_20260102_3_EchoTime-1{n // 2}-FlipAngle-{5 + n % 2}" for n in range(4)]
    assert all(map(np.array_equal, found.values(), arrays))


def test_of_volumes_told_apart_one_that_lacks_a_slice_takes_none_of_another(tmp_path):
    for n in (1, 2):
        files = scanner.write(
            tmp_path / "in", scanner.voxels(seed=n), series="1.2", AcquisitionNumber=n, ending=f"_{n}.dcm"
        )
    middle = next(file for file in files if _number(file) == 4)
    middle.unlink()
    told = faults(tmp_path / "in")
    assert told.count("(1 missing)") == 1


def _number(path):
    return dcmread(path).InstanceNumber


def test_volumes_that_nothing_tells_apart_are_refused_and_copies_are_left_out(tmp_path):
    for n in (1, 2):
        scanner.write(tmp_path / "in", scanner.voxels(seed=n), series="1.2.3", ending=f"_{n}.dcm")
        scanner.write(tmp_path / "twice", scanner.voxels(), series="1.2.3", ending=f"_{n}.dcm")
    assert "no tag tells which belong together" in faults(tmp_path / "in")
    (array,) = read(tmp_path / "twice", tmp_path).values()
    assert np.array_equal(array, scanner.voxels())


def test_acquisitions_elsewhere_that_share_a_series_are_volumes_each(tmp_path):
    arrays = [scanner.voxels(seed=n) for n in (1, 2)]
    for n, array in enumerate(arrays):
        how = {"series": "1.2.3", "origin": (-20, -30, 40 + 101.3 * n), "AcquisitionNumber": n}
        scanner.write(tmp_path / "in", array, ending=f"_{n}.dcm", **how)
    found = read(tmp_path / "in", tmp_path)
    assert list(found) == ["P1_20260102_3_AcquisitionNumber-0", "P1_20260102_3_AcquisitionNumber-1"]
    assert all(map(np.array_equal, found.values(), arrays))


def test_slices_of_which_some_say_no_rescaling_are_refused(tmp_path):
    made = scanner.headers(scanner.voxels())
    del made[2].RescaleIntercept
    saved(tmp_path / "in", made)
    with pytest.raises(DataError, match="say no RescaleIntercept"):
        index_of(find_series(tmp_path / "in").series[0])


def test_values_of_signed_and_unsigned_slices_are_those_that_were_stored(tmp_path):
    array = scanner.voxels(low=30000, high=60000, shape=(6, 5, 4)).astype(np.uint16)
    made = scanner.headers(array.astype(np.int32), intercept=lambda k: 0)
    for k, d in enumerate(made):
        d.PixelRepresentation = int(k == 0)
        d.PixelData = array[:, :, k].T.tobytes()
    (found,) = read(saved(tmp_path / "in", made), tmp_path).values()
    assert np.array_equal(found[:, :, 1:], array[:, :, 1:])
    assert np.array_equal(found[:, :, 0], array[:, :, 0].astype(np.int16))
