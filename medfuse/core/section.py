"""The base of everything that a pipeline file can say: frozen, typed, no unknown keys."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A mapping in a pipeline file. Its fields are the keys, their descriptions the reference page."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class PlacedStr(str):
    """A string that knows the folder its relative paths start from: the file's, or the working directory."""

    __slots__ = ("base",)
    base: Path

    def __new__(cls, text: str, base: Path) -> "PlacedStr":
        made = super().__new__(cls, text)
        made.base = base
        return made


def _resolve(value: Any) -> Any:
    if isinstance(value, PlacedStr):
        return Path(value.base, Path(value).expanduser())
    return value


ConfigPath = Annotated[Path, BeforeValidator(_resolve)]
"""A path in a pipeline file: relative to that file; from `--set`, relative to the working directory."""
