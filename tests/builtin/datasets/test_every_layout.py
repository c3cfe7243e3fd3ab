"""What all layouts keep: no label is needed, capitals are read, and nothing is left out in silence."""

import json
import shutil

import pytest

from medfuse.core.errors import DataError
from medfuse.train.pseudo import unlabelled_cases
from medfuse.train.settings import PseudoLabelSettings

LAYOUTS = ("folder", "csv", "decathlon", "nnunet", "bids")
IMAGES = {"folder": "images", "csv": "images", "decathlon": "imagesTr", "nnunet": "imagesTr"}
IMAGES |= {"bids": "anat"}
LABELS = {"folder": "labels", "csv": "labels", "decathlon": "labelsTr", "nnunet": "labelsTr"}
LABELS |= {"bids": "derivatives/manual"}
BEFORE = {"bids": "sub-"}
IMAGE_ENDS = {"nnunet": "_0000", "bids": "_T1w"}
LABEL_ENDS = {"bids": "_dseg"}


def image_of(use, name, ending=".nii.gz"):
    return f"{IMAGES[use]}/{BEFORE.get(use, '')}{name}{IMAGE_ENDS.get(use, '')}{ending}"


def label_of(use, name, ending=".nii.gz"):
    return f"{LABELS[use]}/{BEFORE.get(use, '')}{name}{LABEL_ENDS.get(use, '')}{ending}"


@pytest.fixture
def layout(files, dataset):
    """A function for a dataset of labelled and bare cases in one of the layouts."""

    def layout(use, labelled="ab", bare="", *, ending=".nii.gz", own=()):
        endings = dict.fromkeys(labelled + bare, ending) | dict(own)
        image = {n: image_of(use, n, e) for n, e in endings.items()}
        label = {n: label_of(use, n, endings[n]) for n in labelled}
        entries = [{"image": image[n], **({"label": label[n]} if n in label else {})} for n in image]
        rows = ["case,image,label", *(f"{n},{image[n]},{label.get(n, '')}" for n in image)]
        texts = {
            "folder": {},
            "bids": {},
            "csv": {"cases.csv": "\n".join(rows)},
            "decathlon": {"dataset.json": json.dumps(DESCRIBED | {"training": entries})},
            "nnunet": {"dataset.json": json.dumps(DESCRIBED)},
        }[use]
        root = files(*image.values(), *label.values(), **texts)
        more = {"classes": {"organ": 1}, "channels": ("CT",)} if use in ("folder", "csv", "bids") else {}
        return dataset(use, root=root, **more)

    return layout


DESCRIBED = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}


@pytest.mark.parametrize("use", LAYOUTS)
def test_cases_without_a_label_are_read_and_told_and_pseudo_labels_take_them(use, layout):
    info = layout(use, "abc", "de").read()
    bare = [f"{BEFORE.get(use, '')}{name}" for name in "de"]
    assert [case.name for case in info.cases if case.label is None] == bare
    assert any(f"2 cases ({', '.join(bare)}) have no label" in note for note in info.notes)
    found = unlabelled_cases(info, PseudoLabelSettings(cases="unlabelled"))
    assert [case.name for case in found] == bare


@pytest.mark.parametrize("use", LAYOUTS)
def test_where_all_is_used_nothing_is_told(use, layout):
    assert layout(use).read().notes == ()


@pytest.mark.parametrize("use", LAYOUTS)
@pytest.mark.parametrize("capital", [".NII.GZ", ".Nii.gz", ".MHA", ".NRRD"])
def test_endings_in_capitals_are_read(use, layout, capital):
    info = layout(use, "abc", own={"b": capital}).read()
    assert [case.name.removeprefix("sub-") for case in info.cases] == ["a", "b", "c"]
    assert all(case.label for case in info.cases)


@pytest.mark.parametrize("use", LAYOUTS)
@pytest.mark.parametrize("side", [IMAGES, LABELS])
def test_links_without_target_are_named(use, layout, side):
    plugin = layout(use, "ab")
    path = next(plugin.root.glob(f"{side[use]}/*b[._]*"))
    path.unlink()
    path.symlink_to("../archive/not-fetched")
    with pytest.raises(DataError) as caught:
        plugin.read()
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: is a link to ../archive/not-fetched, which is not there")


@pytest.mark.parametrize("use", LAYOUTS)
@pytest.mark.parametrize("name", ["case07", "notes.txt"])
def test_other_links_without_target_are_named_too_as_a_case_may_be_missing(use, layout, name):
    plugin = layout(use, "ab")
    path = plugin.root / IMAGES[use] / name
    path.symlink_to("../archive/not-fetched")
    with pytest.raises(DataError, match=r"is a link to \.\./archive/not-fetched, which is not there"):
        plugin.read()


@pytest.mark.parametrize("name", ["labelsTr", "imagesTs"])
def test_a_folder_that_is_a_link_without_target_is_named(layout, name):
    plugin = layout("nnunet", "ab")
    if (plugin.root / name).is_dir():
        shutil.rmtree(plugin.root / name)
    (plugin.root / name).symlink_to("gone")
    with pytest.raises(DataError, match=f"{name}: is a link to gone"):
        plugin.read()


@pytest.mark.parametrize("use", LAYOUTS)
def test_what_stands_beside_the_cases_is_one_line_per_kind(use, layout, files):
    plugin = layout(use)
    here = IMAGES[use]
    files(*(f"{here}/{n}" for n in ("c.dcm", "d.dcm", "e.mgz", "f.nii.gz.part", "._a.nii.gz", "more/g.nii")))
    (plugin.root / here / "empty").mkdir()
    notes = plugin.read().notes
    kinds = ("2 DICOM files", "e.mgz", "f.nii.gz.part", "2 folders", "._a.nii.gz")
    assert len(notes) == len(kinds)
    for kind, note in zip(kinds, notes):
        assert kind in note or any(kind in other for other in notes)


@pytest.mark.parametrize("use", ["csv", "decathlon"])
def test_volumes_that_no_list_names_are_told(use, layout, files):
    plugin = layout(use)
    files(f"{IMAGES[use]}/z.nii.gz", f"{LABELS[use]}/z.nii.gz")
    (note,) = plugin.read().notes
    assert "2 volumes" in note
    assert "z.nii.gz" in note


@pytest.mark.parametrize("use", ["folder", "nnunet", "bids"])
def test_two_files_of_one_case_are_refused_and_names_that_differ_in_capitals_are_two(use, layout, files):
    plugin = layout(use, "aA")
    assert len(plugin.read().cases) == 2
    files(image_of(use, "a", ".nii"))
    with pytest.raises(DataError, match=r"a(_0000|_T1w)?\.nii"):
        plugin.read()


@pytest.mark.parametrize("use", LAYOUTS)
def test_a_label_without_image_is_refused_where_the_disk_lists_cases(use, layout, files):
    plugin = layout(use)
    files(label_of(use, "z"))
    if use in ("csv", "decathlon"):
        assert "z.nii.gz" in plugin.read().notes[0]
    else:
        with pytest.raises(DataError, match="z"):
            plugin.read()
