"""What a weights file says, without a trace of the machine and the disk that it was made on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

_PLACE = re.compile(r"(~|[A-Za-z]:)?[/\\](?!/)|\\\\|file:")
_INSIDE = re.compile(r"(?<![\w./\\:~-])(?:~|[A-Za-z]:)?[/\\][^\s'\"(),;]*[/\\][^\s'\"(),;]*")


def cleaned(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that inference needs: no weights that training began with, and of files their names alone.

    Facts that tell of no place are as they were.
    """
    made = dict(facts)
    model = dict(made.get("model", {}))
    if model.get("transfer"):
        model["transfer"] = {}
    made["model"] = model
    places = sorted({*_places(facts)}, key=len, reverse=True)
    return {key: _without(value, places) for key, value in made.items()}


def cleaned_text(value: Any, *, instead: str) -> Any:
    """Plain data without where files lie, and what they are called."""
    return _without(value, sorted({*_places(value)}, key=len, reverse=True), instead)


def _places(value: Any) -> Iterator[str]:
    """Every text that is a path as a whole."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _places(key)
            yield from _places(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _places(inner)
    elif isinstance(value, str) and len(value) > 1 and _PLACE.match(value):
        yield value


def _without(value: Any, places: list[str], instead: str = "") -> Any:
    if isinstance(value, Mapping):
        return {
            _without(key, places, instead): _without(inner, places, instead) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_without(inner, places, instead) for inner in value]
    if isinstance(value, tuple):
        return tuple(_without(inner, places, instead) for inner in value)
    if not isinstance(value, str):
        return value
    for place in places:
        value = value.replace(place, instead or PureWindowsPath(place).name)
    return _INSIDE.sub(lambda found: instead or PureWindowsPath(found[0]).name, value)
