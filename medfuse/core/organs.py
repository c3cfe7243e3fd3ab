"""Common organs, tissues and findings by the names that datasets give them, with code and colour."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medfuse.core.codes import LEFT, RIGHT, Code

LIST = Path(__file__).with_name("organs.csv")
"""name, SNOMED CT code (none where the list knows none), its meaning, kind, colour, further names."""


@dataclass(frozen=True)
class Known:
    """A row of the list. `kind`: one of `core.codes.KINDS`."""

    code: Code | None
    kind: str
    color: str


@dataclass(frozen=True)
class Meant:
    """What a name says: of findings, `within` is the organ that they lie in; `side` is left or right."""

    known: Known
    side: Code | None = None
    within: Code | None = None


def meant_by(name: str) -> Meant | None:
    """What a label of this name is; None where it is none that the list knows.

    Small letters and capitals, the order of words, what parts them, plurals, sides and a number at the end
    make no difference: `kidney_left`, `Left kidney` and `KidneyL` are one.
    """
    rows = _rows()
    words, side = _words(name)
    if side and (whole := rows.get(words | {side})):
        return Meant(whole)
    if known := rows.get(words) or rows.get(frozenset(word for word in words if not word.isdigit())):
        return Meant(known, _SIDES.get(side))
    finding = next((word for word in sorted(words) if _is_finding(rows.get(frozenset([word])))), None)
    if finding is None:
        return None
    rest = words - {finding}
    organs = [named for named, row in rows.items() if named <= rest and row.kind == "organ" and row.code]
    organ = max(organs, key=lambda named: (len(named), sorted(named)), default=None)
    return Meant(rows[frozenset([finding])], _SIDES.get(side), rows[organ].code if organ else None)


_SIDES = {"left": LEFT, "right": RIGHT}
_SIDE_WORDS = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
_SILENT = {"of", "the", "structure"}


def _is_finding(row: Known | None) -> bool:
    return row is not None and row.kind == "finding"


def _words(name: str) -> tuple[frozenset[str], str]:
    """The words of a name in their simplest form, without its side; and that."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z]{2})(?=\d)", " ", name)
    words = [word.lower() for word in re.split(r"[\W_]+", parted) if word]
    sides = [_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS]
    plain = frozenset(_singular(word) for word in words if word not in _SIDE_WORDS and word not in _SILENT)
    return plain, sides[0] if len(sides) == 1 else ""


def _singular(word: str) -> str:
    if len(word) < 4:
        return word
    return re.sub(r"ies$", "y", re.sub(r"ae$", "a", word)).removesuffix("s")


@cache
def _rows() -> Mapping[frozenset[str], Known]:
    made = {}
    with open(LIST, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            code = Code("SCT", row["code"], row["meaning"]) if row["code"] else None
            for name in [row["name"], *filter(None, row["also"].split("|"))]:
                words, side = _words(name)
                made[words | {side} if side else words] = Known(code, row["kind"], row["color"])
    return made
