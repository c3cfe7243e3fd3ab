import json

import pytest

from medfuse.core.errors import DataError

LABELS = {"0": "background", "1": "liver"}


def listing(*entries, **more):
    given = {"labels": LABELS, "modality": {"0": "CT"}, "training": list(entries), **more}
    return json.dumps(given, indent=1)


def entry(name, **more):
    return {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz", **more}


@pytest.fixture
def two_cases(files):
    """A function that writes dataset.json beside the volumes of cases a and b."""

    def two_cases(text=None, **more):
        volumes = [f"{folder}/{n}.nii.gz" for folder in ("imagesTr", "labelsTr") for n in "ab"]
        return files(*volumes, **{"dataset.json": text or listing(entry("a"), entry("b"))}, **more)

    return two_cases


def lines(plugin):
    with pytest.raises(DataError) as caught:
        plugin.read()
    return caught.value.lines


def test_cases_labels_and_channels_are_read(dataset, two_cases):
    info = dataset("decathlon", root=two_cases()).read()
    assert [case.name for case in info.cases] == ["a", "b"]
    assert all(case.label.is_file() and case.images[0].is_file() for case in info.cases)
    assert (info.labels, info.channels) == ({"background": 0, "liver": 1}, ("CT",))


def test_folds_beside_the_list_are_read(dataset, two_cases):
    root = two_cases(**{"splits_final.json": '[{"train": ["a"], "val": ["b"]}]'})
    (split,) = dataset("decathlon", root=root).read().splits
    assert (split.train, split.validation) == (("a",), ("b",))


def test_fold_keys_become_splits(dataset, two_cases):
    root = two_cases(listing(entry("a", fold=0), entry("b", fold=1)))
    splits = dataset("decathlon", root=root).read().splits
    assert [s.validation for s in splits] == [("a",), ("b",)]


def test_a_list_of_images_is_one_case_of_several_channels(dataset, files):
    images = ["a_t1.nii", "a_t2.nii"]
    text = listing({"image": images, "label": "a.nii"}, channel_names={"0": "T1", "1": "T2"})
    (case,) = dataset("decathlon", root=files(*images, "a.nii", **{"dataset.json": text})).read().cases
    assert [path.name for path in case.images] == images


def test_macos_companions_are_left_out(dataset, two_cases):
    root = two_cases(listing(entry("a"), entry("._a"), entry("b")))
    assert [case.name for case in dataset("decathlon", root=root).read().cases] == ["a", "b"]


def test_absent_test_images_are_left_out(dataset, two_cases):
    root = two_cases(listing(entry("a"), entry("b"), test=["./imagesTs/c.nii.gz", "d.nii"]), **{"d.nii": ""})
    info = dataset("decathlon", root=root).read()
    assert [case.name for case in info.test_cases] == ["d"]
    assert any("1 test image (c) not there" in note for note in info.notes)


def test_every_fault_is_listed(dataset, two_cases):
    odd = {"image": "./imagesTr/b.nii.gz", "label": 5}
    text = listing(entry("a"), odd, entry("a"), entry("gone"), labels={"0": "background"})
    found = "\n".join(lines(dataset("decathlon", root=two_cases(text))))
    for fault in (
        "only the background",
        "b.nii.gz: its label is 5",
        "two cases are named a",
        "imagesTr/gone.nii.gz: no",
    ):
        assert fault in found


def test_an_odd_label_is_named_with_its_line(dataset, two_cases):
    root = two_cases(listing(entry("a"), {"image": "./imagesTr/b.nii.gz", "label": ["x"]}))
    line = (root / "dataset.json").read_text().split("\n").index('   "image": "./imagesTr/b.nii.gz",') + 1
    assert lines(dataset("decathlon", root=root))[0].startswith(f"{root / 'dataset.json'}:{line}: ")


def test_a_missing_list_says_where_root_should_point(dataset, tmp_path):
    assert "data.root" in lines(dataset("decathlon", root=tmp_path))[0]


def test_faulty_folds_are_a_fault(dataset, two_cases):
    assert (
        "splits_final.json:1:2"
        in lines(dataset("decathlon", root=two_cases(**{"splits_final.json": "[,"})))[0]
    )


def test_hippocampus_is_read_as_it_is(dataset, real_data):
    info = dataset("decathlon", root=real_data / "hippocampus").read()
    assert (len(info.cases), len(info.splits)) == (200, 5)
    assert info.labels == {"background": 0, "Anterior": 1, "Posterior": 2}


def test_the_phantoms_are_read_as_they_are(dataset, pytestconfig):
    info = dataset("decathlon", root=pytestconfig.rootpath / "sample_data").read()
    assert info.channels == ("CT",)
    assert len(info.cases) >= 10
