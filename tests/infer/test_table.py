"""A table of cases: which images are meant, what goes along, and every fault by its row."""

import csv
import json
import shutil
from pathlib import Path

import fsspec
import pytest

from medfuse.core.errors import DataError
from medfuse.infer.away import Away
from medfuse.infer.table import is_table, read_table


def write(path: Path, *rows: dict) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{name}.nii.gz").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_paths_start_at_the_table_and_other_columns_go_along(images, ending):
    table = write(
        images / f"cases.{ending}",
        {"Case": "one", "Image": "scans/a.nii.gz", "age": "50", "site": "x"},
        {"Case": "two", "Image": str(images / "scans" / "b.nii.gz"), "age": "", "site": "y"},
    )
    made = read_table(table, ["CT"])
    assert [(case.name, case.images) for case in made.cases] == [
        ("one", (images / "scans" / "a.nii.gz",)),
        ("two", (images / "scans" / "b.nii.gz",)),
    ]
    assert made.given == {"one": {"age": "50", "site": "x"}, "two": {"age": "", "site": "y"}}


def test_without_names_a_case_is_called_as_its_image(images):
    made = read_table(write(images / "cases.csv", {"image": "scans/a.nii.gz"}), ["CT"])
    assert [case.name for case in made.cases] == ["a"]


@pytest.mark.parametrize("names", [("T1", "flair"), ("channel_0", "Channel_1")])
def test_a_column_for_each_channel_in_the_order_of_the_model(images, names):
    row = {names[1]: "scans/b.nii.gz", names[0]: "scans/a.nii.gz", "name": "p"}
    (case,) = read_table(write(images / "cases.csv", row), ["t1", "FLAIR"]).cases
    assert [path.name for path in case.images] == ["a.nii.gz", "b.nii.gz"]


def test_parquet_says_the_same(images):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow comes with the extra tables")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra tables")
    rows = [{"case": "one", "image": "scans/a.nii.gz", "age": 50}]
    parquet.write_table(arrow.Table.from_pylist(rows), images / "cases.parquet")
    made = read_table(images / "cases.parquet", ["CT"])
    assert made.given == {"one": {"age": 50}}
    (images / "cases.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is no Parquet file"):
        read_table(images / "cases.parquet", ["CT"])


def test_images_may_be_elsewhere(images):
    fsspec.filesystem("memory").pipe("/far/a.nii.gz", b"x")
    made = read_table(write(images / "cases.csv", {"image": "memory://far/a.nii.gz"}), ["CT"])
    (case,) = made.cases
    assert isinstance(case, Away)
    assert case.told()[0]["file"] == "memory://far/a.nii.gz"


def test_every_fault_is_told_with_its_row(images):
    table = write(
        images / "cases.csv",
        {"case": "one", "image": "scans/a.nii.gz"},
        {"case": "two", "image": "scans/none.nii.gz"},
        {"case": "three", "image": ""},
        {"case": "one", "image": "scans/b.nii.gz"},
        {"case": "../four", "image": "scans/b.nii.gz"},
        {"case": "five", "image": "cases.csv"},
    )
    with pytest.raises(DataError) as told:
        read_table(table, ["CT"])
    lines = "\n".join(told.value.lines)
    for line in (
        f"{table}:3: {images}/scans/none.nii.gz: no such file",
        f"{table}:4: image: is empty",
        f"{table}:5: case 'one' is in row 2 too",
        f"{table}:6: '../four': is no name of a file",
        f"{table}:7: {images}/cases.csv: unknown ending",
    ):
        assert line in lines
    assert len(told.value.lines) == 5


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "has no column 'image'"),
        ("case,imag\na,b\n", "has no column 'image'; did you mean 'imag'?"),
        ("image\n", "holds no rows"),
        ("image,image\na,b\n", "column 'image' is there twice"),
        ("image\na,b,c\n", "cases.csv:2: has more cells than there are columns"),
        ('image\n"a\n', "is no table"),
    ],
)
def test_what_is_no_table_is_a_line(tmp_path, text, line):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(DataError) as told:
        read_table(tmp_path / "cases.csv", ["CT"])
    assert line in str(told.value)


def test_a_channel_that_is_missing_is_a_line(images):
    with pytest.raises(DataError, match=r"has no column flair.*the model needs 2"):
        read_table(write(images / "cases.csv", {"t1": "scans/a.nii.gz"}), ["t1", "flair"])
    assert is_table("x/cases.CSV")
    assert not is_table("s3://bucket/cases.csv")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_infer_takes_a_table_and_its_columns_are_in_the_rows(finished_run, medfuse, tmp_path, workers):
    shutil.copy(finished_run.data / "imagesTr" / "cube_00.nii.gz", tmp_path / "x.nii.gz")
    shutil.copy(finished_run.data / "imagesTr" / "cube_01.nii.gz", tmp_path / "y.nii.gz")
    (tmp_path / "z.nii.gz").write_bytes(b"no volume")
    rows = ({"case": f"p{n}", "image": f"{n}.nii.gz", "age": str(n)} for n in "xyz")
    table = write(tmp_path / "cases.csv", *rows)
    words = ("infer", finished_run.folder, "-i", table, "-o", tmp_path / "out", "-q")
    said = medfuse(*words, "--workers", workers)
    assert said.code == 2
    assert "2 written" in said.out
    lines = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert {row["case"]: (row["state"], row["given.age"]) for row in lines} == {
        "px": ("done", "x"),
        "py": ("done", "y"),
        "pz": ("failed", "z"),
    }
    assert "2 were finished already" in medfuse(*words).out


def told_of(path: Path, text: str, channels: tuple[str, ...] = ("CT",)) -> tuple[str, ...]:
    path.write_text(text)
    with pytest.raises(DataError) as told:
        read_table(path, channels)
    return tuple(line.removeprefix(f"{path}:") for line in told.value.lines)


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_rows(images):
    (images / "empty").mkdir()
    rows = (
        "a,scans/a.nii.gz",
        "b,scans/b.nii.gz,more",
        ",scans/none.nii.gz",
        "a,scans/b.nii.gz",
        "c,empty",
        ",",
        "../d,scans/none.nii.gz,more",
    )
    lines = told_of(images / "cases.csv", "\n".join(("case,image", *rows)))
    wanted = (
        "3: has more cells",
        "4: case: is empty",
        f"4: {images}/scans/none.nii.gz: no such file",
        "5: case 'a' is in row 2 too",
        f"6: {images}/empty: is a folder without DICOM files; give the file of the image, or a folder",
        "7: image: is empty",
        "7: case: is empty",
        "8: has more cells",
        "8: '../d': is no name of a file",
        f"8: {images}/scans/none.nii.gz: no such file",
    )
    assert len(lines) == len(wanted)
    for line, start in zip(lines, wanted):
        assert line.startswith(start)


def test_a_column_that_lacks_hides_no_fault_of_rows(images):
    first, second = told_of(images / "cases.csv", "case,imag\na,b,c\n")
    assert "has no column 'image'" in first
    assert second.startswith("2: has more cells")


@pytest.mark.parametrize(
    ("name", "sign", "line"),
    [
        ("cases.csv", ";", "1: `;` found between the columns, where commas are wanted"),
        ("cases.csv", "\t", "1: tabs found between the columns, where commas are wanted"),
        ("cases.tsv", ",", "1: commas found between the columns, where tabs are wanted"),
        ("cases.tsv", ";", "1: `;` found between the columns, where tabs are wanted"),
    ],
)
def test_another_sign_between_columns_is_named(images, name, sign, line):
    (said,) = told_of(images / name, f"case{sign}image\na{sign}scans/a.nii.gz\n")
    assert said.startswith(line)
