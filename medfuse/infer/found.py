"""All cases that are meant by `--input`: of folders and files, of tables, and of addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.infer.away import Scratch, find_away
from medfuse.infer.cases import find_inputs, left_out_of
from medfuse.infer.table import is_table, read_table
from medfuse.volumes.dicom.series import ALL, Scans


@dataclass(frozen=True)
class Found:
    """Cases in the order of their names; lines about what no case has; what else a table says of them."""

    cases: list[Case]
    left_out: tuple[str, ...]
    given: dict[str, dict[str, Any]]


def find_cases(
    here: Sequence[Path],
    away: Sequence[str | Path],
    channels: Sequence[str],
    scans: Scans = ALL,
    scratch: Scratch | None = None,
    known: Sequence[Case] = (),
) -> Found:
    """Those of files, folders and tables that are `here`, and of the addresses `away`, and those that are
    `known`. Raises DataError with every fault of a kind of input."""
    folders = [path for path in here if not is_table(path)]
    tables = [read_table(path, channels, scans) for path in here if is_table(path)]
    given = {name: said for table in tables for name, said in table.given.items()}
    cases, lines = [*known, *(case for table in tables for case in table.cases)], list[str]()
    if away:
        assert scratch is not None, "what is elsewhere is fetched into a scratch folder"
        found, said = find_away(away, folders, channels, scans, scratch)
        cases, lines = [*cases, *found], said
    elif folders:
        found = find_inputs(folders, channels, scans)
        cases, lines = [*cases, *found], [*left_out_of(folders, found)]
    names = [case.name for case in cases]
    if len({*names}) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(
            *(f"case {name!r}: is meant by two of the inputs; give one of them" for name in twice)
        )
    return Found(sorted(cases, key=lambda case: case.name), tuple(lines), given)
