"""A table of cases: one row each, with the paths of its images and its label."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from medfuse.api import Case, Dataset, DatasetInfo
from medfuse.core.errors import DataError, did_you_mean
from medfuse.core.json_text import read_text, shortened
from medfuse.data.listing import (
    Classes,
    check_cases,
    is_whole,
    notes_on,
    parse_labels,
    splits_from_folds,
    with_dicom,
)
from medfuse.volumes.dicom.index import as_volume_file
from medfuse.volumes.endings import stem
from medfuse.volumes.label_maps import as_label_path

CASE_COLUMNS = ("case", "subjectid", "name")


class Csv(Dataset):
    """A CSV file with one row per case; paths are relative to it.

    Columns, in any case of letters: `case` (or SubjectID; else the image's name), `image` or one per channel
    (Channel_0, Channel_1, … or the names in `channels`), `label`, and optionally `fold`, and `patient`, whose
    cases never both train and judge. A case without a label is one for pseudo-labels.

        data: {use: csv, root: scans, file: cases.csv, classes: {liver: 1}, channels: [CT]}
    """

    file: str = Field("cases.csv", description="the table, relative to `root`")
    classes: Classes
    regions_class_order: tuple[int, ...] = Field(
        (),
        description="where classes are regions, or segments of DICOM labels overlap: the value to write for "
        "each, later ones over earlier ones",
    )
    channels: tuple[str, ...] = Field((), description="channel names; CT is normalised as CT")

    def read(self) -> DatasetInfo:
        faults: list[str] = []
        path = self.root / self.file
        header, rows = _read_table(path)
        given = parse_labels(self.classes, "data.classes", faults, self.regions_class_order)
        columns = self._columns(path, header, faults)
        if faults:
            raise DataError(*faults)
        cases, folds = [], {}
        for line, row in rows:
            if case := columns.case(row, path, line, faults):
                cases.append(case)
                if columns.fold is not None and case.label is not None:
                    folds[case.name] = _fold(row[columns.fold], f"{path}:{line}", faults)
        if not rows:
            faults.append(f"{path}: holds no rows; add one per case")
        fit, told = with_dicom(cases, given, self.regions_class_order, faults)
        check_cases(fit, faults, path)
        if faults:
            raise DataError(*faults)
        names = self.channels or tuple(header[i] for i in columns.images)
        return DatasetInfo(
            fit,
            given.labels,
            names,
            splits_from_folds(folds),
            region_order=given.region_order,
            ignore=given.ignore,
            label_table=given.table,
            notes=(*told, *notes_on(self.root, fit, known=[path])),
        )

    def _columns(self, path: Path, header: list[str], faults: list[str]) -> "_Columns":
        lower = [h.lower() for h in header]
        known = {*CASE_COLUMNS, "image", "label", "fold", "patient", *(c.lower() for c in self.channels)}
        for name in lower:
            if name not in known and not re.fullmatch(r"channel_\d+", name):
                odd = f"{shortened(repr(name))}{did_you_mean(name, known)}"
                faults.append(
                    f"{path}:1: unknown column {odd} (known: {', '.join(sorted(known))}, Channel_0)"
                )
        faults.extend(
            f"{path}:1: column {shortened(repr(n))} is given twice; keep one"
            for n in {n for n in lower if lower.count(n) > 1}
        )
        numbered = sorted((n for n in lower if re.fullmatch(r"channel_\d+", n)), key=lambda n: int(n[8:]))
        named = [c.lower() for c in self.channels if c.lower() in lower]
        images = numbered or named or [n for n in lower if n == "image"]
        if not images or "label" not in lower:
            faults.append(
                f"{path}:1: needs a column `image` (or Channel_0, …) and a column `label`; add them"
            )
        if self.channels and len(images) not in (1, len(self.channels)):
            faults.append(
                f"{path}:1: {len(images)} image columns, {len(self.channels)} `channels`; give as many"
            )
        case = next((lower.index(n) for n in CASE_COLUMNS if n in lower), None)
        fold, patient = (lower.index(n) if n in lower else None for n in ("fold", "patient"))
        label = lower.index("label") if "label" in lower else 0
        return _Columns(case, tuple(map(lower.index, images)), label, fold, patient)


@dataclass(frozen=True)
class _Columns:
    """Which column holds what."""

    name: int | None
    images: tuple[int, ...]
    label: int
    fold: int | None
    patient: int | None

    def case(self, row: list[str], path: Path, line: int, faults: list[str]) -> Case | None:
        needed = {
            "image": self.images,
            "case": () if self.name is None else (self.name,),
            "patient": () if self.patient is None else (self.patient,),
        }
        empty = [what for what, columns in needed.items() if any(not row[i] for i in columns)]
        if empty:
            faults.append(f"{path}:{line}: has no {' and no '.join(empty)}; fill in the row, or drop it")
            return None
        try:
            images = tuple(as_volume_file(path.parent / row[i]) for i in self.images)
            label = as_label_path(path.parent / row[self.label]) if row[self.label] else None
        except DataError as error:
            faults.extend(f"{path}:{line}: {text}" for text in error.lines)
            return None
        return Case(
            stem(images[0]) if self.name is None else row[self.name],
            images,
            label,
            None if self.patient is None else row[self.patient],
        )


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each row with its line number; short rows are filled up with empty cells."""
    text = read_text(path, remedy="set `data.root` and `data.file` to the table of cases, in UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    faults = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        rows = [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: cannot be read as CSV ({error}); save the table as UTF-8 CSV"
        ) from None
    for line, row in rows:
        if odd := [cell for cell in row if not cell.isprintable()]:
            faults.append(
                f"{path}:{line}: {shortened(repr(odd[0]))} holds unprintable characters; remove them"
            )
        if more := [cell for cell in row[len(header) :] if cell]:
            faults.append(
                f"{path}:{line}: {shortened(repr(more[0]))} stands beyond the {len(header)} columns of the "
                "header; put cells with commas between quotes, or add the column"
            )
    if faults:
        raise DataError(*faults)
    return header, [(line, row + [""] * (len(header) - len(row))) for line, row in rows]


def _fold(cell: str, where: str, faults: list[str]) -> int:
    if not is_whole(cell):
        faults.append(f"{where}: fold is {shortened(repr(cell))}; give a whole number from 0")
        return -1
    return int(cell)
