"""The base of everything that a pipeline file can say: frozen, typed, no unknown keys."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from medfuse.core.literal import literally
from medfuse.core.text import is_text

MOST_BYTES, MOST_BYTES_OF_A_NAME = 4095, 255  # of a path, on most systems


class Section(BaseModel):
    """A mapping in a pipeline file. Its fields are the keys, their descriptions the reference page.

    A text is no number and no truth value, and a truth value is no number, as in the JSON Schema of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = literally(handler(source))
        return schema


class PlacedStr(str):
    """A string that knows the folder its relative paths start from: the file's, or the working directory."""

    __slots__ = ("base",)
    base: Path

    def __new__(cls, text: str, base: Path) -> "PlacedStr":
        made = super().__new__(cls, text)
        made.base = base
        return made

    def __getnewargs__(self) -> tuple[str, Path]:  # type: ignore[override]  # for copies and pickles
        return str(self), self.base


def _resolve(value: Any) -> Any:
    if not isinstance(value, PlacedStr):
        return value
    try:
        path = Path(value.base, Path(value).expanduser())
    except RuntimeError:  # of a user whom this machine does not know
        raise ValueError(f"{value.partition('/')[0]} has no home folder here; write the path out") from None
    if not is_text(str(path)):
        raise ValueError(f"{str(path)!a} is no text in UTF-8; rename that folder or file")
    if len(os.fsencode(path)) > MOST_BYTES or any(
        len(os.fsencode(p)) > MOST_BYTES_OF_A_NAME for p in path.parts
    ):
        raise ValueError(f"a path of {len(value)} characters is too long; shorten it")
    return path


ConfigPath = Annotated[Path, BeforeValidator(_resolve)]
"""A path in a pipeline file: relative to that file; from `--set`, relative to the working directory."""


def without_detours(path: Path) -> Path:
    """Without `..` in it, where that is the same place, which beyond links it may not be."""
    plain = Path(os.path.normpath(path))
    try:
        return plain if os.path.realpath(plain) == os.path.realpath(path) else path
    except (OSError, ValueError):  # whoever opens it says what is wrong with it
        return path
