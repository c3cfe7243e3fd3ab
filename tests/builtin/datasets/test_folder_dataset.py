import pytest
from pydantic import ValidationError

from medfuse.core.errors import DataError


@pytest.fixture
def folder(dataset):
    """A function for `use: folder` with one class."""
    return lambda root, **fields: dataset("folder", root=root, classes={"organ": 1}, **fields)


def faults(plugin):
    with pytest.raises(DataError) as caught:
        plugin.read()
    return str(caught.value)


def test_images_and_labels_are_paired_by_stem(folder, files):
    info = folder(files("images/a.nii.gz", "images/b.mha", "labels/a.nii", "labels/b.nrrd")).read()
    assert [(c.name, c.images[0].name, c.label.name) for c in info.cases] == [
        ("a", "a.nii.gz", "a.nii"),
        ("b", "b.mha", "b.nrrd"),
    ]


def test_a_folder_per_case_gives_channels_in_order(folder, files):
    root = files("p1/t2.nii", "p1/t1.nii", "p1/seg.nii", "LICENSE.txt")
    info = folder(root, images=("{case}/t1.nii", "{case}/t2.nii"), labels="{case}/seg.nii").read()
    assert [(c.name, [p.name for p in c.images]) for c in info.cases] == [("p1", ["t1.nii", "t2.nii"])]
    assert len(info.channels) == 2


def test_stars_and_repeated_cases_are_understood(folder, files):
    root = files("s1/ct/s1_ct.nii.gz", "masks/s1/ct/s1_ct_seg-manual.nii.gz")
    info = folder(root, images="{case}/ct/{case}_ct.nii.gz", labels="masks/{case}/*/*_seg-*.nii.gz").read()
    assert [case.name for case in info.cases] == ["s1"]


def test_a_glob_takes_the_name_from_the_file(folder, files):
    info = folder(files("x/a.nii", "y/a.nii.gz"), images="x/*.nii", labels="y/*").read()
    assert [case.name for case in info.cases] == ["a"]


def test_what_no_case_has_is_told_on_every_level(folder, files):
    root = files("s1/ct/s1.nii", "s1/ct/x.mgz", "s1/mr/s1.nii", "s2/t1.nii", "LICENSE.txt", "seg/s1.nii")
    notes = folder(root, images="{case}/ct/{case}.nii", labels="seg/{case}.nii").read().notes
    assert [note.partition(": ")[2].partition(" are")[0].partition(" is")[0] for note in notes] == [
        "1 volume of another format (s1/ct/x.mgz)",
        "1 text or table (LICENSE.txt)",
        "2 folders (s2, with 1 .nii; s1/mr, with 1 .nii)",
    ]


def test_channel_names_decide(folder, files):
    root = files("images/a.nii", "labels/a.nii")
    assert folder(root, channels=("CT",)).read().channels == ("CT",)


def test_every_fault_is_listed(folder, files):
    root = files("images/a.nii", "images/a.mha", "labels/a.nii", "labels/lost.nii")
    found = faults(folder(root))
    assert "two cases are named a" in found
    assert "labels/lost.nii: case lost has no image" in found


def test_a_missing_channel_is_named(folder, files):
    root = files("p1/t1.nii", "p1/t2.nii", "p1/seg.nii", "p2/t1.nii", "p2/seg.nii")
    found = faults(folder(root, images=("{case}/t1.nii", "{case}/t2.nii"), labels="{case}/seg.nii"))
    assert "case p2 has no {case}/t2.nii" in found


def test_a_pattern_that_matches_nothing_is_shown(folder, files):
    assert "no file matches 'scans/{case}.*'" in faults(folder(files("labels/a.nii"), images="scans"))


@pytest.mark.parametrize("pattern", ["/etc/*", "a/**/b.nii", "", " "])
@pytest.mark.parametrize("field", ["images", "labels"])
def test_patterns_that_do_not_stay_below_the_root_are_refused(folder, tmp_path, field, pattern):
    with pytest.raises(ValidationError, match="is no pattern below"):
        folder(tmp_path, **{field: pattern})


@pytest.mark.parametrize("images", [".", "./", "./{case}.nii", "[ct]/*.*", "../{case}/"])
def test_odd_but_right_patterns_find_what_they_say(folder, files, images):
    inner = {"[ct]/*.*": "[ct]/a.nii", "../{case}/": None}.get(images, "a.nii")
    root = files(*filter(None, [inner]), "labels/a.nii")
    plugin = folder(root, images=images)
    if inner is None:
        assert "no file matches" in faults(plugin)
    else:
        assert [case.name for case in plugin.read().cases] == ["a"]


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1, "2"], {"a": 1}])
def test_classes_are_whole_numbers(dataset, tmp_path, value):
    with pytest.raises(ValidationError):
        dataset("folder", root=tmp_path, classes={"organ": value})


def test_a_missing_root_is_named(folder, tmp_path):
    assert "nowhere: no such folder" in faults(folder(tmp_path / "nowhere"))


def test_as_many_channels_as_patterns(folder, tmp_path):
    with pytest.raises(ValidationError, match="2 images patterns and 3 channels"):
        folder(tmp_path, images=("a", "b"), channels=("1", "2", "3"))


def test_ms_lesions_are_read_as_they_are(folder, real_data):
    channels = ("flair", "t1", "t1post", "t2")
    images = tuple(f"{{case}}/{channel}.nii.gz" for channel in channels)
    info = folder(
        real_data / "ms_lesions", images=images, labels="{case}/lesions.nii.gz", channels=channels
    ).read()
    assert [case.name for case in info.cases] == ["patient07", "patient19", "patient26"]


def test_a_bids_folder_is_read_as_it_is(folder, real_data):
    labels = "derivatives/labels/{case}/ct/*_seg-manual.nii.gz"
    info = folder(real_data / "spleen_bids", images="{case}/ct/*_ct.nii.gz", labels=labels).read()
    assert [case.name for case in info.cases] == ["sub-spleen2"]
