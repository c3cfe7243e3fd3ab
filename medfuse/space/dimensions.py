"""The values that one key of a pipeline may take, as a search space writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from medfuse.api import Plugin
from medfuse.core.json_text import shortened
from medfuse.core.named import within
from medfuse.registry import as_mapping

_FORMS = (
    "a list of values, {log: [1e-4, 1e-2]}, {range: [0.1, 0.5]}, {int: [2, 6]} or "
    "{subset_of: [a, b, c], at_least: 1}"
)
_BOUNDS = ("log", "range", "int")


@dataclass(frozen=True)
class Choices:
    """One of some values, of any kind."""

    options: tuple[Any, ...]

    def examples(self) -> tuple[tuple[int, ...], ...]:
        """Where each value stands below its key; these are tried out before a search begins."""
        return tuple((n,) for n in range(len(self.options)))

    def example(self, place: tuple[Any, ...]) -> Any:
        return self.options[place[-1]]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included: even on a `log` scale, or `whole`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it is one of these numbers."""
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    @property
    def kind(self) -> str:
        return "int" if self.whole else "log" if self.log else "range"

    def examples(self) -> tuple[tuple[Any, ...], ...]:
        return (self.kind, 0), (self.kind, 1)

    def example(self, place: tuple[Any, ...]) -> Any:
        end = (self.low, self.high)[place[-1]]
        return int(end) if self.whole else end


@dataclass(frozen=True)
class Subset:
    """Some of a list, in its order, `at_least` so many of them."""

    options: tuple[Any, ...]
    at_least: int = 1

    def examples(self) -> tuple[tuple[Any, ...], ...]:
        return tuple(("subset_of", n) for n in range(len(self.options)))

    def holds(self, value: Any) -> bool:
        """Whether it is a list of these, long enough and in their order."""
        if not isinstance(value, list) or len(value) < self.at_least:
            return False
        return value == [option for option in self.options if option in value]

    def example(self, place: tuple[Any, ...]) -> Any:
        """The fewest that hold that one: those that follow it, in their order."""
        count = max(1, self.at_least)
        chosen = sorted((place[-1] + n) % len(self.options) for n in range(count))
        return [self.options[n] for n in chosen]


Dimension = Choices | Range | Subset


NONE = "none"
"""The value that takes out what a file has, where that is no value of the key."""


def as_written(space: Any) -> Any:
    """A space of Python as a file has it: plugins as mappings with what was said of them, None as `none`."""
    if not isinstance(space, Mapping):
        return space
    return {key: _options(value) for key, value in space.items()}


def _options(value: Any) -> Any:
    plain = _plain(value)
    return [NONE if option is None else option for option in plain] if isinstance(plain, list) else plain


def _plain(value: Any) -> Any:
    if isinstance(value, Plugin):
        said = {k: v for k, v in as_mapping(value).items() if k == "use" or k in value.model_fields_set}
        return said["use"] if len(said) == 1 else said
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if hasattr(value, "item") and not isinstance(value, str) else value  # of NumPy


def read_dimension(value: Any) -> Dimension:
    """What a space says of one key. Raises ValueError that says what is wanted."""
    if isinstance(value, list | tuple):
        return _choices(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"say what may be tried: {_FORMS}; got {shortened(repr(value), 60)}")
    kinds = [key for key in value if key in (*_BOUNDS, "subset_of")]
    if len(kinds) != 1:
        raise ValueError(f"say what may be tried, in one way: {_FORMS}")
    kind = kinds[0]
    known = {kind, "at_least"} if kind == "subset_of" else {kind}
    if unknown := [str(key) for key in value if key not in known]:
        raise ValueError(f"{unknown[0]} is no key of {{{kind}: …}} (known: {', '.join(sorted(known))})")
    return _subset(value) if kind == "subset_of" else _range(kind, value[kind])


def _choices(options: Any) -> Choices:
    if not options:
        raise ValueError("has no value to try; give two or more")
    if any(isinstance(one, float) and not math.isfinite(one) for one in within(options)):
        raise ValueError("nan and inf are no values; give numbers")
    _refuse_doubles(options)
    return Choices(tuple(options))


def _range(kind: str, bounds: Any) -> Range:
    numbers = isinstance(bounds, list | tuple) and len(bounds) == 2
    if not numbers or not all(
        isinstance(b, int | float) and not isinstance(b, bool) and math.isfinite(b) for b in bounds
    ):
        raise ValueError(f"{kind} takes the least and the most value, such as {{{kind}: [1, 10]}}")
    low, high = bounds
    if low >= high:
        raise ValueError(f"{kind}: {low:g} is not below {high:g}; give the least and the most value")
    if kind == "log" and low <= 0:
        raise ValueError(f"log: {low:g} has no logarithm; begin above 0, or use {{range: …}}")
    if kind == "int" and not all(isinstance(b, int) for b in bounds):
        raise ValueError(f"int: {low:g} and {high:g} should be whole numbers; or use {{range: …}}")
    return Range(low, high, log=kind == "log", whole=kind == "int")


def _subset(value: Mapping[str, Any]) -> Subset:
    options, least = value["subset_of"], value.get("at_least", 1)
    if not isinstance(options, list | tuple) or not options:
        raise ValueError("subset_of takes a list, of which some are chosen")
    _refuse_doubles(options)
    if not isinstance(least, int) or isinstance(least, bool) or not 0 <= least <= len(options):
        raise ValueError(f"at_least: write a whole number from 0 to {len(options)}, how many there are")
    return Subset(tuple(options), least)


def _refuse_doubles(options: Any) -> None:
    said = [words(option) for option in options]
    if twice := [text for n, text in enumerate(said) if text in said[:n]]:
        raise ValueError(f"{twice[0]} is there twice; keep one")


def words(value: Any) -> str:
    """A value in a few words that tell it from others: `fpn`, `{use: constant, weight: 0.5}`."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {words(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(words, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value)
