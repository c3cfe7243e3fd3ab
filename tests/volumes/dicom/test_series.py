"""Series are found, put in order and placed; what is no volume is told with its numbers."""

import shutil
import zipfile

import numpy as np
import pytest
import scanner
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.files import holds_dicom
from medfuse.volumes.dicom.index import as_volume_file, index_of, write_index
from medfuse.volumes.dicom.origins import volume_hash
from medfuse.volumes.dicom.series import Scans, find_series
from medfuse.volumes.read import read_volume, slab_reader

PLANES = {
    "axial": scanner.AXIAL,
    "coronal": scanner.CORONAL,
    "sagittal": scanner.SAGITTAL,
    "oblique": scanner.OBLIQUE,
    "feet first": (-1, 0, 0, 0, 1, 0),
}


def only(path, **how):
    (series,) = find_series(path, Scans(**how)).series
    return series


def volume(path, tmp_path, **how):
    return read_volume(write_index(only(path, **how), tmp_path / "kept"))


def same(found, array, affine):
    assert found.array.shape == array.shape
    assert np.array_equal(found.array, array)
    assert np.allclose(found.geometry.affine, affine, atol=1e-6)


@pytest.mark.parametrize("plane", PLANES)
def test_slices_lie_where_the_scanner_saw_them(plane, tmp_path):
    array = scanner.voxels()
    scanner.write(tmp_path / "in", array, orientation=PLANES[plane])
    same(volume(tmp_path / "in", tmp_path), array, scanner.affine(PLANES[plane]))


@pytest.mark.parametrize("ending", ["", ".dcm", ".IMA", ".dicom", ".1.2.3"])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_files_of_any_ending_and_encoding_are_read(ending, syntax, tmp_path):
    array = scanner.voxels()
    scanner.write(tmp_path / "in", array, ending=ending, syntax=syntax)
    same(volume(tmp_path / "in", tmp_path), array, scanner.affine())


def test_compressed_slices_are_the_same(tmp_path):
    array = scanner.voxels()
    for n, d in enumerate(scanner.headers(array)):
        d.file_meta = None
        scanner.save(d, tmp_path / "in" / f"{n}.dcm")
        d.compress(RLELossless)
        d.save_as(tmp_path / "in" / f"{n}.dcm")
    same(volume(tmp_path / "in", tmp_path), array, scanner.affine())


def test_a_multi_frame_file_is_its_slices(tmp_path):
    array = scanner.voxels()
    scanner.save(scanner.multi_frame(array), tmp_path / "one.dcm")
    same(volume(tmp_path / "one.dcm", tmp_path), array, scanner.affine())


def test_slopes_are_those_of_each_slice(tmp_path):
    array = scanner.voxels(low=0, high=3000)
    slopes = [0.5 + 0.25 * k for k in range(array.shape[2])]
    how = {"modality": "PT", "slope": slopes.__getitem__, "intercept": lambda k: 0, "Units": "BQML"}
    scanner.write(tmp_path / "in", array, **how)
    found = volume(tmp_path / "in", tmp_path)
    near = [np.rint(array[:, :, k] / slope) * slope for k, slope in enumerate(slopes)]
    assert np.allclose(found.array, np.stack(near, axis=2))
    assert any("BQML" in note for note in index_of(only(tmp_path / "in")).notes)


def test_a_zip_file_a_tree_and_a_dicomdir_hold_the_same_series(tmp_path):
    array = scanner.voxels()
    files = scanner.write(tmp_path / "tree" / "p" / "s", array)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"deep/{file.name}")
    media = FileSet()
    for file in files:
        media.add(file)
    media.write(tmp_path / "media")
    media._stage["t"].cleanup()  # which pydicom leaves to chance
    for path in (tmp_path / "tree", tmp_path / "a.zip", tmp_path / "media" / "DICOMDIR", tmp_path / "media"):
        same(volume(path, tmp_path), array, scanner.affine())
        assert holds_dicom(path) or path.name == "DICOMDIR"
    hashes = {
        volume_hash(write_index(only(p), tmp_path / f"kept_{p.stem}"))
        for p in (tmp_path / "tree", tmp_path / "a.zip")
    }
    assert len(hashes) == 1


def test_several_series_are_told_apart_and_named(tmp_path):
    for number in (1, 2):
        scanner.write(tmp_path / "all", scanner.voxels(seed=number), number=number, ending=f"_{number}.dcm")
    scanner.write(tmp_path / "all" / "other", scanner.voxels(seed=3), patient="P/2 x", modality="MR")
    found = find_series(tmp_path / "all").series
    assert [one.name for one in found] == ["P-2-x_20260102_3", "P1_20260102_1", "P1_20260102_2"]
    assert [s.name for s in find_series(tmp_path / "all", Scans(("Modality=MR",))).series] == [found[0].name]
    assert len(find_series(tmp_path / "all", Scans(("SeriesNumber<=2", "SliceThickness<3"))).series) == 2
    assert not find_series(tmp_path / "all", Scans(("SeriesDescription~lung",))).series
    hashed = [one.name for one in find_series(tmp_path / "all", Scans(hashed=True)).series]
    assert len({*hashed}) == 3
    assert not any("P1" in name or "2026" in name for name in hashed)


@pytest.mark.parametrize("text", ["Modality", "Modality==", "Nonsense=3", ""])
def test_what_is_no_condition_is_refused(text, tmp_path):
    if text == "Modality==":
        assert not find_series(tmp_path, Scans((text,))).series
        return
    with pytest.raises(DataError, match="--series"):
        find_series(tmp_path, Scans((text,)))


def test_a_localizer_and_copies_are_left_out(tmp_path):
    array = scanner.voxels()
    files = scanner.write(tmp_path / "in", array, series="1.2.3")
    scanner.write(
        tmp_path / "in",
        scanner.voxels((20, 30, 1)),
        series="1.2.3",
        ending="_l.dcm",
        orientation=scanner.CORONAL,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    scanner.write(
        tmp_path / "in",
        scanner.voxels((20, 30, 1)),
        series="1.2.3",
        ending="_m.dcm",
        orientation=scanner.SAGITTAL,
    )
    shutil.copy(files[0], tmp_path / "in" / "again.dcm")
    found = find_series(tmp_path / "in")
    same(read_volume(write_index(found.series[0], tmp_path / "kept")), array, scanner.affine())
    told = "\n".join(found.notes)
    assert "1 of 10 files are copies" in told
    assert "1 localizer" in told
    assert "1 images of 20×30 pixels that lie otherwise" in told


def test_of_slices_at_one_place_the_first_is_kept(tmp_path):
    array = scanner.voxels()
    made = scanner.headers(array)
    twice = scanner.headers(array, series=made[0].SeriesInstanceUID)[2]
    twice.InstanceNumber = 99
    twice.PixelData = bytes(len(twice.PixelData))
    for n, d in enumerate([*made, twice]):
        scanner.save(d, tmp_path / "in" / f"{n}.dcm")
    same(volume(tmp_path / "in", tmp_path), array, scanner.affine())
    assert any("another lies at the same place" in note for note in only(tmp_path / "in").notes)


def test_echoes_of_one_series_are_volumes_of_their_own(tmp_path):
    arrays = [scanner.voxels(seed=n) for n in (1, 2)]
    for echo, array in enumerate(arrays, 1):
        scanner.write(
            tmp_path / "in", array, series="1.2.3", modality="MR", EchoNumbers=echo, ending=f"_{echo}.dcm"
        )
    found = find_series(tmp_path / "in").series
    assert [one.name for one in found] == ["P1_20260102_3_EchoNumbers-1", "P1_20260102_3_EchoNumbers-2"]
    for one, array in zip(found, arrays):
        same(read_volume(write_index(one, tmp_path / "kept")), array, scanner.affine())


def test_a_missing_slice_is_told_with_its_place_and_resampled_on_request(tmp_path):
    array = np.repeat(np.repeat(np.arange(7, dtype=np.int16)[None, None] * 100, 5, 0), 4, 1)
    made = scanner.headers(array)
    for n in (0, 1, 2, 4, 5, 6):
        scanner.save(made[n], tmp_path / "in" / f"{n}.dcm")
    with pytest.raises(
        DataError, match=r"2\.5 mm, but 5 mm \(1 missing\) between slices 3 and 4 \(images 3 and 5\)"
    ):
        index_of(only(tmp_path / "in"))
    same(volume(tmp_path / "in", tmp_path, uneven=True), array, scanner.affine())
    assert "resampled to even ones" in only(tmp_path / "in", uneven=True).notes[0]


def test_uneven_slices_are_refused_and_small_rounding_is_not(tmp_path):
    array = scanner.voxels()
    for folder, by in (("small", 0.04), ("large", 0.4)):
        for n, d in enumerate(scanner.headers(array)):
            x, y, z = d.ImagePositionPatient
            d.ImagePositionPatient = [x, y, float(z) + by * (n == 3)]
            scanner.save(d, tmp_path / folder / f"{n}.dcm")
    same(volume(tmp_path / "small", tmp_path), array, scanner.affine())
    with pytest.raises(DataError, match="not evenly apart"):
        volume(tmp_path / "large", tmp_path)


def test_a_tilted_gantry_is_resampled_to_perpendicular_axes(tmp_path):
    """A pattern that is a function of the place in the patient is that function afterwards."""
    tilt, shape, mm, height = np.radians(15), (24, 40, 9), (1.0, 1.0), 3.0
    step = (0, height * np.tan(tilt), height)
    at = scanner.affine(pixel_mm=mm, step=step)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)

    def pattern(affine, index):
        x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
        return 5 * x - 7 * y + 11 * z

    array = np.rint(pattern(at, index)).astype(np.int16)
    scanner.write(tmp_path / "in", array, pixel_mm=mm, step=step)
    found = volume(tmp_path / "in", tmp_path)
    assert found.geometry.shear_degrees < 1e-6
    assert found.geometry.spacing_mm == pytest.approx((1, 1, 3))
    assert "lean by 15.0 degrees" in only(tmp_path / "in").notes[0]
    wide = np.stack(np.meshgrid(*map(np.arange, found.array.shape), indexing="ij"), -1)
    off = np.abs(found.array - pattern(found.geometry.affine, wide))
    inside = off < 1.5
    assert inside.mean() > 0.7
    for k in range(9):
        assert inside[1:-1, :, k].sum() >= 22 * 38


def test_turned_over_values_are_as_stored_and_told(tmp_path):
    array = scanner.voxels()
    scanner.write(tmp_path / "in", array, PhotometricInterpretation="MONOCHROME1")
    same(volume(tmp_path / "in", tmp_path), array, scanner.affine())
    assert any("MONOCHROME1" in note for note in index_of(only(tmp_path / "in")).notes)


def test_unused_bits_are_no_part_of_a_number(tmp_path):
    array = scanner.voxels(low=0, high=4000)
    for n, d in enumerate(scanner.headers(array, intercept=lambda k: 0)):
        d.BitsStored, d.HighBit, d.PixelRepresentation = 12, 11, 0
        d.PixelData = (np.frombuffer(d.PixelData, np.uint16) | 0x3000).tobytes()
        scanner.save(d, tmp_path / "in" / f"{n}.dcm")
    same(volume(tmp_path / "in", tmp_path), array, scanner.affine())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImagePositionPatient": None}, "say not where in the patient they lie"),
        ({"PixelSpacing": None}, "say not how large a pixel is"),
        ({"RescaleSlope": 0}, "rescale slope of 0"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colours"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "no unit vectors"),
    ],
)
def test_what_is_no_volume_is_told_in_one_line(change, words, tmp_path):
    for n, d in enumerate(scanner.headers(scanner.voxels())):
        for name, value in change.items():
            if value is None:
                delattr(d, name)
            else:
                setattr(d, name, value)
        scanner.save(d, tmp_path / "in" / f"{n}.dcm")
    found = find_series(tmp_path / "in")
    if found.series:
        with pytest.raises(DataError, match=words):
            index_of(found.series[0])
    else:
        assert any(words in note for note in found.notes)


def test_a_cut_or_changed_file_is_told_when_it_is_read(tmp_path):
    files = scanner.write(tmp_path / "in", scanner.voxels())
    path = write_index(only(tmp_path / "in"), tmp_path / "kept")
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:-40])
    with pytest.raises(DataError, match=f"{files[2]}: has changed"):
        read_volume(path)
    path = write_index(only(tmp_path / "in"), tmp_path / "kept")
    with pytest.raises(DataError, match=f"{files[2]}: is truncated or damaged"):
        read_volume(path)
    files[2].unlink()
    with pytest.raises(DataError, match="not there any more"):
        read_volume(path)


def test_a_path_of_one_series_is_a_volume(tmp_path):
    array = scanner.voxels()
    files = scanner.write(tmp_path / "in", array)
    assert slab_reader(as_volume_file(tmp_path / "in")).geometry.shape == array.shape
    assert slab_reader(as_volume_file(files[0])).geometry.shape == (*array.shape[:2], 1)
    assert as_volume_file(tmp_path / "a.nii.gz") == tmp_path / "a.nii.gz"
    scanner.write(tmp_path / "in" / "more", array, number=4)
    with pytest.raises(DataError, match="holds 2 series"):
        as_volume_file(tmp_path / "in")
