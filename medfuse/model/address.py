"""What a tap is called: a layer, one of its calls, an element of what it returns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

Place = tuple[str | int, ...]
"""Keys and indices into what a layer returns; empty where it returns one tensor."""

_NAME = re.compile(r"(?P<path>[^\[\]#]*)(#(?P<call>[1-9]\d*))?(?P<place>(\[[^\[\]]+\])*)")


@dataclass(frozen=True)
class Address:
    """`layer1#2[out]`: the element `out` of what the layer at `path` returns at its second call.

    Without a number of the call it is the last one.
    """

    path: str
    call: int | None = None
    place: Place = ()

    @classmethod
    def of(cls, name: str) -> Address:
        """A name that is none of these stands for a path, whatever is in it."""
        found = _NAME.fullmatch(name)
        if found is None or not found["path"]:
            return cls(name)
        keys = re.findall(r"\[([^\[\]]+)\]", found["place"])
        place = tuple(int(key) if re.fullmatch(r"-?\d+", key) else key for key in keys)
        return cls(found["path"], int(found["call"]) if found["call"] else None, place)

    @property
    def text(self) -> str:
        call = f"#{self.call}" if self.call else ""
        return self.path + call + "".join(f"[{key}]" for key in self.place)


def tensors_in(made: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """Every tensor in what a layer returns: itself, or in lists, tuples, dicts and dataclasses."""
    if isinstance(made, Tensor):
        yield place, made
        return
    for key, inner in _elements(made):
        yield from tensors_in(inner, (*place, key))


def as_returned(made: Any) -> Any:
    """What a layer returned, in lists and dicts of its own: those that it gave may be changed later on."""
    if isinstance(made, Mapping):
        return {key: as_returned(inner) for key, inner in made.items()}
    if isinstance(made, list):
        return [as_returned(inner) for inner in made]
    if type(made) is tuple:
        return tuple(as_returned(inner) for inner in made)
    return made


def element(made: Any, place: Place) -> Any:
    """What lies at `place`. Raises LookupError where there is no such thing."""
    for key in place:
        if isinstance(made, list | tuple) and isinstance(key, int):
            made = made[key]
            continue
        found = {str(name): inner for name, inner in _elements(made)}
        if str(key) not in found:
            raise LookupError(f"a {type(made).__name__} without [{key}]")
        made = found[str(key)]
    return made


def _elements(made: Any) -> list[tuple[str | int, Any]]:
    if isinstance(made, Mapping):
        return [(key if isinstance(key, int) else str(key), inner) for key, inner in made.items()]
    if isinstance(made, list | tuple):
        return [*enumerate(made)]
    if is_dataclass(made) and not isinstance(made, type):
        return [(f.name, getattr(made, f.name)) for f in fields(made) if hasattr(made, f.name)]
    return []
