"""What a verb found: a text for people, and values for programs, which become one JSON document."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from html import escape
from importlib import import_module
from pathlib import PurePath
from typing import Any

from medfuse.core.errors import MedfuseError

_HIGH_PX = 600  # of a page in a notebook


class Result(str):
    """The text that is printed. `values` say the same to programs, `code` is how the command ends.

    `found` is the dataclass that it tells of, where the verb has one.

    In a notebook it is shown as `page`, a whole page of HTML, where it has one; `rows` are those of `frame`.
    Both are made when they are asked for.
    """

    __slots__ = ("_page", "_rows", "code", "found", "values")
    values: Mapping[str, Any]
    code: int
    found: Any
    _page: Callable[[], str] | None
    _rows: Callable[[], Sequence[Mapping[str, Any]]] | None

    def __new__(
        cls,
        text: str,
        values: Mapping[str, Any],
        code: int = 0,
        *,
        page: Callable[[], str] | None = None,
        rows: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
        found: Any = None,
    ) -> Result:
        made = super().__new__(cls, text)
        made.values, made.code, made._page, made._rows = values, code, page, rows
        made.found = found
        return made

    def frame(self) -> Any:
        """The table as a pandas DataFrame. Raises MedfuseError where it has none, or pandas is missing."""
        if self._rows is None:
            raise MedfuseError("this result holds no table; its `values` are a dictionary")
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise MedfuseError("a frame needs pandas: pip install pandas") from None
        return pandas.DataFrame([dict(row) for row in self._rows()])

    def _repr_html_(self) -> str:
        if self._page is None:
            return f"<pre>{escape(self)}</pre>"
        return (
            f'<iframe srcdoc="{escape(self._page())}" style="width: 100%; height: {_HIGH_PX}px; border: 0" '
            f'title="{escape(self.partition(chr(10))[0])}"></iframe>'
        )

    @property
    def json(self) -> str:
        return json_text(self.values)


def json_text(values: Mapping[str, Any]) -> str:
    """One JSON document in ASCII, which any stream can carry."""
    return json.dumps(plain(values), indent=1, allow_nan=False)


def plain(value: Any) -> Any:
    """A value as JSON has it: what is no number becomes null, a path its text, a dataclass its fields."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, PurePath):
        return _text(str(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "model_dump"):  # pydantic's, which is not imported for this
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):  # arrays, tensors and their numbers
        return plain(value.tolist())
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=str)
    if isinstance(value, Iterable):
        return [plain(inner) for inner in value]
    return _text(str(value))


def _text(text: str) -> str:
    """What no encoding has, as a name on a disk may hold it, as the sign for such."""
    return (
        os.fsencode(text).decode(errors="replace") if any("\ud800" <= c <= "\udfff" for c in text) else text
    )


_PLACE = re.compile(r"(?P<file>[^\n]+?):(?P<line>\d+)(?::(?P<column>\d+))?: (?P<message>.*)", re.DOTALL)
_FILE = re.compile(r"(?P<file>[^\n:]*[\\/][^\n:]*|[^\s:]+\.\w+): (?P<message>.*)", re.DOTALL)


def problem(line: str) -> dict[str, Any]:
    """A line of an error by its parts: file, line, column (null where it says none) and message."""
    found = _PLACE.fullmatch(line) or _FILE.fullmatch(line)
    said = found.groupdict() if found else {"message": line}
    number = {key: int(said[key]) if said.get(key) else None for key in ("line", "column")}
    return {"file": said.get("file"), **number, "message": said["message"]}


def problems(lines: Iterable[str], code: int, values: Mapping[str, Any] | None = None) -> str:
    """The JSON document of a command that failed."""
    return json_text({**(values or {}), "errors": [problem(line) for line in lines], "exit_code": code})
