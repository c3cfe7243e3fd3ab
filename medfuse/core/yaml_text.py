"""One YAML text as plain values, each with its place; within limits, and without anything that runs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from medfuse.core.errors import Path as KeyPath
from medfuse.core.errors import dotted
from medfuse.core.json_text import shortened
from medfuse.core.section import PlacedStr

MOST_CHARACTERS = 256 * 1024
MOST_VALUES = 20_000  # with every alias written out
DEEPEST = 50
MOST_DIGITS = 15  # of a whole number: those that a float has, too

_MANY = f"it stands for more than {MOST_VALUES:,} values"

_SCALARS = {
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "null": re.compile(r"~|null|Null|NULL|"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}
_FIRST = {"bool": "tTfF", "null": ["~", "n", "N", ""], "int": "-+0123456789", "float": "-+0123456789."}
_EXAMPLE = {"bool": "true", "null": "null", "int": "3", "float": "0.5"}
_UNPRINTABLE = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # that escapes may stand for


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no`, `on` and `12:30` are strings, `1e-3` is a number."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > DEEPEST or self.nodes > 2 * MOST_VALUES:
            what = f"nested more than {DEEPEST} deep" if self.depth > DEEPEST else _MANY
            raise yaml.MarkedYAMLError(problem=what, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern.pattern})$"), [*_FIRST[_kind]]
    )


class Walk:
    """One pass over the nodes of a YAML text: values, places and problems."""

    def __init__(self, source: str, base: Path) -> None:
        self.source = source
        self.base = base
        self.places: dict[KeyPath, str] = {}
        self.keys: dict[KeyPath, str] = {}
        self.problems: list[tuple[str, str]] = []
        self._values = 0

    def read(self, text: str) -> Any:
        """Its values; None where there are `problems`, each a place and a message."""
        if len(text) > MOST_CHARACTERS:
            self._add(f"{self.source}:1:1", f"has {len(text):,} characters, more than {MOST_CHARACTERS:,}")
            return None
        if odd := yaml.reader.Reader.NON_PRINTABLE.search(text):
            before = text[: odd.start()]
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            self._add(
                f"{self.source}:{line}:{column}",
                f"not valid YAML: the character {odd[0]!r} is not allowed; remove it",
            )
            return None
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = f"{self.source}:{mark.line + 1}:{mark.column + 1}" if mark else self.source
            said = ", ".join(filter(None, (error.context, error.problem)))
            self._add(place, f"not valid YAML: {shortened(said, 200)}")
            return None
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as an escape beyond Unicode
            self._add(f"{self.source}:1:1", f"not valid YAML: {shortened(str(error), 200)}")
            return None
        try:
            return None if node is None else self._value(node, (), ())
        except _TooMuch as error:
            self.problems = [error.args]
            return None

    def _add(self, place: str, message: str) -> None:
        self.problems.append((place, message))

    def _place(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _value(self, node: yaml.Node, path: KeyPath, around: tuple[int, ...]) -> Any:
        self.places.setdefault(path, self._place(node))
        self._values += 1
        if self._values > MOST_VALUES:
            raise _TooMuch(self._place(node), f"{_MANY}, with all aliases written out; use fewer")
        if id(node) in around:
            self._add(self._place(node), f"{dotted(path)}: an alias may not contain itself")
            return None
        if len(around) > DEEPEST:
            raise _TooMuch(self._place(node), f"aliases are nested more than {DEEPEST} deep; use fewer")
        around = (*around, id(node))
        if isinstance(node, yaml.MappingNode):
            self._refuse_tag(node, "map")
            return self._mapping(node, path, around)
        if isinstance(node, yaml.SequenceNode):
            self._refuse_tag(node, "seq")
            return [self._value(n, (*path, i), around) for i, n in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, around: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            here: KeyPath = (*path, key)
            if fault := self._fault_of_key(key_node, path):
                self._add(self._place(key_node), fault)
                continue
            if key in first:
                self._add(
                    self._place(key_node),
                    f"{dotted(here)}: repeated; it was first given in line {first[key]}, keep one",
                )
                continue
            first[key] = key_node.start_mark.line + 1
            values[key] = self._value(value_node, here, around)
            self.keys[here] = self._place(key_node)
            if isinstance(value_node, yaml.CollectionNode):
                self.places[here] = self.keys[here]
        return values

    def _fault_of_key(self, node: yaml.Node, path: KeyPath) -> str:
        where = f"{dotted(path)}: " if path else ""
        if not isinstance(node, yaml.ScalarNode):
            return f"{where}a key must be a plain word"
        if node.value == "<<":
            return f"{where}`<<` merges nothing here, as in YAML 1.2; write the values out"
        if not node.value.strip():
            return f"{where}a key is empty; give it a name, or remove it"
        if _UNPRINTABLE.search(node.value):
            return f"{where}the key {shortened(node.value)!r} holds unprintable characters; remove them"
        if len(node.value) > 200:
            return (
                f"{where}the key {shortened(node.value)!r} is {len(node.value)} characters long; shorten it"
            )
        if node.tag.rpartition(":")[2] not in ("str", *_SCALARS):
            return f"{where}tag {shortened(node.tag)!r} is not allowed; write a plain word"
        return ""

    def _refuse_tag(self, node: yaml.Node, wanted: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{wanted}":
            self._add(self._place(node), f"tag {shortened(node.tag)!r} is not allowed; write a plain value")

    def _scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.rpartition(":")[2], node.value
        if kind in _SCALARS and node.tag == f"tag:yaml.org,2002:{kind}":
            if not _SCALARS[kind].fullmatch(text):
                self._add(
                    self._place(node),
                    f"{shortened(text)!r} is no {kind}, as its tag says; write one, such as {_EXAMPLE[kind]}",
                )
                return None
            try:
                return _number(kind, text)
            except ValueError as error:
                self._add(self._place(node), str(error))
                return None
        if node.tag != "tag:yaml.org,2002:str":
            self._add(self._place(node), f"tag {shortened(node.tag)!r} is not allowed; write a plain value")
        if odd := _UNPRINTABLE.search(text):
            self._add(self._place(node), f"{shortened(text)!r} holds the character {odd[0]!r}; remove it")
        return PlacedStr(text, self.base)


class _TooMuch(Exception):
    """A place and a message: what is written stands for too much to be read on."""


def _number(kind: str, text: str) -> Any:
    """A bool, null, int or float of YAML. Raises ValueError where it is too large."""
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if len(text.lstrip("-+0x")) > MOST_DIGITS and kind == "int":
        raise ValueError(f"a whole number of {len(text)} digits is too large")
    if kind == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if text.lower().endswith((".inf", ".nan")):
        return {"-.inf": -math.inf, ".nan": math.nan}.get(text.lower(), math.inf)
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{shortened(text, 30)} is too large a number")
    return number
