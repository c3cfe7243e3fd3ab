"""Headers of NRRD and MetaImage mean what ITK reads in them, and odd ones are one line."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medfuse.core.errors import DataError
from medfuse.volumes.read import read_geometry, read_volume

COS, SIN = np.cos(0.3), np.sin(0.3)
VOXELS = np.arange(120, dtype=np.int16)
PACKED = zlib.compress(VOXELS.tobytes())
SPACE = {"space": "left-posterior-superior", "space directions": "(0.7,0,0) (0,1.3,0) (0,0,3)"}
PLAIN_NRRD = {"type": "short", "dimension": "3", "sizes": "5 4 6", "endian": "little", "encoding": "raw"}
IN_SPACE = PLAIN_NRRD | SPACE | {"space origin": "(-5,7,9)"}
PLAIN_META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "TransformMatrix": f"{COS} {SIN} 0 {-SIN} {COS} 0 0 0 1",
    "Offset": "-5 7 9",
    "ElementSpacing": "0.7 1.3 3",
    "DimSize": "5 4 6",
    "ElementType": "MET_SHORT",
}
OBLIQUE = f"({COS * 0.7},{SIN * 0.7},0) ({-SIN * 1.3},{COS * 1.3},0) (0,0,3)"
FOUR = {"dimension": "4", "endian": "little"}


def nrrd(path: Path, fields: dict[str, str], data: bytes = VOXELS.tobytes(), more: str = "") -> Path:
    lines = "".join(f"{name}: {value}\n" for name, value in fields.items())
    path.write_bytes(f"NRRD0004\n{lines}{more}\n".encode() + data)
    return path


def meta(path: Path, fields: dict[str, Any], data: bytes = VOXELS.tobytes(), file: str = "LOCAL") -> Path:
    lines = "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None)
    path.write_bytes(f"{lines}ElementDataFile = {file}\n".encode() + data)
    return path


def assert_read_as_by_itk(path: Path) -> None:
    image = sitk.ReadImage(str(path))
    n = min(image.GetDimension(), 3)
    array = sitk.GetArrayFromImage(image)
    array = np.moveaxis(array, -1, 0).T if image.GetNumberOfComponentsPerPixel() > 1 else array.T
    volume = read_volume(path)
    assert np.array_equal(np.squeeze(volume.array), np.squeeze(array))
    axes = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2) * image.GetSpacing()
    lps = np.diag([-1.0, -1, 1, 1]) @ volume.geometry.affine
    assert lps[:n, :n] == pytest.approx(axes[:n, :n])
    assert lps[:n, 3] == pytest.approx(image.GetOrigin()[:n])


NRRDS: dict[str, tuple[dict[str, str], bytes]] = {
    "in LPS": (IN_SPACE, VOXELS.tobytes()),
    "in RAS": (IN_SPACE | {"space": "right-anterior-superior"}, VOXELS.tobytes()),
    "in LAS": (IN_SPACE | {"space": "LAS"}, VOXELS.tobytes()),
    "in a scanner": (IN_SPACE | {"space": "scanner-xyz"}, VOXELS.tobytes()),
    "oblique": (IN_SPACE | {"space directions": OBLIQUE}, VOXELS.tobytes()),
    "flipped": (IN_SPACE | {"space directions": "(-0.7,0,0) (0,0,1.3) (0,3,0)"}, VOXELS.tobytes()),
    "without space": (PLAIN_NRRD | {"spacings": "0.7 1.3 3"}, VOXELS.tobytes()),
    "with axis mins": (PLAIN_NRRD | {"spacings": "1 2 3", "axis mins": "1 2 3"}, VOXELS.tobytes()),
    "without spacings": (PLAIN_NRRD, VOXELS.tobytes()),
    "big endian": (IN_SPACE | {"endian": "big"}, VOXELS.astype(">i2").tobytes()),
    "gzip": (IN_SPACE | {"encoding": "gz"}, gzip.compress(VOXELS.tobytes())),
    "text": (IN_SPACE | {"encoding": "ascii"}, " ".join(map(str, VOXELS)).encode()),
    "after lines": (IN_SPACE | {"line skip": "2"}, b"one\ntwo\n" + VOXELS.tobytes()),
    "after bytes": (IN_SPACE | {"byte skip": "5"}, b"12345" + VOXELS.tobytes()),
    "at the end": (IN_SPACE | {"byte skip": "-1"}, b"12345" + VOXELS.tobytes()),
    "after bytes in gzip": (
        IN_SPACE | {"byte skip": "5", "encoding": "gzip"},
        gzip.compress(b"12345" + VOXELS.tobytes()),
    ),
    "channels first": (
        IN_SPACE | FOUR | {"sizes": "2 5 4 3", "space directions": f"none {OBLIQUE}"}
        | {"kinds": "vector domain domain domain"},
        VOXELS.tobytes(),
    ),
    "channels last": (
        IN_SPACE | FOUR | {"sizes": "5 4 3 2", "space directions": f"{OBLIQUE} none"}
        | {"kinds": "domain domain domain list"},
        VOXELS.tobytes(),
    ),
    "channels between": (
        IN_SPACE | FOUR | {"sizes": "5 2 4 3", "space directions": "(1,0,0) none (0,2,0) (0,0,3)"}
        | {"kinds": "domain list domain domain"},
        VOXELS.tobytes(),
    ),
    "four axes": (PLAIN_NRRD | FOUR | {"sizes": "5 4 3 2", "spacings": "1 2 3 1"}, VOXELS.tobytes()),
    "two axes": (PLAIN_NRRD | {"dimension": "2", "sizes": "20 6", "spacings": "1 2"}, VOXELS.tobytes()),
}  # fmt: skip

METAS: dict[str, tuple[dict[str, Any], bytes]] = {
    "turned": (PLAIN_META, VOXELS.tobytes()),
    "compressed": (PLAIN_META | {"CompressedData": "True", "CompressedDataSize": len(PACKED)}, PACKED),
    "big endian": (PLAIN_META | {"ElementByteOrderMSB": "True"}, VOXELS.astype(">i2").tobytes()),
    "channels": (PLAIN_META | {"DimSize": "5 4 3", "ElementNumberOfChannels": "2"}, VOXELS.tobytes()),
    "orientation, position": (
        {"NDims": 3, "Orientation": "0 1 0 1 0 0 0 0 1", "Position": "1 2 3", "DimSize": "5 4 6",
         "ElementType": "MET_SHORT"}, VOXELS.tobytes(),
    ),
    "only sizes": ({"NDims": 3, "DimSize": "5 4 6", "ElementType": "MET_SHORT"}, VOXELS.tobytes()),
    "element size": (PLAIN_META | {"ElementSpacing": None, "ElementSize": "1 2 3"}, VOXELS.tobytes()),
    "long": (PLAIN_META | {"ElementType": "MET_LONG"}, VOXELS.astype("<i4").tobytes()),
    "two axes": ({"NDims": 2, "DimSize": "20 6", "ElementSpacing": "1 2", "Offset": "3 4",
                  "ElementType": "MET_SHORT"}, VOXELS.tobytes()),
}  # fmt: skip


@pytest.mark.parametrize("name", NRRDS)
def test_an_nrrd_is_read_as_itk_reads_it(tmp_path: Path, name: str) -> None:
    assert_read_as_by_itk(nrrd(tmp_path / "a.nrrd", *NRRDS[name]))


@pytest.mark.parametrize("name", METAS)
def test_a_metaimage_is_read_as_itk_reads_it(tmp_path: Path, name: str) -> None:
    assert_read_as_by_itk(meta(tmp_path / "a.mha", *METAS[name]))


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".mhd", ".nhdr"])
def test_what_a_converter_kept_of_another_header_is_passed_over(tmp_path: Path, ending: str) -> None:
    image = sitk.GetImageFromArray(VOXELS.reshape(6, 4, 5))
    for name in ("ITK_original_spacing", "dim[0]", "0008|0060", "(0010,0010)", "intent-name", "a b/c.d"):
        image.SetMetaData(name, "10 10 10")
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image, path)
    assert_read_as_by_itk(path)


def parts(folder: Path) -> None:
    (folder / "whole.raw").write_bytes(VOXELS.tobytes())
    (folder / "padded.raw").write_bytes(b"12345" + VOXELS.tobytes())
    for number in range(6):
        (folder / f"s{number:02d}.raw").write_bytes(VOXELS[20 * number : 20 * number + 20].tobytes())


LISTED = "\n".join(f"s{number:02d}.raw" for number in range(6))


@pytest.mark.parametrize(
    ("fields", "file", "listed"),
    [
        ({}, "whole.raw", ""),
        ({"HeaderSize": 5}, "padded.raw", ""),
        ({"HeaderSize": -1}, "padded.raw", ""),
        ({}, "LIST", LISTED),
        ({}, "LIST 2", LISTED),
        ({}, "s%02d.raw 0 5 1", ""),
    ],
)
def test_voxels_beside_a_metaimage_header_are_read_as_itk_reads_them(
    tmp_path: Path, fields: dict[str, Any], file: str, listed: str
) -> None:
    parts(tmp_path)
    assert_read_as_by_itk(meta(tmp_path / "a.mhd", PLAIN_META | fields, listed.encode(), file))


@pytest.mark.parametrize(
    ("fields", "listed"),
    [
        ({"data file": "whole.raw"}, ""),
        ({"byte skip": "-1", "data file": "padded.raw"}, ""),
        ({"data file": "s%02d.raw 0 5 1"}, ""),
        ({"data file": "LIST"}, LISTED),
    ],
)
def test_voxels_beside_an_nrrd_header_are_read_as_itk_reads_them(
    tmp_path: Path, fields: dict[str, str], listed: str
) -> None:
    parts(tmp_path)
    assert_read_as_by_itk(nrrd(tmp_path / "a.nhdr", IN_SPACE | fields, b"", listed))


def test_units_of_space_are_honoured(tmp_path: Path) -> None:
    a = nrrd(tmp_path / "a.nrrd", IN_SPACE | {"space units": '"um" "um" "um"'})
    b = meta(tmp_path / "b.mha", PLAIN_META | {"DistanceUnits": "cm"})
    assert read_geometry(a).spacing_mm == pytest.approx((0.0007, 0.0013, 0.003))
    assert read_geometry(b).spacing_mm == pytest.approx((7, 13, 30))
    assert read_geometry(a).origin == pytest.approx((0.005, -0.007, 0.009))


OUTSIDE = ["../private/x.raw", "/etc/passwd", "below/../../private/x.raw", "..", "", "x/../..", "link/x.raw"]


@pytest.mark.parametrize("file", OUTSIDE)
def test_a_header_does_not_point_outside_its_folder(tmp_path: Path, file: str) -> None:
    folder, private = tmp_path / "in", tmp_path / "private"
    for made in (folder, private):
        made.mkdir()
    (private / "x.raw").write_bytes(VOXELS.tobytes())
    (folder / "link").symlink_to(private)
    for path in (
        meta(folder / "a.mhd", PLAIN_META, b"", file),
        meta(folder / "b.mhd", PLAIN_META, file.encode() + b"\n", "LIST"),
        nrrd(folder / "c.nhdr", IN_SPACE | {"data file": file}, b""),
        nrrd(folder / "d.nrrd", IN_SPACE | {"data file": "LIST"}, b"", file + "\n"),
    ):
        with pytest.raises(DataError, match=str(path)):
            read_geometry(path)


def test_voxels_below_the_header_and_behind_a_link_are_read(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "store").write_bytes(VOXELS.tobytes())
    (tmp_path / "in" / "below" / "x.raw").symlink_to(tmp_path / "store")  # as those of git-annex
    path = meta(tmp_path / "in" / "a.mhd", PLAIN_META, b"", "below/x.raw")
    assert np.array_equal(read_volume(path).array.ravel("F"), VOXELS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"NDims": 100}, "ndims: '100'; wanted 1 whole number from 1 to 16"),
        ({"NDims": "three"}, "wanted 1 whole number"),
        ({"NDims": None}, "does not say ndims"),
        ({"DimSize": "5 4"}, "dimsize: '5 4'; wanted 3 whole numbers"),
        ({"DimSize": "5 4 -6"}, "dimsize"),
        ({"DimSize": "5 4 ²"}, "dimsize"),
        ({"DimSize": "5 4 6000000000000000000000000"}, "dimsize"),
        ({"ElementSpacing": "1 nan 1"}, "elementspacing"),
        ({"ElementSpacing": "0 1 1"}, "a spacing of 0"),
        ({"TransformMatrix": "1 0 0"}, "transformmatrix: '1 0 0'; wanted 9 numbers"),
        ({"ElementType": "MET_STRING"}, "elementtype: 'MET_STRING'; wanted one of met_char"),
        ({"ElementNumberOfChannels": "0"}, "elementnumberofchannels"),
        ({"ObjectType": "Mesh"}, "objecttype: 'Mesh'; wanted Image"),
        ({"BinaryData": "perhaps"}, "binarydata"),
    ],
)
def test_an_odd_field_of_a_metaimage_is_named(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    path = meta(tmp_path / "a.mha", PLAIN_META | fields)
    with pytest.raises(DataError, match=words) as caught:
        read_geometry(path)
    assert str(path) in caught.value.lines[0]


@pytest.mark.parametrize(
    "file", ["%s%s%n.raw 1 6 1", "%d%d 1 6 1", "%999999999d 1 6 1", "s%02d.raw", "%03d 1 999999999 1"]
)
def test_only_plain_patterns_of_names_are_followed(tmp_path: Path, file: str) -> None:
    for path in (
        meta(tmp_path / "a.mhd", PLAIN_META, b"", file),
        nrrd(tmp_path / "a.nhdr", IN_SPACE | {"data file": file}, b""),
    ):
        with pytest.raises(DataError, match="wanted"):
            read_geometry(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dimension": "99"}, "dimension"),
        ({"sizes": "5 4"}, "sizes"),
        ({"sizes": "5 4 0"}, "sizes"),
        ({"type": "block"}, "type: 'block'"),
        ({"encoding": "hex"}, "encoding: 'hex'; wanted one of raw"),
        ({"endian": "middle"}, "endian"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "space directions"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,inf)"}, "space directions"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,0)"}, "a spacing of 0"),
        ({"space origin": "(1,2)"}, "space origin"),
        ({"space units": '"mm" "mm" "furlong"'}, "space units"),
        ({"byte skip": "-1", "encoding": "gzip"}, "byte skip"),
        ({"kinds": "domain"}, "kinds"),
    ],
)
def test_an_odd_field_of_an_nrrd_is_named(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", IN_SPACE | fields)
    with pytest.raises(DataError, match=words):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", b"NRRD0004\ncomment" + b"x" * 5_000_000),
        ("a.nrrd", b"NRRD0004\ntype: short\ntype: short\n\n"),
        ("a.nrrd", b"NRRD0004\nno colon here\n\n"),
        ("a.mha", b"NDims = 3\n" + b"x" * 5_000_000),
        ("a.mha", b"NDims = 3\nNDims = 3\nElementDataFile = LOCAL\n"),
        ("a.mha", b"\n" * 100_000),
        ("a.mha", b"\0" * 1000),
    ],
)
def test_a_text_that_is_no_header_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        read_geometry(tmp_path / name)
