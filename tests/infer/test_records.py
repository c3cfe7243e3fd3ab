"""The table beside a manifest: a row for each case, whoever made it and whenever."""

import json
import logging
import sys
from pathlib import Path

import pytest

from medfuse.api import Case
from medfuse.core.board import set_aside
from medfuse.core.seal import seal
from medfuse.infer.ledger import Ledger
from medfuse.infer.records import COLUMNS, JSONL, PARQUET, flat, record_files, rows, write_parquet

ENTRY = {
    "engines": [{"runtime": "torch", "precision": "bf16", "versions": {"torch": "2.8"}}],
    "windows": 8,
    "seconds_in": {"reading": 0.5},
    "volumes_ml": {"liver": 1.5},
    "inputs": [{"file": "/scans/a.nii.gz", "bytes": 3, "modified_ns": 4, "sha256": "ab"}],
    "quality": {"liver": {"entropy": 0.1, "deep": {"er": 2}}},
    "unlike_training": ["another spacing"],
}


def ledger(folder: Path, *names: str, overwrite: bool = False) -> Ledger:
    cases = [Case(name, (folder / "scans" / f"{name}.nii.gz",)) for name in names]
    facts = {"weights": ["w1", "w2"]}
    return Ledger(
        cases,
        facts,
        folder,
        lambda now: None,
        lambda c: [f"{c.name}.nii.gz"],
        lambda c: {},
        overwrite=overwrite,
    )


def do(book: Ledger, *names: str) -> None:
    for case in book._cases:
        if case.name in names:
            with book.staged(case) as folder:
                (folder / f"{case.name}.nii.gz").write_text(case.name)
            book.done(case, ENTRY)


def table(folder: Path) -> dict[str, dict]:
    return {row["case"]: row for row in map(json.loads, (folder / JSONL).read_text().splitlines())}


def test_a_row_says_from_what_by_what_where_and_how_a_case_was_made(tmp_path):
    book = ledger(tmp_path, "a", "b", "c")
    do(book, "a")
    book.take_in(book._cases[1], {"state": "failed", "reason": set_aside(["its worker ended"] * 3)})
    book.take_in(book._cases[2], {"state": "left", "reason": "stays"})
    book.finish()
    made = table(tmp_path)
    row = made["a"]
    assert (row["state"], row["input_sha256"], row["weights"]) == ("done", ["ab"], ["w1", "w2"])
    assert (row["runtime"], row["precision"], row["seconds_in.reading"]) == ("torch", "bf16", 0.5)
    assert (row["volumes_ml.liver"], row["quality.liver.entropy"], row["quality.liver.deep.er"]) == (
        1.5,
        0.1,
        2,
    )
    assert row["warnings"] == ["another spacing"]
    assert row["file_sha256"] == [seal(tmp_path / "a.nii.gz").sha256]
    assert {"host", "pid", "medfuse", "written", "peak_bytes"} <= row.keys()
    assert (made["b"]["state"], made["c"]["state"]) == ("set aside", "left")
    assert made["b"]["inputs"] == [str(tmp_path / "scans" / "b.nii.gz")]
    assert "its worker ended" in made["b"]["reason"]


def test_rows_of_earlier_calls_stay(tmp_path):
    first = ledger(tmp_path, "a", "b")
    do(first, "a")  # and killed
    second = ledger(tmp_path, "b")
    do(second, "b")
    second.finish()
    third = ledger(tmp_path, "c")
    do(third, "c")
    third.finish()
    assert {*table(tmp_path)} == {"a", "b", "c"}


def test_parquet_says_what_the_lines_say(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra tables")
    book = ledger(tmp_path, "a", "b")
    do(book, "a")
    book.failed(book._cases[1], MemoryError())
    book.finish()
    read = parquet.read_table(tmp_path / PARQUET).to_pylist()
    lines = table(tmp_path)
    assert [row["case"] for row in read] == [*lines]
    for row in read:
        assert {k: v for k, v in row.items() if v not in (None, [])} == {
            k: v for k, v in lines[row["case"]].items() if v not in (None, [])
        }


@pytest.mark.parametrize("name", [JSONL, PARQUET])
def test_what_others_wrote_there_stays(name, tmp_path, caplog):
    if name not in record_files():
        pytest.skip("needs pyarrow")
    (tmp_path / name).write_text("mine")
    book = ledger(tmp_path, "a")
    do(book, "a")
    with caplog.at_level(logging.WARNING):
        book.finish()
    assert (tmp_path / name).read_text() == "mine"
    assert f"{name}: is not what medfuse wrote, and stays" in caplog.text
    over = ledger(tmp_path, "a", overwrite=True)
    do(over, "a")
    over.finish()
    assert (tmp_path / name).read_bytes() != b"mine"


def test_one_that_somebody_changed_stays_too(tmp_path):
    book = ledger(tmp_path, "a")
    do(book, "a")
    book.finish()
    with open(tmp_path / JSONL, "a") as file:
        file.write('{"case": "mine"}\n')
    again = ledger(tmp_path, "a")
    do(again, "a")
    again.finish()
    assert "mine" in table(tmp_path)


def test_without_pyarrow_there_are_the_lines_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    book = ledger(tmp_path, "a")
    do(book, "a")
    book.finish()
    assert not (tmp_path / PARQUET).exists()
    assert {*table(tmp_path)} == {"a"}
    assert not caplog.text


def test_columns_of_several_kinds_and_paths_that_are_no_text_are_text(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra tables")
    odd = [
        {"case": "a", "x": 1, "inputs": ["b\udcff"]},
        {"case": "b", "x": "one", "y": [1]},
        {"case": "c", "x": None},
    ]
    write_parquet(tmp_path / "t.parquet", odd)
    read = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["x"] for row in read] == ["1", "one", None]
    assert [row["y"] for row in read] == [None, [1], None]
    assert read[0]["inputs"] == ["b?"]
    write_parquet(tmp_path / "none.parquet", [])
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_nested_values_are_told_by_their_path():
    assert flat({"a": {"b": {"c": 1}, "d": 2}, "e": {}}) == {"a.b.c": 1, "a.d": 2}
    assert list(rows({"cases": {}, "failed": {}, "left": {}})) == []


@pytest.mark.parametrize("done", ["ab", "a", ""])
def test_the_documented_columns_are_always_there(done, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra tables")
    book = ledger(tmp_path, "a", "b")
    do(book, *done)
    for case in book._cases:
        if case.name not in done:
            book.failed(case, MemoryError())
    book.finish()
    for row in table(tmp_path).values():
        assert [*row][: len(COLUMNS)] == [*COLUMNS]
    columns = parquet.read_schema(tmp_path / PARQUET)
    assert columns.names[: len(COLUMNS)] == [*COLUMNS]
    kinds = {name: str(columns.field(name).type) for name in ("threads", "reason", "seconds", "pid")}
    assert kinds == {"threads": "int64", "reason": "string", "seconds": "double", "pid": "int64"}


def test_threads_are_a_number_and_of_several_engines_the_most():
    engines = [{"runtime": "torch", "threads": 2}, {"runtime": "onnx", "threads": 8}]
    content = {"cases": {"a": {"engines": engines}}, "failed": {}, "left": {}}
    (row,) = rows(content)
    assert (row["threads"], row["runtime"]) == (8, "torch, onnx")
