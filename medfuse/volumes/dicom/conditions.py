"""What a series must say to be chosen: `Modality=CT`, `SliceThickness<=3`, `SeriesDescription~lung`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.instances import Instance


@dataclass(frozen=True)
class Condition:
    """`Modality=CT`, `SliceThickness<=3`, `SeriesDescription~lung`: what a series must say."""

    keyword: str
    relation: str
    value: str

    @classmethod
    def of(cls, text: str) -> Condition:
        """Raises DataError."""
        found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|!=|=|<|>|~)\s*(.*?)\s*", text)
        if not found:
            raise DataError(
                f"--series {text!r}: is no condition; write KEYWORD=VALUE, with one of = != < <= > >= ~ "
                "(contains), such as 'Modality=CT' or 'SliceThickness<=3'"
            )
        from pydicom.datadict import tag_for_keyword

        if tag_for_keyword(found[1]) is None:
            raise DataError(
                f"--series {text!r}: DICOM has no {found[1]!r}; write a keyword such as SeriesDescription"
            )
        if found[2][0] in "<>" and not _is_number(found[3]):
            raise DataError(
                f"--series {text!r}: {found[3]!r} is no number, which {found[2]} compares; write one, or = "
                "or ~ for texts"
            )
        return cls(found[1], found[2], found[3])

    def holds(self, instance: Instance) -> bool:
        said = instance.says.get(self.keyword, "")
        words = said.split("\\")
        if self.relation == "~":
            return self.value.lower() in said.lower()
        if self.relation in ("=", "!="):
            same = any(_equal(word, self.value) for word in (*words, said))
            return same is (self.relation == "=")
        try:
            one, other = float(words[0]), float(self.value)
        except ValueError:
            return False
        return {"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[self.relation]


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _equal(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one.strip().lower() == other.lower()
