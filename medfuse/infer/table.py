"""A CSV or Parquet file of cases: a row each, with the places of its images, and columns that go along."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfuse.api import Case
from medfuse.core.errors import DataError, did_you_mean, lacks
from medfuse.core.json_text import read_text, shortened
from medfuse.core.offline import import_offline
from medfuse.core.storage import Item, Storage, is_remote, local_path
from medfuse.core.text import is_text
from medfuse.infer.away import Away
from medfuse.volumes.dicom.index import as_volume_file
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.endings import ENDINGS, ending, stem

NAMES = ("case", "name", "subjectid")
IMAGE = "image"
_MOST_BYTES = 2**30
_MORE = "\0more"
"""What a row holds beyond its columns."""
_MANY = "has more cells than there are columns; mend it"
_SIGNS = {",": "commas", ";": "`;`", "\t": "tabs", "|": "`|`"}
"""What may stand between cells."""


@dataclass(frozen=True)
class Table:
    """Cases, and what other columns say of each."""

    cases: list[Case] = field(default_factory=list)
    given: dict[str, dict[str, Any]] = field(default_factory=dict)


def is_table(place: str | Path) -> bool:
    return str(place).lower().endswith((".csv", ".tsv", ".parquet")) and not is_remote(place)


def read_table(path: Path, channels: Sequence[str], scans: Scans = ALL) -> Table:
    """Columns in any case of letters: `case` or `name` (else the image's name), and `image`, or one for each
    of the `channels`, called as it is or channel_0, channel_1, …; images are paths, relative to the file,
    folders of DICOM, or addresses. Raises DataError with every fault, by row."""
    header, rows = _read(path)
    columns = {name.strip().lower(): name for name in header}
    name_in = next((columns[name] for name in NAMES if name in columns), None)
    images_in, faults = _image_columns(path, columns, channels)
    made, seen = Table(), dict[str, int]()
    for number, row in rows:
        wrong = [_MANY] if _MORE in row else []
        said = [str(row.get(column) or "").strip() for column in images_in]
        if empty := [column for column, value in zip(images_in, said) if not value]:
            wrong.append(f"{', '.join(empty)}: is empty; name the image there")
        name = str(row.get(name_in) or "").strip() if name_in else _stem(said[0]) if said else ""
        if name_in and not name:
            wrong.append(f"{name_in}: is empty; name the case there, or leave the column out")
        elif name and name in seen:
            wrong.append(f"case {name!r} is in row {seen[name]} too; give each case one row")
        elif images_in and said[0] and (fault := _fault_of_name(name)):
            wrong.append(fault)
        seen.setdefault(name, number)
        try:
            made.cases.append(_case(name, [one for one in said if one], path.parent, scans))
        except DataError as error:
            wrong += error.lines
        faults += [f"{path}:{number}: {fault}" for fault in wrong]
        used = (*images_in, name_in)
        made.given[name] = {key: row[key] for key in header if key not in used and row.get(key) is not None}
    if not rows and images_in:
        faults.append(f"{path}: holds no rows; add one for each case")
    if faults:
        raise DataError(*faults)
    return made


def _image_columns(
    path: Path, columns: Mapping[str, str], channels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Those of the images, in the order of channels; or what is wrong with them."""
    if IMAGE in columns:
        return [columns[IMAGE]], []
    for names in ([c.lower() for c in channels], [f"channel_{n}" for n in range(len(channels))]):
        if any(name in columns for name in names):
            missing = [name for name in names if name not in columns]
            if missing:
                known = did_you_mean(missing[0], columns)
                return [], [
                    f"{path}:1: has no column {', '.join(missing)}{known}; the model needs {len(names)}"
                ]
            return [columns[name] for name in names], []
    wanted = f"{IMAGE!r}" if len(channels) == 1 else f"{IMAGE!r}, or one for each of {', '.join(channels)}"
    near = did_you_mean(IMAGE, columns)
    return [], [f"{path}:1: has no column {wanted}{near} (there are {', '.join(columns) or 'none'})"]


def _fault_of_name(name: str) -> str:
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0\n") or name.startswith("."):
        return f"{shortened(name)!r}: is no name of a file; write one without / and a dot in front"
    return "" if is_text(name) else f"{shortened(name)!r}: is no text in UTF-8; rename the case"


def _case(name: str, said: Sequence[str], folder: Path, scans: Scans) -> Case:
    remote = [is_remote(one) for one in said]
    if any(remote):
        if not all(remote):
            raise DataError(f"case {name!r}: some of its images are here and some are not; put them together")
        items = [_item(one) for one in said]
        return Away(name, tuple(Path(item.name) for item in items), origins=tuple((item,) for item in items))
    paths, faults = [], []
    for one in said:
        path = folder / local_path(one)
        if not path.exists():
            faults.append(f"{path}: no such file; check the path, which starts at the table")
            continue
        try:
            paths.append(as_volume_file(path, scans))
        except DataError as error:
            faults += error.lines
    faults += [_unread(path) for path in paths if ending(path) is None]
    if faults:
        raise DataError(*faults)
    return Case(name, tuple(paths))


def _unread(path: Path) -> str:
    if path.is_dir():
        return (
            f"{path}: is a folder without DICOM files; give the file of the image, or a folder that holds "
            "one DICOM series"
        )
    return f"{path}: unknown ending; medfuse reads {', '.join(ENDINGS)}"


def _item(address: str) -> Item:
    found = Storage(address).items()
    if len(found) != 1:
        raise DataError(f"{address}: holds {len(found)} objects, where one image is wanted; name the file")
    return found[0]


def _stem(said: str) -> str:
    return stem(Path(said.partition("?")[0].rstrip("/").rpartition("/")[2]))


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """The names of columns, and each row with its number in the file, where the header is the first."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    text = read_text(path, remedy="give a table in UTF-8", most_bytes=_MOST_BYTES)
    sign = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_MORE, delimiter=sign, strict=True)
        header = [*(reader.fieldnames or ())]
        _refuse_other_signs(path, header, sign)
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}: is no table: {error}; write it anew as CSV") from error
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path}:1: column {', '.join(map(repr, twice))} is there twice; rename one")
    return header, rows


def _refuse_other_signs(path: Path, header: Sequence[str], sign: str) -> None:
    """Raises DataError where one column stands for several that something else is between."""
    found = [other for other in _SIGNS if other != sign and len(header) == 1 and other in header[0]]
    if found:
        raise DataError(
            f"{path}:1: {_SIGNS[found[0]]} found between the columns, where {_SIGNS[sign]} are wanted; write "
            f"the table with {_SIGNS[sign]}" + ("" if sign == "\t" else ", or with tabs as .tsv")
        )


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    try:
        parquet = import_offline("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"{path}: {lacks(error)}") from error
    if not path.is_file():
        raise DataError(f"{path}: is no file; give a table of cases")
    try:
        table = parquet.read_table(path)
        return [*table.column_names], [*enumerate(table.to_pylist(), 1)]
    except Exception as error:
        raise DataError(f"{path}: is no Parquet file ({shortened(str(error))}); write it anew") from error
