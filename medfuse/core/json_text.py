"""JSON as strangers may have written it: read within limits, and refused in one line where it is faulty."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from medfuse.core.errors import DataError, MedfuseError, dotted

MOST_BYTES = 64 * 2**20
MOST_VALUES = 4_000_000
DEEPEST = 100
MOST_DIGITS = 20  # of a whole number: those of 64 bits

T = TypeVar("T")


def read_json(
    path: Path,
    *,
    raises: type[MedfuseError] = DataError,
    remedy: str = "mend it there or just before",
    most_bytes: int = MOST_BYTES,
) -> Any:
    """What a JSON file holds. Raises `raises`, in one line that ends with `remedy`.

    No NaN and no infinity, no key twice, nothing nested without end, no file larger than `most_bytes` or of
    more values than such a one may have, and nothing but a plain file: pipes are not waited for.
    """
    return parse_json(
        read_text(path, raises=raises, remedy=remedy, most_bytes=most_bytes),
        str(path),
        raises=raises,
        remedy=remedy,
        most_bytes=most_bytes,
    )


def read_text(
    path: Path,
    *,
    raises: type[MedfuseError] = DataError,
    remedy: str = "replace it",
    most_bytes: int = MOST_BYTES,
) -> str:
    """The text of a plain file in UTF-8, with or without a mark of it. Raises `raises`."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise raises(f"{path}: is no plain file; {remedy}")
        if about.st_size > most_bytes:
            raise raises(f"{path}: is too large to be right ({_size(about.st_size)}); {remedy}")
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise raises(f"{path}: no such file; {remedy}") from None
    except UnicodeDecodeError as error:
        before = content[: error.start]
        place = f"{path}:{before.count(10) + 1}:{len(before) - before.rfind(10)}"
        raise raises(
            f"{place}: is no text in UTF-8 (byte {error.object[error.start]:#x}); {remedy}"
        ) from None
    except (OSError, ValueError) as error:  # such as a name with a NUL
        raise raises(f"{path}: cannot be read as a text file ({error}); {remedy}") from None


def parse_json(
    text: str | bytes,
    where: str,
    *,
    raises: type[MedfuseError] = DataError,
    remedy: str = "mend it there or just before",
    most_bytes: int = MOST_BYTES,
) -> Any:
    """As `read_json`, of a text that stands at `where`."""
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if len(text) > most_bytes:
            raise ValueError(f"it is too large to be right ({_size(len(text))})")
        _refuse_nesting(text, MOST_VALUES * max(1, most_bytes // MOST_BYTES))
        value = json.loads(
            text,
            object_pairs_hook=_no_key_twice,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}:{error.colno}"
        raise raises(f"{place}: not valid JSON: {error.msg}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        said = "it is no text in UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise raises(f"{where}: not valid JSON: {said}; {remedy}") from None


def validated(
    kind: type[T], value: Any, where: str, *, raises: type[MedfuseError] = DataError, remedy: str
) -> T:
    """A JSON value as a `kind`: a pydantic model, a dataclass, `dict[str, int]`. Raises `raises`."""
    try:
        made: T = _adapter(kind).validate_json(json.dumps(value))  # in which a list is a tuple, strictly too
        return made
    except ValidationError as error:
        raise raises(f"{where}: {first_fault(error)}; {remedy}") from None
    except RecursionError:
        raise raises(f"{where}: is nested too deeply; {remedy}") from None


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once for each kind, as that takes a while."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def first_fault(error: ValidationError) -> str:
    """`data.spacing_mm[0]: input should be greater than 0, got 0`, and how many more there are."""
    first, *more = faults_of(error)
    return f"{first} (and {len(more)} more)" if more else first


def faults_of(error: ValidationError) -> list[str]:
    """Each as `data.spacing_mm[0]: input should be greater than 0, got 0`."""
    found = []
    for fault in error.errors(include_url=False):
        place, message = dotted(fault["loc"]), fault["msg"].removeprefix("Value error, ")
        said = message[:1].lower() + message[1:]
        if not isinstance(fault["input"], dict | list):
            said += f", got {shortened(repr(fault['input']))}"
        found.append(f"{place}: {said}" if place else said)
    return found


def shortened(text: str, most: int = 80) -> str:
    """A text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character: two make one, and one alone cannot be written
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_BETWEEN = re.compile(r"[^\[\]{}]+")
_OUTSIDE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)', re.DOTALL)


def _refuse_nesting(text: str, most_values: int) -> None:
    """Before anything is made of it. Raises ValueError."""
    plain = _OUTSIDE.sub("", text)
    deepest = max(accumulate(map(_STEPS.__getitem__, _BETWEEN.sub("", plain))), default=0)
    if deepest > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if plain.count(",") + plain.count(":") > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")


def _no_key_twice(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {shortened(key)!r} is given twice; keep one")
        made[key] = value
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shortened(text, 30)} is too large a number")
    return number


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits is too large")
    return int(text)


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
