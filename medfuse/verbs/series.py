"""`medfuse series`: which DICOM series there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfuse.core.errors import DataError
from medfuse.core.result import Result
from medfuse.core.text import aligned, by
from medfuse.volumes.dicom.files import without_image
from medfuse.volumes.dicom.index import index_of
from medfuse.volumes.dicom.series import ALL, Scans, Series, find_series
from medfuse.volumes.folders import not_there

_HEADINGS = ("case", "modality", "description", "voxels", "mm", "files")


def series_table(paths: Sequence[Path], scans: Scans = ALL) -> Result:
    """A row for each series, what was left out, and why a series is no volume. Raises DataError for none."""
    if lacking := [not_there(path) for path in paths if not path.exists()]:
        raise DataError(*(f"{line}; check the path" for line in lacking))
    found = [find_series(path, scans) for path in paths]
    notes = [note for one in found for note in one.notes]
    if not scans.wanted:
        used = {one.place for each in found for series in each.series for one in series.instances}
        notes += [line for path in paths for line in without_image(path, used)]
    rows = [(_row(series), series) for one in found for series in one.series]
    if not rows:
        where = ", ".join(map(str, paths))
        which, remedy = "", "check the path"
        if scans.wanted:
            which, remedy = " that meets the conditions", "see without --series what there is"
        raise DataError(*notes, f"{where}: no DICOM series here{which}; {remedy}")
    told = [_told(series) for _, series in rows]
    lines = [*(line for one in told for line in one), *notes]
    text = [aligned([_HEADINGS, *(row for row, _ in rows)]), *(["", *lines] if lines else [])]
    found_series = [{**_facts(series), "notes": said} for (_, series), said in zip(rows, told)]
    return Result("\n".join(text), {"series": found_series, "notes": notes})


def _facts(series: Series) -> dict[str, Any]:
    says, stack = series.instance.says, series.stack
    return {
        "case": series.name,
        "modality": says.get("Modality", ""),
        "description": says.get("SeriesDescription", ""),
        "voxels": stack.shape,
        "spacing_mm": None
        if stack.faults
        else [sum(x * x for x in c) ** 0.5 for c in stack.affine[:3, :3].T],
        "files": len(series.instances),
    }


def _row(series: Series) -> tuple[str, ...]:
    says = series.instance.says
    stack = series.stack
    mm = [sum(x * x for x in column) ** 0.5 for column in stack.affine[:3, :3].T]
    return (
        series.name,
        says.get("Modality", ""),
        says.get("SeriesDescription", "")[:40],
        by(stack.shape),
        "" if stack.faults else "×".join(f"{x:.4g}" for x in mm),
        str(len(series.instances)),
    )


def _told(series: Series) -> list[str]:
    try:
        return [f"{series.name}: {note}" for note in index_of(series).notes]
    except DataError as error:
        return [f"{series.name}: cannot be used: {line}" for line in error.lines]
