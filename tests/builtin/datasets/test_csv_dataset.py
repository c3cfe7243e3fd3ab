import pytest

from medfuse.core.errors import DataError


@pytest.fixture
def table(dataset, files):
    """A function for `use: csv` on a table with the given lines; files a, b and seg exist."""

    def table(*lines, **fields):
        root = files("a.nii", "b.nii", "seg.nii", **{"cases.csv": "\n".join(lines)})
        return dataset("csv", root=root, classes={"organ": 1}, **fields)

    return table


def faults(plugin):
    with pytest.raises(DataError) as caught:
        plugin.read()
    return str(caught.value)


def test_a_row_is_a_case(table):
    (case,) = table("case,image,label", "p1,a.nii,seg.nii").read().cases
    assert (case.name, case.images[0].name, case.label.name) == ("p1", "a.nii", "seg.nii")


def test_numbered_columns_are_channels_in_order_of_number(table):
    info = table("SubjectID,Channel_1,Channel_0,Label", "p1,b.nii,a.nii,seg.nii").read()
    assert [path.name for path in info.cases[0].images] == ["a.nii", "b.nii"]


def test_channel_names_may_be_columns(table):
    info = table("t2,t1,label", "b.nii,a.nii,seg.nii", channels=("t1", "t2")).read()
    assert [path.name for path in info.cases[0].images] == ["a.nii", "b.nii"]


def test_without_names_a_case_is_called_as_its_image(table):
    assert table("image,label", "a.nii,seg.nii").read().cases[0].name == "a"


def test_a_fold_column_makes_splits(table):
    splits = table("image,label,fold", "a.nii,seg.nii,0", "b.nii,seg.nii,1").read().splits
    assert [split.validation for split in splits] == [("a",), ("b",)]


def test_an_unknown_column_is_named_with_the_one_that_was_meant(table):
    assert "unknown column 'lable'; did you mean 'label'?" in faults(table("image,lable", "a.nii,seg.nii"))


def test_every_faulty_row_is_named_with_its_line(table):
    found = faults(table("image,label", "gone.nii,seg.nii", ",seg.nii", "a.nii,seg.nii", "a.nii,seg.nii"))
    assert "cases.csv:3: has no image" in found
    assert "gone.nii: no such file" in found
    assert "two cases are named a" in found


@pytest.mark.parametrize("fold", ["x", "-1", "²", "1.5", "9" * 5000, ""])
def test_a_fold_that_is_no_number_is_named(table, fold):
    assert f"cases.csv:2: fold is '{fold[:60]}" in faults(table("image,label,fold", f"a.nii,seg.nii,{fold}"))


def test_a_cell_beyond_the_columns_is_named(table):
    assert "cases.csv:3: 'x' stands beyond the 2 columns" in faults(
        table("image,label", "a.nii,seg.nii,,", "b.nii,seg.nii,x")
    )


def test_an_empty_table_is_refused(table):
    assert "holds no rows" in faults(table("image,label"))


def test_a_missing_table_is_named(dataset, tmp_path):
    assert "cases.csv: no such file" in faults(dataset("csv", root=tmp_path, classes={"organ": 1}))


def test_a_binary_file_is_refused(dataset, tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert "cases.csv:1:1: is no text in UTF-8" in faults(dataset("csv", root=tmp_path, classes={"organ": 1}))


def test_a_patient_column_says_whose_a_case_is(table):
    cases = table("case,image,label,patient", "s1,a.nii,seg.nii,ann", "s2,b.nii,seg.nii,ann").read().cases
    assert [case.patient for case in cases] == ["ann", "ann"]
