"""manifest.jsonl and manifest.parquet: what a manifest says of its cases, as a table with a row for each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import Case
from medfuse.core.board import is_set_aside
from medfuse.core.offline import import_offline
from medfuse.infer.away import Away

if TYPE_CHECKING:
    from medfuse.core.engine import Engine

JSONL, PARQUET = "manifest.jsonl", "manifest.parquet"
_LISTS = ("inputs", "input_sha256", "files", "file_sha256", "weights", "warnings")
"""Columns of several values in each row."""
COLUMNS = (
    *("case", "state", "reason", *_LISTS[:-1], "runtime", "precision", "device", "threads"),
    *("medfuse", "host", "pid", "written", "seconds", "peak_bytes", "warnings"),
)
"""Those of every row, whatever became of the case; others are there where somebody says so."""
_NUMBERS = {"threads": "int64", "pid": "int64", "peak_bytes": "int64", "seconds": "float64"}
"""Columns of numbers, even where no case has one, by their kind in Parquet."""


def record_files() -> tuple[str, ...]:
    """What is written: Parquet too, where pyarrow is installed."""
    try:
        import_offline("pyarrow.parquet")
    except ImportError:
        return (JSONL,)
    return (JSONL, PARQUET)


def rows(
    content: Mapping[str, Any], cases: Iterable[Case] = (), given: Mapping[str, Mapping[str, Any]] = {}
) -> Iterator[dict[str, Any]]:
    """A row for each case of a manifest, in the order of their names: nested values by their path with dots.
    Every row has the COLUMNS; what is not known there is None, or an empty list.

    `cases`: those of this call, by which images of cases that have failed are known, and `given`, what else
    is known of them.
    """
    images = {case.name: _places(case) for case in cases}
    kinds = (("done", content["cases"]), ("failed", content["failed"]), ("left", content["left"]))
    found = {name: (state, said) for state, kind in kinds for name, said in kind.items()}
    for name, (state, said) in sorted(found.items()):
        weights = list(content.get("weights") or ())
        if state == "done":
            yield _whole({"case": name, "state": state, "weights": weights, **_of_entry(said)})
        else:
            state = "set aside" if is_set_aside(said) else state
            about = {"inputs": images.get(name, []), "weights": weights}
            beside = flat({"given": given.get(name, {})})
            yield _whole({"case": name, "state": state, "reason": said, **about, **beside})


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: [] if name in _LISTS else None for name in COLUMNS} | dict(row)


def _places(case: Case) -> list[str]:
    if isinstance(case, Away):
        return [str(told["file"]) for told in case.told()]
    return [str(image.absolute()) for image in case.images]


def _of_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a finished case, flat."""
    inputs, files = entry.get("inputs") or (), entry.get("files") or {}
    own = ("inputs", "file", "files", "engines", "unlike_training")
    return {
        "inputs": [one["file"] for one in inputs],
        "input_sha256": [one["sha256"] for one in inputs if "sha256" in one],
        "files": list(files),
        "file_sha256": [known["sha256"] for known in files.values() if isinstance(known, Mapping)],
        **_engine(entry.get("engines") or ()),
        **flat({key: said for key, said in entry.items() if key not in own}),
        "warnings": list(entry.get("unlike_training") or ()),
    }


def _engine(engines: Sequence[Engine]) -> dict[str, Any]:
    """`runtime`, `precision` and what else says what ran the networks; where they differ, all of them, and
    of numbers, as of threads, the largest."""
    keys = dict.fromkeys(
        key for engine in engines for key, said in engine.items() if isinstance(said, str | int)
    )
    return {key: _together([e[key] for e in engines if key in e]) for key in keys}


def _together(said: Sequence[Any]) -> str | int:
    if all(isinstance(one, int) and not isinstance(one, bool) for one in said):
        return max(said)
    return ", ".join(dict.fromkeys(map(str, said)))


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`, however deep."""
    made: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{before}{key}"
        made |= flat(inner, f"{name}.") if isinstance(inner, Mapping) else {name: inner}
    return made


def write_jsonl(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row, allow_nan=False)}\n" for row in table)


def write_parquet(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """The COLUMNS, and one for each other key of any row; text where its values are of several kinds."""
    arrow, parquet = import_offline("pyarrow"), import_offline("pyarrow.parquet")
    names = dict.fromkeys([*COLUMNS, *(key for row in table for key in row)])
    columns = {name: _column(arrow, name, [row.get(name) for row in table]) for name in names}
    parquet.write_table(arrow.table(columns), path)


def _column(arrow: Any, name: str, values: Sequence[Any]) -> Any:
    if name in _LISTS:
        lists = [[_text(one) for one in value or ()] for value in values]
        return arrow.array(lists, arrow.list_(arrow.string()))
    if name in _NUMBERS or any(value is not None and not isinstance(value, str) for value in values):
        with suppress(arrow.ArrowException, OverflowError, UnicodeError):
            return arrow.array(values, _NUMBERS.get(name))
    return arrow.array([None if value is None else _text(value) for value in values], arrow.string())


def _text(value: Any) -> str:
    """As Parquet can hold it: paths may hold bytes that are no text."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace").decode()


WRITERS = {JSONL: write_jsonl, PARQUET: write_parquet}
