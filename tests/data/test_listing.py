import os
from pathlib import Path

import pytest

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.data.listing import JsonFile, check_cases, parse_channels, parse_labels, splits_from_folds


def labels_and_faults(value):
    faults: list[str] = []
    return parse_labels(value, "here", faults).labels, faults


def test_labels_by_name_and_by_value_are_the_same():
    assert labels_and_faults({"background": 0, "liver": 1}) == labels_and_faults(
        {"0": "background", "1": "liver"}
    )


def test_background_is_added_where_it_is_not_named():
    assert labels_and_faults({"liver": 6}) == ({"background": 0, "liver": 6}, [])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"background": 0}, "only the background"),
        ({"background": 1, "liver": 2}, "must be 0"),
        ({"whole": [1, 2]}, "regions_class_order"),
        ({"whole": [0, 1]}, "holds 0"),
        ({"liver": 1, "spleen": 1}, "repeats"),
        ({"liver": -1}, "whole number"),
        ({"liver": 2, "ignore": 1}, "above 2"),
        ({"liver": 1, "ignore": [2, 3]}, "above 1"),
        ([], "missing"),
    ],
)
def test_faulty_labels_are_named(value, message):
    assert message in "\n".join(labels_and_faults(value)[1])


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}


def test_regions_are_read_as_nnunet_writes_them():
    faults: list[str] = []
    found = parse_labels(REGIONS, "here", faults, [1, 2, 3])
    assert faults == []
    assert found.labels == {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}
    assert (found.region_order, found.ignore) == ((1, 2, 3), 4)


ONE_EACH = {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}


def test_a_list_of_one_value_is_that_value():
    regions = {name: [value] if isinstance(value, int) else value for name, value in REGIONS.items()}
    assert parse_labels(regions, "here", [], [1, 2, 3]) == parse_labels(REGIONS, "here", [], [1, 2, 3])
    assert parse_labels(REGIONS | {"enhancing": [3, 3]}, "here", [], [1, 2, 3]).labels["enhancing"] == 3


def test_lists_of_one_value_each_are_no_regions_as_in_nnunet():
    faults: list[str] = []
    found = parse_labels({name: [value] for name, value in ONE_EACH.items()}, "here", faults)
    assert (found, faults) == (parse_labels(ONE_EACH, "here", []), [])


def test_an_ignore_label_that_is_a_class_is_told_once():
    _, (fault,) = labels_and_faults({"liver": 1, "ignore": 1})
    assert "`ignore` has value 1; it must be one value above 1" in fault


def test_a_written_value_belongs_to_its_region():
    faults: list[str] = []
    parse_labels(REGIONS, "here", faults, [1, 1, 3])
    assert faults == ["here: `regions_class_order` has 1 for core, which holds (2, 3)"]


def test_an_ignore_label_is_no_class():
    found = parse_labels({"background": 0, "liver": 1, "ignore": 2}, "here", [])
    assert (found.labels, found.ignore) == ({"background": 0, "liver": 1}, 2)


def test_channels_keep_their_numbers_order():
    assert parse_channels({"1": "T2", "0": "T1"}, "here", []) == ("T1", "T2")


def test_channels_that_do_not_count_from_0_are_a_fault():
    faults: list[str] = []
    parse_channels({"1": "T1"}, "here", faults)
    assert "counting from 0" in faults[0]


def test_faulty_json_is_named_with_line_and_column(tmp_path):
    (tmp_path / "d.json").write_text('{\n  "a": 1,,\n}')
    with pytest.raises(DataError, match=r"d\.json:2:10: not valid JSON"):
        JsonFile.read(tmp_path / "d.json")


def test_two_cases_with_one_name_name_both_files(tmp_path):
    faults: list[str] = []
    paths = [tmp_path / "a.nii", tmp_path / "a.mha"]
    for path in paths:
        path.touch()
    check_cases([Case("a", (path,)) for path in paths], faults)
    assert len(faults) == 1
    assert all(str(path) in faults[0] for path in paths)


def test_a_label_that_is_an_image_is_a_fault(tmp_path):
    faults: list[str] = []
    a, b, seg = (tmp_path / name for name in ("a.nii", "b.nii", "b_seg.nii"))
    for path in (a, b, seg):
        path.touch()
    cases = [Case("a", (a,), tmp_path / "c" / ".." / "a.nii"), Case("b", (b,), seg), Case("c", (seg,), b)]
    check_cases(cases, faults, Path("cases.csv"))
    wrong = [fault for fault in faults if "is an image, and the label of case" in fault]
    assert len(wrong) == 3
    assert "the label of case 'a' in cases.csv; name the file of its label, or none" in wrong[0]


def test_every_missing_file_is_listed(tmp_path):
    faults: list[str] = []
    check_cases([Case("a", (tmp_path / "a.nii",), tmp_path / "b.nii")], faults)
    assert [f.split(":")[0] for f in faults] == [str(tmp_path / "a.nii"), str(tmp_path / "b.nii")]


def test_fold_numbers_hold_out_their_own_cases():
    first, second = splits_from_folds({"a": 0, "b": 1, "c": 0})
    assert (first.train, first.validation) == (("b",), ("a", "c"))
    assert (second.train, second.validation) == (("a", "c"), ("b",))


def test_a_case_whose_name_is_no_text_is_a_fault(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.nii")
    path.touch()
    faults: list[str] = []
    check_cases([Case(path.stem, (path,))], faults)
    assert len(faults) == 1
    assert "is no text in UTF-8; rename its files" in faults[0]
