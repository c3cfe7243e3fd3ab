import numpy as np
import pytest
from PIL import Image

from medfuse.core.errors import DataError
from medfuse.core.label_table import entries_of
from medfuse.viewer.packing import pack
from medfuse.viewer.scene import Scene, draw, names_of

ALL = 2**25


def test_volumes_are_those_of_the_full_scan(files):
    scene = Scene("c", files.scan(), {"labels": files.labels()})
    full, coarse = draw(scene, ALL), draw(scene, 500)
    assert coarse.scan.size <= 500
    assert [c.ml for c in coarse.classes] == [c.ml for c in full.classes]
    assert full.classes[0].ml == (pytest.approx(6 * 6 * 5 * 12 / 1000),)
    assert "stands for" in coarse.notes[0]
    assert full.notes == ()


def test_a_class_is_found_where_it_says(files):
    drawn = draw(Scene("c", files.scan(), {"labels": files.labels()}), ALL)
    for place, one in enumerate(drawn.classes, 1):
        assert drawn.layers[0][one.at] == place


def test_values_that_nobody_named_have_a_name_and_a_colour(files):
    entries = entries_of({"background": 0, "liver": 1})
    drawn = draw(Scene("c", files.scan(), {"labels": files.labels()}, entries), ALL)
    assert [c.name for c in drawn.classes] == ["liver", "value 4"]
    assert len({c.color for c in drawn.classes}) == 2


def test_a_value_of_nested_regions_is_called_after_the_innermost():
    entries = entries_of({"whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}, region_order=(1, 2, 3))
    assert [name for name, _ in names_of(entries).values()] == ["whole", "core", "enhancing"]


def test_voxels_that_nobody_annotated_are_told(files):
    drawn = draw(Scene("c", files.scan(), {"labels": files.labels()}, entries_of({"a": 1}), ignore=4), ALL)
    assert [c.name for c in drawn.classes] == ["a", "not annotated"]


@pytest.mark.parametrize("value", [255, 300, 70_000, 2**31])
def test_large_values_of_label_maps_are_numbered_anew(files, value):
    array = np.zeros((5, 4, 3), np.uint32)
    array[1, 1, 1], array[2, 2, 2] = value, 3
    drawn = draw(Scene("c", files.scan(shape=(5, 4, 3)), {"labels": files.write("l.nii", array)}), ALL)
    assert [c.value for c in drawn.classes] == [3, value]
    assert drawn.layers[0].dtype == np.uint8
    assert drawn.layers[0].max() == 2


def test_many_classes_take_two_bytes(files):
    array = np.arange(20 * 16 * 12, dtype=np.int32).reshape(20, 16, 12)
    drawn = draw(Scene("c", files.scan(), {"labels": files.write("l.nii", array)}), ALL)
    assert drawn.layers[0].dtype == np.uint16
    assert pack(drawn).about["classes"][300]["value"] == 301


def test_an_empty_label_map_shows_the_scan(files):
    drawn = draw(
        Scene("c", files.scan(), {"labels": files.write("l.nii", np.zeros((20, 16, 12), np.uint8))}), ALL
    )
    assert drawn.classes == ()
    assert pack(drawn).about["classes"] == []


def test_whole_numbers_in_floats_are_labels(files):
    array = np.zeros((20, 16, 12), np.float32)
    array[3:5] = 2
    assert [
        c.value for c in draw(Scene("c", files.scan(), {"l": files.write("l.nii", array)}), ALL).classes
    ] == [2]


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda files: files.labels(shape=(20, 16, 11)), "shape (20, 16, 11) differs from (20, 16, 12)"),
        (lambda files: files.labels(affine=np.diag([-2, 2, 3.5, 1])), "spacing"),
        (lambda files: files.write("l.nii", np.full((20, 16, 12), 0.4, np.float32)), "not whole numbers"),
        (lambda files: files.write("l.nii", np.full((20, 16, 12), np.nan, np.float32)), "not whole numbers"),
        (lambda files: files.write("l.nii", np.ones((20, 16, 12, 2), np.uint8)), "3 axes"),
        (lambda files: files.write("l.nii", np.full((20, 16, 12), -1, np.int16)), "below 0"),
    ],
)
def test_labels_that_cannot_be_shown_are_refused(files, write, told):
    with pytest.raises(DataError, match=r"^[^\n]*$") as refused:
        draw(Scene("c", files.scan(), {"labels": write(files)}), ALL)
    assert told in str(refused.value)


@pytest.mark.parametrize("flips", [(0,), (1,), (2,), (0, 1, 2)])
def test_labels_that_are_stored_the_other_way_round_are_where_they_are(files, flips):
    import nibabel

    image = nibabel.load(files.labels())
    back = np.eye(4)
    for axis in flips:
        back[axis, axis], back[axis, 3] = -1, image.shape[axis] - 1
    turned = np.flip(np.asarray(image.dataobj), flips).transpose(1, 0, 2)
    swapped = image.affine @ back @ np.eye(4)[[1, 0, 2, 3]]
    other = files.write("turned.nii", turned, swapped)
    ours, theirs = (draw(Scene("c", files.scan(), {"l": path}), ALL) for path in (files.labels(), other))
    np.testing.assert_array_equal(ours.layers[0], theirs.layers[0])


def test_of_several_channels_one_is_drawn(files):
    array = np.stack([np.zeros((5, 4, 3)), np.full((5, 4, 3), 7)], axis=3).astype(np.int16)
    scan = files.write("s.nii", array)
    assert draw(Scene("c", scan), ALL).scan.max() == 0
    second = draw(Scene("c", scan, channel=1), ALL)
    assert second.scan.max() == 7
    assert second.notes == ("channel 2 of 2 is drawn",)
    with pytest.raises(DataError, match="none of number 3"):
        draw(Scene("c", scan, channel=2), ALL)


def test_colours_of_pictures_are_drawn_as_grey(files):
    path = files.folder / "p.png"
    Image.fromarray(np.full((6, 8, 3), (30, 60, 90), np.uint8)).save(path)
    drawn = draw(Scene("c", path), ALL)
    assert drawn.scan.shape == (8, 6, 1)
    assert set(np.unique(drawn.scan)) == {60}


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_dark_and_told(files, fill):
    array = np.linspace(3, 9, 60, dtype=np.float32).reshape(5, 4, 3)
    array[0] = fill
    packed = pack(draw(Scene("c", files.write("s.nii", array)), ALL))
    assert packed.notes == ("12 of its voxels are not numbers, and drawn as the darkest",)
    low, high = packed.about["window"]
    assert 3 <= low < high <= 9


def test_few_numbers_among_many_that_are_none_are_seen(files):
    array = np.full((120, 110, 100), np.nan, np.float32)
    array[101, 101, 51:59] = np.linspace(3, 9, 8) + 0.25
    packed = pack(draw(Scene("c", files.write("s.nii", array, np.eye(4))), ALL))
    low, high = packed.about["window"]
    assert 3 <= low < high <= 9.5


def test_a_scan_without_any_number_is_shown_dark(files):
    packed = pack(draw(Scene("c", files.write("s.nii", np.full((5, 4, 3), np.nan, np.float32))), ALL))
    assert "60 of its voxels" in packed.notes[0]


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        (np.arange(-1024, 3000), 0),  # HU, as they are
        (np.arange(256), 0),
        (np.linspace(0, 3e-5, 900), 1e-9),
        (np.linspace(-5e6, 5e6, 900), 400),
        ([*np.linspace(0, 250, 899), 1.7e6], 0.5),  # one bright voxel takes no grey away from the others
    ],
)
def test_values_are_kept(files, values, exact):
    import base64
    import gzip

    array = np.asarray(values, np.float32).reshape(-1, 4, 1)
    packed = pack(draw(Scene("c", files.write("s.nii", array, np.eye(4))), 10**9))
    raw = gzip.decompress(base64.b64decode(packed.parts[0]))
    kind = np.uint8 if len(raw) == array.size else np.int16
    back = np.frombuffer(raw, kind) * packed.about["slope"] + packed.about["inter"]
    wanted = np.clip(array.ravel(order="F"), *np.percentile(array, (0, 99.8)))
    assert np.abs(np.minimum(back, wanted.max()) - wanted).max() <= exact


def test_a_page_has_nothing_of_the_headers(files):
    import nibabel

    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4))
    image.header["descrip"] = b"DOE^JOHN"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"born 1970"))
    nibabel.save(image, files.folder / "s.nii")
    packed = pack(draw(Scene("c", files.folder / "s.nii"), ALL))
    import base64

    for text in ("DOE", "born", str(files.folder)):
        assert text not in str(packed.about)
        assert text.encode() not in base64.b64decode(packed.about["header"])


def test_ct_is_known_by_its_values_or_said(files):
    ct, mr = files.scan(), files.write("mr.nii", np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    assert pack(draw(Scene("c", ct), ALL)).about["ct"]
    assert not pack(draw(Scene("c", mr), ALL)).about["ct"]
    assert pack(draw(Scene("c", mr, ct=True), ALL)).about["window"] == (-160.0, 240.0)


def unsure(files, **kwargs):
    values = np.zeros((20, 16, 12), np.float32)
    values[2:5, 3:6, 4:6], values[10:12, 3:6, 4:6], values[0, 0, 0] = 0.4, 1.0, np.nan
    return files.write("u.nii.gz", values, **kwargs)


def test_uncertainty_is_a_layer_of_steps_after_the_labels(files):
    scene = Scene("c", files.scan(), {"labels": files.labels()}, unsure=unsure(files))
    drawn = draw(scene, ALL)
    names = [one.name for one in drawn.classes]
    assert names[-5:] == [
        f"unsure {a:g} to {b:g}" for a, b in zip((0.1, 0.3, 0.5, 0.7, 0.9), (0.3, 0.5, 0.7, 0.9, 1))
    ]
    voxel_ml = drawn.classes[0].ml[0] / (6 * 6 * 5)
    ml = {one.name: one.ml[0] for one in drawn.classes[-5:]}
    assert ml["unsure 0.3 to 0.5"] == pytest.approx(18 * voxel_ml)
    assert ml["unsure 0.9 to 1"] == pytest.approx(12 * voxel_ml)
    for place, one in enumerate(drawn.classes, 1):
        if one.at:
            assert (drawn.layers[1] if one.value < 0 else drawn.layers[0])[one.at] == place
    assert (drawn.layers[1] > 0).sum() == 30


def test_labels_are_drawn_as_they_are_without_uncertainty(files):
    plain = pack(draw(Scene("c", files.scan(), {"labels": files.labels()}), ALL))
    both = pack(draw(Scene("c", files.scan(), {"labels": files.labels()}, unsure=unsure(files)), ALL))
    assert both.parts[:2] == plain.parts
    assert both.about["classes"][:-5] == plain.about["classes"]
    assert (plain.about["layers"], plain.about["compared"]) == (["labels"], 1)
    assert (both.about["layers"], both.about["compared"]) == (["labels", "uncertainty"], 1)


def test_uncertainty_on_another_grid_is_refused(files):
    other = unsure(files, affine=np.diag([9.0, 1, 1, 1]))
    with pytest.raises(DataError, match=r"u\.nii\.gz"):
        draw(Scene("c", files.scan(), {"labels": files.labels()}, unsure=other), ALL)
