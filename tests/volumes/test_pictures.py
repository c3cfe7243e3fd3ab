"""Pictures and images of two axes are volumes of one slice, and their label maps the same kind of file."""

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from PIL import Image

from medfuse.core.errors import DataError, OutputError
from medfuse.volumes.endings import label_ending
from medfuse.volumes.folders import look_into
from medfuse.volumes.read import read_geometry, read_labels, read_volume, slab_reader
from medfuse.volumes.write import open_maps, write_volume

COLUMNS, ROWS = 7, 5
GREY = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8)  # as pictures have it
LABELS = np.random.default_rng(1).integers(0, 3, (COLUMNS, ROWS, 1)).astype(np.uint8)


def picture(path: Path, pixels: npt.NDArray[Any] = GREY, **about: Any) -> Path:
    Image.fromarray(pixels).save(path, **about)
    return path


def of_two_axes(path: Path) -> Path:
    if path.suffix == ".gz":
        nib.save(nib.Nifti1Image(GREY.T.copy(), np.diag([-0.5, -0.25, 3, 1])), path)
    else:
        image = sitk.GetImageFromArray(GREY)
        image.SetSpacing((0.5, 0.25))
        sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_a_picture_is_a_volume_of_one_slice_with_i_along_its_rows(tmp_path: Path, suffix: str) -> None:
    volume = read_volume(picture(tmp_path / f"a{suffix}"))
    assert np.array_equal(volume.array, GREY.T[:, :, None])
    assert volume.geometry.shape == (COLUMNS, ROWS, 1)
    assert not volume.geometry.spaced


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_file_of_two_axes_is_the_same_volume_as_the_picture(tmp_path: Path, suffix: str) -> None:
    volume = read_volume(of_two_axes(tmp_path / f"a{suffix}"))
    assert np.array_equal(volume.array, GREY.T[:, :, None])
    assert volume.geometry.affine == pytest.approx(np.diag([-0.5, -0.25, 1, 1]))


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", np.uint16), (".tif", np.uint16), (".tif", np.float32), (".tif", np.int32), (".png", bool)],
)
def test_pixels_of_other_types_are_read_as_they_are(tmp_path: Path, suffix: str, dtype: Any) -> None:
    pixels = (GREY > 100) if dtype is bool else (GREY.astype(np.float64) * 200.0).astype(dtype)
    assert np.array_equal(read_volume(picture(tmp_path / f"a{suffix}", pixels)).array[..., 0].T, pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_colours_are_three_channels(tmp_path: Path, suffix: str) -> None:
    pixels = np.stack([np.full((ROWS, COLUMNS), value, np.uint8) for value in (10, 100, 200)], axis=-1)
    reader = slab_reader(picture(tmp_path / f"a{suffix}", pixels))
    assert reader.channels == 3
    assert [int(np.median(slab)) for _, _, slab in reader.read()] == pytest.approx([10, 100, 200], abs=3)


@pytest.mark.parametrize(
    ("name", "about", "spacing"),
    [
        ("a.png", {"dpi": (254, 508)}, (0.1, 0.05)),
        ("a.tif", {"dpi": (254, 508)}, (0.1, 0.05)),
        ("a.tif", {"resolution_unit": 3, "x_resolution": 100, "y_resolution": 50}, (0.1, 0.2)),
        ("a.tif", {"resolution_unit": 1, "x_resolution": 2, "y_resolution": 4,
                   "description": "ImageJ=1.54\nunit=micron\n"}, (0.0005, 0.00025)),
        ("a.tif", {"resolution_unit": 1, "x_resolution": 2, "y_resolution": 4}, None),
        ("a.png", {"dpi": (96, 96)}, None),  # of a screen: what programs write that know nothing
        ("a.png", {"dpi": (72, 72)}, None),
        ("a.jpg", {"dpi": (300, 300)}, None),
        ("a.png", {}, None),
    ],
)  # fmt: skip
def test_the_size_of_a_pixel_is_what_the_file_says(
    tmp_path: Path, name: str, about: dict[str, Any], spacing: tuple[float, float] | None
) -> None:
    geometry = read_geometry(picture(tmp_path / name, **about))
    assert geometry.spaced == (spacing is not None)
    assert geometry.spacing_mm == pytest.approx((*(spacing or (1, 1)), 1), rel=1e-3)
    assert geometry.with_spacing((3, 4)).spacing_mm[:2] == pytest.approx(spacing or (3, 4), rel=1e-3)


SOURCES = [".png", ".jpg", ".tif", ".tiff", ".nii.gz", ".mha", ".nrrd"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", SOURCES)
def test_a_label_map_overlays_its_picture(tmp_path: Path, suffix: str, dtype: type) -> None:
    pictures = suffix[1:] in ("png", "jpg", "tif", "tiff")
    dpi = {"dpi": (254, 254)} if suffix in (".png", ".tif", ".tiff") else {}
    source = picture(tmp_path / f"a{suffix}", **dpi) if pictures else of_two_axes(tmp_path / f"a{suffix}")
    made = tmp_path / f"labels{label_ending(source)}"
    labels = LABELS.astype(dtype) * (300 if dtype is np.uint16 else 1)
    write_volume(made, labels, like=source)
    assert np.array_equal(read_labels(made).array, labels)
    assert not read_geometry(source).differences(read_geometry(made))
    if pictures:
        assert np.array_equal(np.asarray(Image.open(made)), labels[:, :, 0].T)
        assert read_geometry(made).spaced == bool(dpi)
    elif suffix == ".nii.gz":
        assert nib.load(made).shape == (COLUMNS, ROWS)
    else:
        assert sitk.ReadImage(str(made)).GetSize() == (COLUMNS, ROWS)


def test_maps_on_a_picture_are_nifti(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    with open_maps(tmp_path / "maps.nii.gz", (COLUMNS, ROWS, 1, 2), like=source) as fill:
        fill((slice(None),) * 4, np.ones((COLUMNS, ROWS, 1, 2), np.float16))
    assert nib.load(tmp_path / "maps.nii.gz").shape == (COLUMNS, ROWS, 1, 2)


@pytest.mark.parametrize(("labels", "words"), [(np.zeros((4, 4, 2), np.uint8), "one slice"),
                                               (np.full((4, 4, 1), 70_000), "cannot")])  # fmt: skip
def test_what_a_picture_cannot_hold_is_refused(tmp_path: Path, labels: npt.NDArray[Any], words: str) -> None:
    source = picture(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(OutputError, match=words):
        write_volume(tmp_path / "labels.png", labels, like=source)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_label_map_with_a_palette_holds_its_numbers(tmp_path: Path) -> None:
    numbers = Image.fromarray(LABELS[:, :, 0].T.copy())
    numbers.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    numbers.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png").array, LABELS)
    assert slab_reader(tmp_path / "a.png").channels == 3  # as an image it is in colour


def test_a_grey_label_map_saved_in_colours_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.repeat(LABELS[:, :, 0].T[..., None], 3, axis=-1))
    assert np.array_equal(read_labels(tmp_path / "a.png").array, LABELS)


def several(path: Path) -> None:
    page = Image.fromarray(GREY)
    page.save(path, save_all=True, append_images=[page])


def transparent(path: Path) -> None:
    Image.fromarray(np.dstack([GREY, GREY])).save(path)


def cmyk(path: Path) -> None:
    Image.new("CMYK", (4, 4)).save(path)


def deep_colours(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 4, 3), np.uint16), isVector=True), str(path))


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.tif", several, "holds 2 pictures"),
        ("a.png", transparent, "is transparent in places"),
        ("a.tif", cmyk, "of the kind CMYK"),
        ("a.png", deep_colours, "colours of 16 bits"),
        ("a.tif", deep_colours, "colours of 16 bits|is not a readable image"),
        ("a.png", lambda p: p.write_text("patient,age"), "is not a readable image"),
        ("a.png", lambda p: p.touch(), "is empty"),
        ("a.png", lambda p: os.mkfifo(p), "is a named pipe"),
        ("a.png", lambda p: None, "no such file"),
    ],
)
def test_a_picture_that_cannot_be_read_as_it_is_is_told(
    tmp_path: Path, name: str, make: Any, words: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError, match=words):
        read_volume(tmp_path / name)


def test_a_label_map_in_jpeg_or_in_colours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="JPEG changes the values"):
        read_labels(picture(tmp_path / "a.jpg"))
    with pytest.raises(DataError, match="a label map has 3 axes"):
        read_labels(picture(tmp_path / "a.png", np.dstack([GREY, GREY.T.reshape(GREY.shape), GREY])))


NOISE = np.random.default_rng(0).integers(0, 10, (64, 64)).astype(np.uint8)
WITH_CHECKSUMS = {
    "png": ("a.png", {}, 60),
    "png, 16 bits": ("a.png", {}, 60),
    "tif": ("a.tif", {"compression": "tiff_adobe_deflate"}, 16),
}


@pytest.mark.parametrize("name", WITH_CHECKSUMS)
def test_damaged_pixels_are_never_read(tmp_path: Path, name: str) -> None:
    file, about, begin = WITH_CHECKSUMS[name]
    pixels = NOISE.astype(np.uint16) * 300 if "16" in name else NOISE
    path = picture(tmp_path / file, pixels, **about)
    good = path.read_bytes()
    for seed in range(60):
        chance = np.random.default_rng(seed)
        at = int(chance.integers(begin, len(good) - 300))
        flipped = good[:at] + bytes([good[at] ^ 1 << int(chance.integers(8))]) + good[at + 1 :]
        for bad in (flipped, good[:at], good[:at] + bytes(200) + good[at + 200 :]):
            path.write_bytes(bad)
            with pytest.raises(DataError, match=str(path)):
                read_volume(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_any_damage_is_read_or_told(tmp_path: Path, name: str) -> None:
    path = picture(tmp_path / name, NOISE)
    good = path.read_bytes()
    for seed in range(100):
        chance = np.random.default_rng(seed)
        content = bytearray(good)
        for _ in range(int(chance.integers(1, 5))):
            content[int(chance.integers(len(content)))] = int(chance.integers(256))
        path.write_bytes(content)
        try:
            read_volume(path)
        except DataError:
            continue


def test_beside_volumes_pictures_are_previews(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.JPG")
    assert [path.name for path in look_into(tmp_path).volumes] == ["a.png", "b.JPG"]
    of_two_axes(tmp_path / "c.nii.gz")
    assert [path.name for path in look_into(tmp_path).volumes] == ["c.nii.gz"]
