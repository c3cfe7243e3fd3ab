"""Values of DICOM's elements, which files write as they like, as plain text and numbers."""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.place import Place

if TYPE_CHECKING:
    from pydicom import Dataset


def many(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]


def joined_text(value: Any) -> str:
    return "\\".join(text_of(one).removesuffix(".0") for one in many(value))


def text_of(value: Any) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(value)).strip() if value is not None else ""


def real_of(value: Any) -> float | None:
    try:
        found = float(str(value).strip().replace(",", "."))
    except (TypeError, ValueError):
        return None
    return found if isfinite(found) else None


def number_of(place: Place, said: Dataset, name: str) -> float | None:
    """None where a file says nothing. Raises DataError where what it says is no number."""
    value = said.get(name)
    if value is None or text_of(value) == "":
        return None
    if (found := real_of(value)) is None:
        raise DataError(f"{place}: its {name} is {text_of(value)[:40]!r}; copy it again from its source")
    return found


def reals_of(value: Any, count: int) -> Any:
    found = [real_of(one) for one in many(value)]
    return tuple(found) if len(found) == count and None not in found else None


def whole_of(value: Any) -> int:
    try:
        return int(str(value))
    except (TypeError, ValueError):
        return 0
