import dataclasses

import nibabel
import numpy as np
import pytest

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.report.figures import colour
from medfuse.report.overlays import OverlayCase, Plane, colors_of, cut, draw_overlay, overlay_png
from medfuse.volumes.volume import Volume

SHAPE = (7, 8, 6)
AFFINE = np.diag([1.0, 1.5, 3.0, 1.0])
LABELS = {"background": 0, "organ": 1}


def volumes(image, labels, affine=AFFINE):
    geometry = Geometry(image.shape, affine)
    return Volume(image, geometry), Volume(labels, geometry), Volume(labels, geometry)


def blob() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:7, 3:5] = 1
    labels[2, 3:6, 2:5] = 1
    return labels


def planes(image, labels=None, affine=AFFINE) -> dict[str, Plane]:
    labels = blob() if labels is None else labels
    return {p.name: p for p in cut(*volumes(image, labels, affine), LABELS)}


def ramp(axis: int) -> np.ndarray:
    """Grows towards the patient's right, front or head."""
    return np.moveaxis(
        np.broadcast_to(np.arange(SHAPE[axis]), [*np.delete(SHAPE, axis).tolist(), SHAPE[axis]]), -1, axis
    )


@pytest.mark.parametrize("name", ["axial", "coronal"])
def test_the_patient_s_right_is_on_the_left(name):
    seen = planes(ramp(0))[name].image
    assert (np.diff(seen, axis=1) == -1).all()


def test_the_front_is_on_top_in_axial_and_on_the_left_in_sagittal_slices():
    seen = planes(ramp(1))
    assert (np.diff(seen["axial"].image, axis=0) == -1).all()
    assert (np.diff(seen["sagittal"].image, axis=1) == -1).all()


@pytest.mark.parametrize("name", ["coronal", "sagittal"])
def test_the_head_is_on_top(name):
    assert (np.diff(planes(ramp(2))[name].image, axis=0) == -1).all()


def test_pixels_have_the_size_of_the_voxels():
    sizes = {name: p.pixel_mm for name, p in planes(ramp(0)).items()}
    assert sizes == {"axial": (1.5, 1.0), "coronal": (3.0, 1.0), "sagittal": (3.0, 1.5)}


def test_slices_go_through_the_largest_area():
    seen = planes(ramp(0))["sagittal"]
    areas = blob().sum(axis=(1, 2))
    assert (seen.reference > 0).sum() == areas.max()
    assert (seen.image == areas.argmax()).all()


def test_without_a_label_the_middle_is_shown():
    assert (planes(ramp(2), np.zeros(SHAPE, np.uint8))["axial"].image == SHAPE[2] // 2).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_with_its_affine_gives_the_same_picture(store, axis):
    image = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    pictures = []
    for name, turn, affine in (("a", lambda v: v, AFFINE), ("b", lambda v: np.flip(v, axis), AFFINE @ flip)):
        files = store(f"{name}/i.nii", turn(image), affine), store(f"{name}/l.nii", turn(blob()), affine)
        pictures.append(overlay_png(OverlayCase("case", files[0], files[1], files[1]), LABELS))
    assert pictures[0] == pictures[1]


def test_a_transpose_with_its_affine_gives_the_same_planes():
    image = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    swap = AFFINE[:, [2, 0, 1, 3]]
    turned = planes(image.transpose(2, 0, 1), blob().transpose(2, 0, 1), swap)
    for name, plane in planes(image).items():
        assert np.array_equal(plane.image, turned[name].image)
        assert plane.pixel_mm == turned[name].pixel_mm


def test_another_prediction_gives_another_picture(store):
    files = store("i.nii", np.zeros(SHAPE, np.float32)), store("l.nii", blob())
    both = OverlayCase("case", files[0], files[1], files[1])
    alone = OverlayCase("case", files[0], files[1])
    assert overlay_png(both, LABELS) != overlay_png(alone, LABELS)


def test_a_map_on_another_grid_is_refused(store):
    image, labels = store("i.nii", np.zeros(SHAPE, np.float32)), store("l.nii", blob(), np.diag([1, 1, 2, 1]))
    with pytest.raises(DataError, match=r"l\.nii: spacing .* cannot be overlaid"):
        overlay_png(OverlayCase("case", image, labels), LABELS)


def test_the_first_channel_of_a_4_d_image_is_shown(store, tmp_path):
    channels = np.random.default_rng(0).random((*SHAPE, 2)).astype(np.float32)
    label = store("l.nii", blob())
    pictures = []
    for name, array in (("four.nii", channels), ("first.nii", channels[..., 0])):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
        pictures.append(overlay_png(OverlayCase("case", tmp_path / name, label), LABELS))
    assert pictures[0] == pictures[1]


def test_a_constant_image_and_an_infinite_voxel_can_be_drawn(store, tmp_path):
    flat = np.full(SHAPE, 5, np.float32)
    flat[0, 0, 0] = np.inf
    case = OverlayCase("_$x", store("i.nii", flat), store("l.nii", blob()), ct=False)
    draw_overlay(tmp_path / "o.png", case, {"_$y": 1})
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_a_label_has_the_colour_that_was_given_and_others_one_of_few():
    given = {"b": "#010203"}
    assert colors_of({"background": 0, "a": 1, "b": 2}, given) == [colour(0), "#010203"]
    many = {"background": 0, **{f"organ {n}": n for n in range(1, 100)}, "b": 100}
    assert len(set(colors_of(many, given))) == 100
    assert colors_of(many, given)[-1] == "#010203"


def test_a_given_colour_is_in_the_picture(store):
    image = store("image.nii", np.zeros(SHAPE, np.float32))
    case = OverlayCase("x", image, prediction=store("label.nii", blob()))
    plain, given = (
        overlay_png(dataclasses.replace(case, colors=colors), LABELS) for colors in ({}, {"organ": "#ff00ff"})
    )
    assert plain != given
