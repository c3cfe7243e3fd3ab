"""What a NIfTI header says is honoured: units, spacing, rotation; odd ones are named."""

import contextlib
import os
import socket
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuse.core.errors import DataError
from medfuse.volumes.read import read_geometry, read_labels, read_volume
from medfuse.volumes.write import open_maps, write_volume

PIXDIM, VOX_OFFSET, QFORM_CODE, QUATERNION = 76, 108, 252, 256  # places in a NIfTI-1 header
VOXELS = (np.arange(5 * 6 * 7) % 100).reshape(5, 6, 7).astype(np.int16)
AT = np.array([[0, -1.3, 0, 5], [0.7, 0, 0, -20], [0, 0, 3, 100], [0, 0, 0, 1]])


def save(path: Path, unit: str = "mm", mm: float = 1.0, kind: type = nib.Nifti1Image) -> Path:
    scale = np.diag([1 / mm] * 3 + [1])
    image = kind(VOXELS, scale @ AT)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def patched(path: Path, **places: bytes) -> Path:
    content = bytearray(save(path).read_bytes())
    for place, value in places.items():
        at = int(place.removeprefix("at"))
        content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("meter", 1000), ("micron", 1e-3), ("unknown", 1)])
def test_a_grid_is_in_mm_whatever_the_unit_of_the_file(
    tmp_path: Path, unit: str, mm: float, kind: type
) -> None:
    geometry = read_geometry(save(tmp_path / "a.nii.gz", unit, mm, kind))
    assert geometry.affine == pytest.approx(AT, rel=1e-6)
    assert geometry.spacing_mm == pytest.approx((0.7, 1.3, 3))


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000), ("micron", 1e-3)])
def test_a_label_map_has_the_unit_of_its_image(tmp_path: Path, unit: str, mm: float) -> None:
    source = save(tmp_path / "image.nii.gz", unit, mm)
    write_volume(tmp_path / "labels.nii.gz", VOXELS.astype(np.uint8), like=source)
    with open_maps(tmp_path / "maps.nii.gz", (5, 6, 7, 2), like=source) as fill:
        fill((slice(None),) * 4, np.ones((5, 6, 7, 2), np.float16))
    for name in ("labels", "maps"):
        made, image = nib.load(tmp_path / f"{name}.nii.gz"), nib.load(source)
        assert made.header.get_xyzt_units() == image.header.get_xyzt_units()
        assert np.array_equal(made.affine, image.affine)
        assert np.array_equal(read_geometry(tmp_path / f"{name}.nii.gz").affine, read_geometry(source).affine)


def test_a_label_map_in_another_format_is_in_mm(tmp_path: Path) -> None:
    source = save(tmp_path / "image.nii.gz", "micron", 1e-3)
    write_volume(tmp_path / "labels.mha", VOXELS, like=source)
    assert read_geometry(tmp_path / "labels.mha").affine == pytest.approx(AT, rel=1e-6)


def test_the_sform_gives_the_spacing_that_pixdim_lacks(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", **{f"at{PIXDIM + 4}": struct.pack("<f", 0)})
    assert read_geometry(path).affine == pytest.approx(AT, rel=1e-6)
    write_volume(tmp_path / "labels.nii", VOXELS, like=path)
    assert nib.load(tmp_path / "labels.nii").header["pixdim"][1] == pytest.approx(0.7)


def test_without_an_sform_a_pixdim_of_0_is_named(tmp_path: Path) -> None:
    path = patched(
        tmp_path / "a.nii", **{f"at{PIXDIM + 8}": struct.pack("<f", 0), "at252": struct.pack("<hh", 1, 0)}
    )
    with pytest.raises(DataError, match=r"a spacing of 0 \(pixdim\[2\]\)"):
        read_geometry(path)


def turned(path: Path, length: float) -> Path:
    return patched(
        path,
        at252=struct.pack("<hh", 1, 0),
        at256=struct.pack("<fff", 0, 0, np.float32(length)),
    )


@pytest.mark.parametrize("length", [1, 1.0000003, 1.0001])
def test_a_quaternion_may_be_a_rounding_too_long(tmp_path: Path, length: float) -> None:
    path = turned(tmp_path / "a.nii", length)
    half_turn = np.diag([-0.7, -1.3, 3])
    assert read_geometry(path).affine[:3, :3] == pytest.approx(half_turn, rel=1e-6)
    write_volume(tmp_path / "labels.nii", VOXELS, like=path)
    assert np.array_equal(read_geometry(tmp_path / "labels.nii").affine, read_geometry(path).affine)
    assert nib.load(tmp_path / "labels.nii").affine[:3, :3] == pytest.approx(half_turn, rel=1e-6)


@pytest.mark.parametrize("length", [1.5, np.inf, np.nan])
def test_a_quaternion_that_is_no_rotation_is_named(tmp_path: Path, length: float) -> None:
    with pytest.raises(DataError, match="quaternion"):
        read_geometry(turned(tmp_path / "a.nii", length))


@pytest.mark.parametrize("offset", [1e30, np.nan, -1.0, 1e6])
def test_voxels_that_are_said_to_begin_nowhere_are_one_line(tmp_path: Path, offset: float) -> None:
    path = patched(tmp_path / "a.nii", **{f"at{VOX_OFFSET}": struct.pack("<f", offset)})
    with pytest.raises(DataError, match=str(path)):
        read_volume(path)


def with_axes(path: Path, kind: type, order: str, axes: int) -> Path:
    header = {nib.Nifti1Image: nib.Nifti1Header, nib.Nifti2Image: nib.Nifti2Header}[kind](endianness=order)
    content = bytearray(kind(VOXELS, AT, header).to_bytes())
    at, number = (40, "h") if kind is nib.Nifti1Image else (16, "q")
    struct.pack_into(f"{order}{number}", content, at, axes)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("axes", [-1, 0, 1, 8, 768])
def test_a_number_of_axes_that_no_volume_has_is_the_reason(
    tmp_path: Path, kind: type, order: str, axes: int
) -> None:
    with pytest.raises(DataError, match=rf"dim\[0\] = {axes}, the number of its axes; wanted 2 to 7"):
        read_geometry(with_axes(tmp_path / "a.nii", kind, order, axes))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_axes_of_one_voxel_may_be_said_or_not_and_others_may_not_be_left_out(
    tmp_path: Path, kind: type, order: str
) -> None:
    for axes in (3, 4, 7):
        read = read_volume(with_axes(tmp_path / "a.nii", kind, order, axes))
        assert np.array_equal(read.array, VOXELS)
    with pytest.raises(DataError, match=r"its header says 5×6×1 voxels of .* go on for"):
        read_volume(with_axes(tmp_path / "a.nii", kind, order, 2))


def labels(path: Path, *values: float, dtype: type = np.float32) -> Path:
    array = np.zeros((3, 3, 3), dtype)
    array.flat[: len(values)] = values
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def test_labels_within_a_rounding_of_whole_numbers_are_those(tmp_path: Path) -> None:
    read = read_labels(labels(tmp_path / "a.nii", 0.99999994, 2.0000002, 254.9999))
    assert read.array.dtype == np.uint8
    assert read.array.flat[:4].tolist() == [1, 2, 255, 0]


def test_a_label_that_is_no_whole_number_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.nii: 1 voxels are not whole numbers, such as 0.5 at \(0, 0, 1\)"):
        read_labels(labels(tmp_path / "a.nii", 1, 0.5))


@pytest.mark.parametrize("value", [1e300, -1e300, np.inf, np.nan])
def test_a_label_beyond_whole_numbers_is_one_line(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError, match="not whole numbers"):
        read_labels(labels(tmp_path / "a.nii", value, dtype=np.float64))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_negative_label_names_its_file(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(DataError, match=r"a.nii: holds -3 \(2 voxels are below 0\)"):
        read_labels(labels(tmp_path / "a.nii", -1, -3, 2, dtype=dtype))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".mhd", ".nhdr"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(DataError, match="is a named pipe, no file"):
        read_volume(tmp_path / f"a{suffix}")


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is a device, no file"):
        read_geometry(tmp_path / "a.nii")


def test_a_socket_is_not_read(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(tmp_path):  # its name has to be short
        made.bind("a.nii")
    with pytest.raises(DataError, match="is a socket, no file"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("offset", [0, 1, 40, 348])
def test_voxels_do_not_begin_within_the_header(tmp_path: Path, offset: float) -> None:
    path = patched(tmp_path / "a.nii", **{f"at{VOX_OFFSET}": struct.pack("<f", offset)})
    with pytest.raises(DataError, match=r"a\.nii"):
        read_volume(path)
