"""Volumes keep their grid through a round trip in every format, and every broken file is one clear line."""

import errno
import gzip
import io
import itertools
import os
import struct
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from medfuse.core.errors import DataError, OutputError
from medfuse.volumes import slabs as slabs_module
from medfuse.volumes.endings import ending, stem
from medfuse.volumes.read import read_geometry, read_labels, read_volume
from medfuse.volumes.volume import counts_of, places_of, values_of
from medfuse.volumes.write import open_maps, open_volume, write_volume

SHAPE = (5, 6, 7)
NIFTI = [".nii", ".nii.gz"]
ITK = [".nrrd", ".mha", ".mhd"]
PIXDIM_3, SROW_X = 88, 280  # places in a NIfTI-1 header
WRITABLE = [*NIFTI, ".nrrd", ".mha"]


def voxels(shape: tuple[int, ...] = SHAPE, dtype: npt.DTypeLike = np.int16) -> npt.NDArray[Any]:
    return (np.arange(np.prod(shape)) % 100).reshape(shape).astype(dtype)


def affine(
    axes: tuple[int, int, int] = (0, 1, 2), flips: str = "", tilt: float = 0.0
) -> npt.NDArray[np.float64]:
    """Spacing 0.7, 1.3, 3 mm along permuted, flipped (of "ijk") and tilted axes."""
    cos, sin = np.cos(tilt), np.sin(tilt)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, cos, -sin], [0, sin, cos]]
    )
    made = np.eye(4)
    made[:3, :3] = turn[:, axes] * [0.7, 1.3, 3.0] * [-1 if axis in flips else 1 for axis in "ijk"]
    made[:3, 3] = (-91.25, 1 / 3, 1234.5678)
    return made


AFFINES = {
    "plain": affine(),
    "LPS": affine(flips="ij"),
    "sagittal": affine((1, 2, 0), flips="jk"),
    "coronal": affine((0, 2, 1), flips="k"),
    "oblique": affine(tilt=0.3),
    "oblique and flipped": affine((2, 0, 1), flips="ik", tilt=-0.2),
}


def save(path: Path, array: npt.NDArray[Any], at: npt.NDArray[np.float64]) -> Path:
    """Write with nibabel or SimpleITK alone, so that medfuse is not tested by itself."""
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, at), path)
        return path
    image = sitk.GetImageFromArray(array.T)
    lps = np.diag([-1.0, -1, 1, 1]) @ at
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


def assert_overlays(made: Path, source: Path) -> None:
    """Both readers put every voxel of `made` where that of `source` is."""
    ours, theirs = read_geometry(made), read_geometry(source)
    assert ours.shape == theirs.shape
    assert np.array_equal(ours.affine, theirs.affine)
    if "nifti2" not in source.name:  # which SimpleITK cannot read
        assert_overlays_in_itk(made, source)


def assert_overlays_in_itk(made: Path, source: Path) -> None:
    a, b = (sitk.ReadImage(str(path)) for path in (made, source))
    for what in ("GetSpacing", "GetOrigin"):
        assert getattr(a, what)() == pytest.approx(getattr(b, what)()[:3], rel=1e-12)
    assert a.GetSize() == b.GetSize()[:3]
    n = b.GetDimension()
    direction = np.reshape(b.GetDirection(), (n, n))[:3, :3]
    assert a.GetDirection() == pytest.approx(direction.ravel(), abs=1e-12)


@pytest.mark.parametrize("at", [*AFFINES.values()], ids=[*AFFINES])
@pytest.mark.parametrize("suffix", [*NIFTI, *ITK])
def test_a_file_is_read_as_nibabel_and_itk_wrote_it(
    tmp_path: Path, suffix: str, at: npt.NDArray[np.float64]
) -> None:
    volume = read_volume(save(tmp_path / f"a{suffix}", voxels(), at))
    assert np.array_equal(volume.array, voxels())
    assert volume.geometry.shape == SHAPE
    assert volume.geometry.affine == pytest.approx(at, rel=1e-6)


@pytest.mark.parametrize("at", [*AFFINES.values()], ids=[*AFFINES])
@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_label_map_overlays_its_image_exactly(
    tmp_path: Path, suffix: str, at: npt.NDArray[np.float64]
) -> None:
    source = save(tmp_path / f"image{suffix}", voxels(), at)
    made = tmp_path / f"labels{suffix}"
    write_volume(made, voxels(dtype=np.uint8), like=source)
    assert_overlays(made, source)
    assert np.array_equal(read_labels(made).array, voxels())


@pytest.mark.parametrize(("a", "b"), [*itertools.permutations([".nii.gz", ".nrrd", ".mha"], 2)])
def test_a_label_map_of_another_format_overlays_too(tmp_path: Path, a: str, b: str) -> None:
    source = save(tmp_path / f"image{a}", voxels(), AFFINES["oblique and flipped"])
    write_volume(tmp_path / f"labels{b}", voxels(dtype=np.uint8), like=source)
    assert read_geometry(source).differences(read_geometry(tmp_path / f"labels{b}"), tolerance=1e-4) == []


def test_an_mhd_image_gets_an_mha_label_map_with_its_grid(tmp_path: Path) -> None:
    source = save(tmp_path / "image.mhd", voxels(), AFFINES["oblique"])
    write_volume(tmp_path / "labels.mha", voxels(dtype=np.uint8), like=source)
    assert_overlays(tmp_path / "labels.mha", source)


def test_mhd_is_not_written_as_two_files_are_never_whole_at_once(tmp_path: Path) -> None:
    source = save(tmp_path / "image.mhd", voxels(), AFFINES["plain"])
    with pytest.raises(OutputError, match=r"write labels\.mha"):
        write_volume(tmp_path / "labels.mhd", voxels(), like=source)


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 2), (1, 4), (0, 0), (3, 1)])
def test_nifti_codes_are_kept(tmp_path: Path, qform: int, sform: int) -> None:
    image = nib.Nifti1Image(voxels(), None)
    image.set_qform(AFFINES["oblique"], code=qform)
    image.set_sform(AFFINES["sagittal"], code=sform)
    nib.save(image, tmp_path / "image.nii")
    write_volume(tmp_path / "labels.nii", voxels(dtype=np.uint8), like=tmp_path / "image.nii")
    before, after = (nib.load(tmp_path / name).header for name in ("image.nii", "labels.nii"))
    for field in ("qform_code", "sform_code", "srow_x", "quatern_b", "qoffset_x", "pixdim", "xyzt_units"):
        assert np.array_equal(before[field], after[field]), field


def test_a_label_map_does_not_inherit_scaling_window_or_extensions(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.set_slope_inter(2.5, -1000)
    image.header["cal_max"] = 400
    image.header.set_intent("vector")
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made by a scanner"))
    nib.save(image, tmp_path / "image.nii.gz")
    write_volume(tmp_path / "labels.nii.gz", voxels(dtype=np.uint8), like=tmp_path / "image.nii.gz")
    made = nib.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asanyarray(made.dataobj), voxels())
    assert made.get_data_dtype() == np.uint8
    assert (made.header["cal_max"], made.header.get_intent()[0]) == (0, "label")
    assert not made.header.extensions


def test_scaled_voxels_are_read_in_their_unit(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.set_slope_inter(2.0, -1000)
    nib.save(image, tmp_path / "ct.nii")
    raw = nib.load(tmp_path / "ct.nii").dataobj.get_unscaled()
    assert np.array_equal(read_volume(tmp_path / "ct.nii").array, raw * 2.0 - 1000)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">i4", ">f4", ">f8"]
)
def test_every_number_type_is_read_in_the_machines_byte_order(tmp_path: Path, dtype: str) -> None:
    array = voxels(dtype=dtype)
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(array.dtype)
    nib.save(nib.Nifti1Image(array, np.eye(4), header), tmp_path / "a.nii.gz")
    read = read_volume(tmp_path / "a.nii.gz").array
    assert np.array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")


def test_a_sheared_nifti_keeps_its_affine(tmp_path: Path) -> None:
    sheared = affine()
    sheared[0, 2] = 0.8
    source = save(tmp_path / "image.nii.gz", voxels(), sheared)
    write_volume(tmp_path / "labels.nii.gz", voxels(dtype=np.uint8), like=source)
    assert np.array_equal(read_geometry(tmp_path / "labels.nii.gz").affine, read_geometry(source).affine)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_channels_stand_last(tmp_path: Path, suffix: str) -> None:
    array = voxels((3, 4, 5, 2))
    if suffix == ".nrrd":
        image = sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True)
        sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    else:
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(volume.array, array)
    assert volume.geometry.shape == (3, 4, 5)


@pytest.mark.parametrize(("stored", "read"), [((3, 4, 5, 1), (3, 4, 5)), ((3, 4, 5, 1, 2), (3, 4, 5, 2))])
def test_axes_of_one_after_the_third_are_dropped(
    tmp_path: Path, stored: tuple[int, ...], read: tuple[int, ...]
) -> None:
    nib.save(nib.Nifti1Image(voxels(stored), np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, voxels(stored).reshape(read))


def test_a_3d_label_map_overlays_a_4d_image(tmp_path: Path) -> None:
    source = save(tmp_path / "image.nii.gz", voxels((*SHAPE, 4)), AFFINES["oblique"])
    write_volume(tmp_path / "labels.nii.gz", voxels(dtype=np.uint8), like=source)
    assert nib.load(tmp_path / "labels.nii.gz").shape == SHAPE
    assert_overlays(tmp_path / "labels.nii.gz", source)


def test_axes_of_one_voxel_are_a_volume(tmp_path: Path) -> None:
    source = save(tmp_path / "image.nii.gz", voxels((1, 8, 1)), AFFINES["sagittal"])
    assert read_volume(source).array.shape == (1, 8, 1)


def test_labels_stored_as_floats_are_read_as_the_smallest_integer(tmp_path: Path) -> None:
    labels = read_labels(save(tmp_path / "a.nii.gz", voxels(dtype=np.float64), np.eye(4))).array
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, voxels())


def rgb(path: Path) -> None:
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), path)


def half(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    save(path, noise, np.eye(4))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def patched(path: Path, offset: int, value: float, *, sform: int = 1) -> None:
    """A NIfTI-1 file with one float of its header overwritten, past what nibabel would write."""
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.set_sform(np.eye(4), code=sform)
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = struct.pack("<f", value)
    path.write_bytes(content)


def wrong_gzip_content(path: Path) -> None:
    path.write_bytes(gzip.compress(b"this is not an image" * 100))


def nrrd_without_space(path: Path) -> None:
    path.write_text(
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
        "space directions: (1,0,0) (0,1,0) (0,0,0)\nendian: little\nencoding: raw\n\n" + "\0" * 16
    )


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.nii.gz", lambda p: p.write_text("patient,age\n"), "is not a gzip file, whatever its ending says"),
        ("a.nii.gz", wrong_gzip_content, "is not a readable image"),
        ("a.nii.gz", lambda p: p.touch(), "is empty"),
        ("a.nii", lambda p: p.write_text("patient,age\n"), "is not a readable image"),
        ("a.nrrd", lambda p: p.write_text("patient,age\n"), "is not a readable image"),
        ("a.mha", lambda p: p.write_text("patient,age\n"), "is not a readable image"),
        ("a.nii.gz", half, "is truncated or damaged; copy it again"),
        ("a.nii", half, "is truncated or damaged; copy it again"),
        ("a.nrrd", half, "is truncated or damaged; copy it again"),
        ("a.mha", half, "is truncated or damaged; copy it again"),
        ("a.nii.gz", lambda p: None, "no such file"),
        ("a.nrrd", lambda p: None, "no such file"),
        ("a.nii.gz", lambda p: p.mkdir(), "is a folder"),
        ("a.nii", lambda p: p.mkdir(), "is a folder"),
        ("a.mha", lambda p: p.mkdir(), "is a folder"),
        ("a.dcm", lambda p: p.touch(), r"unknown ending; medfuse reads \.nii\.gz, \.nii, \.nrrd"),
        ("a.nii.gz", rgb, "its voxels are colours"),
        (
            "a.nii",
            lambda p: save(p, voxels(dtype=np.complex64), np.eye(4)),
            "its voxels are complex64 numbers",
        ),
        ("a.nii", lambda p: save(p, voxels((2, 3, 2, 2, 2)), np.eye(4)), r"has shape \(2, 3, 2, 2, 2\)"),
        ("a.nii", lambda p: patched(p, PIXDIM_3, 0, sform=0), "a spacing of 0"),
        ("a.nii", lambda p: patched(p, SROW_X, np.nan), "a spacing of 0 or not a number"),
        ("a.nrrd", nrrd_without_space, "a spacing of 0|is not a readable image"),
    ],
)
def test_a_file_that_is_no_volume_is_one_line_with_its_name(
    tmp_path: Path, name: str, make: Any, words: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError, match=words) as caught:
        read_volume(tmp_path / name)
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path / name}: ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (voxels(dtype=np.float32) + 0.5, "not whole numbers"),
        (np.full(SHAPE, np.nan), "not whole numbers"),
        (voxels((*SHAPE, 2)), "a label map has 3 axes"),
    ],
)
def test_a_label_map_of_anything_but_integers_is_refused(
    tmp_path: Path, array: npt.NDArray[Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read_labels(save(tmp_path / "a.nii.gz", array, np.eye(4)))


def test_a_spacing_in_micrometres_is_a_spacing(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nrrd", voxels(), np.diag([2e-5, 2e-5, 5e-5, 1]))
    assert read_geometry(source).spacing_mm == pytest.approx((2e-5, 2e-5, 5e-5))


@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_broken_source_leaves_no_output(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError):
        write_volume(tmp_path / f"labels{suffix}", voxels(), like=tmp_path / f"missing{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_writer_that_fails_leaves_no_output(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ITK ERROR: file cannot be written\nReason: No space left on device")

    source = save(tmp_path / f"image{suffix}", voxels(), np.eye(4))
    monkeypatch.setattr(sitk, "WriteImage", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_volume(tmp_path / f"labels{suffix}", voxels(), like=source)
    assert list(tmp_path.iterdir()) == [source]


def interrupted(path: Path, source: Path, error: type[BaseException]) -> None:
    with open_volume(path, SHAPE, np.uint8, like=source) as slabs:
        slabs.write(2, 0, voxels(dtype=np.uint8)[:, :, :2])
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, MemoryError])
@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_volume_that_is_not_finished_leaves_no_file(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    source = save(tmp_path / f"image{suffix}", voxels(), np.eye(4))
    with pytest.raises(error):
        interrupted(tmp_path / f"labels{suffix}", source, error)
    assert list(tmp_path.iterdir()) == [source]


class FullDisk(io.BytesIO):
    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("suffix", [*NIFTI])
def test_a_disk_that_fills_up_in_the_background_is_one_line(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / f"image{suffix}", voxels(), np.eye(4))
    monkeypatch.setattr(slabs_module, "open", lambda *_: FullDisk(), raising=False)
    with pytest.raises(OutputError, match="the disk is full"):
        write_volume(tmp_path / f"labels{suffix}", voxels(), like=source)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("backwards", [False, True])
def test_parts_in_any_order_make_the_same_file_as_the_whole(
    tmp_path: Path, suffix: str, axis: int, backwards: bool
) -> None:
    source = save(tmp_path / f"image{suffix}", voxels(), AFFINES["oblique"])
    write_volume(tmp_path / f"whole{suffix}", labels := voxels(dtype=np.uint16), like=source)
    with open_volume(tmp_path / f"parts{suffix}", SHAPE, np.uint16, like=source) as slabs:
        for start in sorted(range(0, SHAPE[axis], 2), reverse=backwards):
            slabs.write(axis, start, np.take(labels, range(start, min(start + 2, SHAPE[axis])), axis))
    parts, whole = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("parts", "whole"))
    assert parts == whole


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_nifti_file_is_byte_for_byte_what_nibabel_writes(
    tmp_path: Path, order: str, kind: type, dtype: type
) -> None:
    image = kind(voxels(), AFFINES["oblique"], kind.header_class(endianness=order))
    nib.save(image, tmp_path / "image.nii")
    image = nib.load(tmp_path / "image.nii")
    image.header.set_data_dtype(dtype)
    image.header.set_intent("label")
    nib.save(kind(voxels(dtype=dtype), image.affine, image.header), tmp_path / "nibabel.nii")
    write_volume(tmp_path / "ours.nii.gz", voxels(dtype=dtype), like=tmp_path / "image.nii")
    ours = gzip.decompress((tmp_path / "ours.nii.gz").read_bytes())
    assert ours == (tmp_path / "nibabel.nii").read_bytes()


def test_endings_are_recognised_whatever_their_case() -> None:
    assert [ending(Path(n)) for n in ("a.b.nii.gz", "A.NII.GZ", "a.NRRD", "a.txt", "a")] == [
        ".nii.gz", ".nii.gz", ".nrrd", None, None,
    ]  # fmt: skip
    assert [stem(Path(n)) for n in ("a.b.nii.gz", "A.NII.GZ", "a.NRRD")] == ["a.b", "A", "a"]


REAL = [
    "ct_torso/ct.nii.gz",
    "ms_lesions/patient07/flair.nii.gz",
    "spleen_bids/sub-spleen2/ct/sub-spleen2_ct.nii.gz",
    "hippocampus/imagesTr/hippocampus_190.nii.gz",
    "formats/anatomical.nii",
    "formats/reoriented_anat_moved.nii",
    "formats/example4d.nii.gz",
    "formats/functional.nii",
    "formats/example_nifti2.nii.gz",
    "dicom_seg/liver_seg.nrrd",
    "dicom_seg/heart_seg.nrrd",
    "dicom_seg/spine_seg.nrrd",
]


@pytest.mark.parametrize("name", REAL)
def test_a_label_map_overlays_a_real_image_exactly(real_data: Path, tmp_path: Path, name: str) -> None:
    source = real_data / name
    made = tmp_path / f"labels{ending(source)}"
    labels = np.zeros(read_geometry(source).shape, np.uint8)
    labels[:1, :2, :3] = 1
    write_volume(made, labels, like=source)
    assert np.array_equal(read_labels(made).array, labels)
    assert_overlays(made, source)


@pytest.mark.parametrize("name", [name for name in REAL if "ms_lesions" not in name])  # large
def test_a_real_image_is_read_as_nibabel_or_itk_reads_it(real_data: Path, name: str) -> None:
    path = real_data / name
    if path.suffix == ".nrrd":
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    else:
        expected = np.squeeze(nib.load(path).get_fdata())
    assert np.array_equal(np.squeeze(read_volume(path).array), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_voxels_are_counted_and_found_as_numpy_does_in_any_order_of_memory(
    kind: type[np.integer[Any]], order: Literal["C", "F"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfuse.volumes.volume.SLAB_VOXELS", 100)
    labels = np.random.default_rng(0).choice([0, 0, 0, 1, 3, 200], (7, 9, 11)).astype(kind, order=order)
    values, counts = np.unique(labels, return_counts=True)
    assert counts_of(labels) == dict(zip(values.tolist(), counts.tolist()))
    for mask in (labels > 1, labels > 300, labels[::2, ::-1] == 0):
        assert np.array_equal(places_of(mask), np.flatnonzero(mask))


def test_the_values_of_a_label_map_are_found_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfuse.volumes.volume.SLAB_VOXELS", 40)
    labels = np.random.default_rng(0).choice([0, 3, 7, 614_454_277], (6, 5, 9)).astype(np.uint32)
    labels[0, 0, 8] = 2
    assert values_of(labels) == np.unique(labels).tolist()


@pytest.mark.parametrize("like", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_label_maps_say_that_they_are_labels_and_other_maps_do_not(tmp_path: Path, like: str) -> None:
    source = tmp_path / f"image{like}"
    sitk.WriteImage(sitk.GetImageFromArray(voxels().transpose(2, 1, 0)), str(source))
    write_volume(tmp_path / "labels.nii.gz", voxels(dtype=np.uint8), like=source)
    assert nib.load(tmp_path / "labels.nii.gz").header["intent_code"] == 1002
    with open_maps(tmp_path / "maps.nii", (*SHAPE, 2), like=source):
        pass
    assert nib.load(tmp_path / "maps.nii").header["intent_code"] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (8, 8, 2), (2, 3, 0)])
def test_every_value_is_found_once_whatever_type_and_order_holds_it(dtype, shape):
    random = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    for array in (
        random,
        np.asfortranarray(random),
        random[::-1, :, ::-1],
        random.byteswap().view(random.dtype.newbyteorder()),
    ):
        assert values_of(array) == sorted({*array.ravel().tolist()})
