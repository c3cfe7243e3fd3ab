import json

import pytest

from medfuse.core.errors import DataError

TEXT = json.dumps({"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1}})
WHOLE = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")


def faults(plugin):
    with pytest.raises(DataError) as caught:
        plugin.read()
    return str(caught.value)


def test_channels_are_grouped_by_case(dataset, files):
    info = dataset("nnunet", root=files(*WHOLE, **{"dataset.json": TEXT})).read()
    assert [path.name for path in info.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert (info.cases[0].name, info.channels) == ("a", ("T1", "T2"))


def test_a_label_may_have_another_ending(dataset, files):
    root = files(*WHOLE[:2], "labelsTr/a.nrrd", **{"dataset.json": TEXT})
    assert dataset("nnunet", root=root).read().cases[0].label.name == "a.nrrd"


def test_test_images_are_read_without_labels(dataset, files):
    root = files(*WHOLE, "imagesTs/b_0000.mha", "imagesTs/b_0001.mha", **{"dataset.json": TEXT})
    (case,) = dataset("nnunet", root=root).read().test_cases
    assert (case.name, case.label) == ("b", None)


def test_every_fault_is_listed(dataset, files):
    stray = (
        "imagesTr/b_0000.nii",
        "imagesTr/c.nii",
        "imagesTr/a_0002.nii",
        "labelsTr/d.nii",
        "labelsTr/a.nii",
    )
    found = faults(dataset("nnunet", root=files(*WHOLE, *stray, **{"dataset.json": TEXT})))
    assert "b_0001 is missing" in found
    assert "imagesTr/c.nii: its name does not end in a channel number" in found
    assert "a_0002.nii: channel 2 is not in dataset.json" in found
    assert "labelsTr/d.nii: has no image" in found
    assert "a second label of case a" in found


def test_no_images_says_what_is_looked_for(dataset, files):
    assert "imagesTr: no images named CASE_0000" in faults(
        dataset("nnunet", root=files(**{"dataset.json": TEXT}))
    )


def test_macos_companions_are_left_out(dataset, files):
    root = files(*WHOLE, "imagesTr/._a_0000.nii.gz", "labelsTr/._a.nii.gz", **{"dataset.json": TEXT})
    assert len(dataset("nnunet", root=root).read().cases) == 1


def test_a_picture_may_hold_all_colours(dataset, files):
    text = json.dumps({"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "a": 1}})
    root = files("imagesTr/a_0000.png", "labelsTr/a.png", **{"dataset.json": text})
    (case,) = dataset("nnunet", root=root).read().cases
    assert [path.name for path in case.images] == ["a_0000.png"]
