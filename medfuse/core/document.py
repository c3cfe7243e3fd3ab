"""A YAML file as plain values, each of which remembers where it was written."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from medfuse.core.errors import MedfuseError, PipelineError, Problem, dotted
from medfuse.core.errors import Path as KeyPath
from medfuse.core.section import PlacedStr


class Document:
    """The values of a pipeline file (`data`), and the place of every one of them (`locate`)."""

    def __init__(
        self, data: dict[str, Any], places: dict[KeyPath, str], keys: dict[KeyPath, str], source: str
    ) -> None:
        self.data = data
        self.source = source
        self._places, self._keys = places, keys

    @classmethod
    def load(cls, path: Path, overrides: Iterable[str] = ()) -> "Document":
        """Read `path`, then apply `--set` texts such as `train.epochs=5`.

        Raises MedfuseError for a missing or unreadable file, PipelineError for faulty YAML.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise MedfuseError(f"{path}: no such file; give the path of a pipeline file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MedfuseError(f"{path}: cannot be read as a YAML text file: {error}") from None
        document = cls.parse(text, source=str(path), base=path.resolve().parent)
        for override in overrides:
            document.override(override)
        return document

    @classmethod
    def parse(cls, text: str, *, source: str, base: Path) -> "Document":
        walk = _Walk(source, base)
        data = walk.read(text)
        if not walk.problems and not isinstance(data, dict):
            walk.problems.append(
                (f"{source}:1:1", "a pipeline file is a mapping of sections, such as `data:`")
            )
        if walk.problems:
            raise MedfuseError(*(f"{place}: {message}" for place, message in walk.problems))
        return cls(data, walk.places, walk.keys, source)

    def locate(self, path: KeyPath) -> str:
        """`liver.yaml:7:12`, or `--set a.b`: the place of `path`, or of the nearest mapping around it."""
        for length in range(len(path), -1, -1):
            if (place := self._places.get(path[:length])) is not None:
                return place
        return self.source

    def located(self, error: PipelineError) -> PipelineError:
        """The same problems, each line beginning with its place; ordered as in the file."""
        places = [
            (self._keys.get(p.path) if p.at_key else None) or self.locate(p.path) for p in error.problems
        ]
        lines = [f"{place}: {p}" for place, p in zip(places, error.problems)]
        order = sorted(range(len(lines)), key=lambda i: _by_line(places[i]))
        return PipelineError([error.problems[i] for i in order], lines=[lines[i] for i in order])

    def _place_of(self, problem: Problem) -> str:
        key = self._keys.get(problem.path) if problem.at_key else None
        return key or self.locate(problem.path)

    def override(self, override: str) -> None:
        """Apply one `--set` text, such as `train.epochs=5`. Raises MedfuseError where it is no such text."""
        name, equals, text = override.partition("=")
        keys = tuple(int(k) if k.isdigit() else k for k in re.split(r"[.\[]", name.replace("]", "")))
        if not equals or "" in keys:
            raise MedfuseError(f"--set {override}: write it as path.to.key=value, such as train.epochs=5")
        place = f"--set {name}"
        walk = _Walk(place, Path.cwd())
        value = walk.read(text)
        if walk.problems:
            raise MedfuseError(*(f"--set {override}: {message}" for _, message in walk.problems))
        target: Any = self.data
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(target, list):
                if not isinstance(key, int) or key >= len(target):
                    raise MedfuseError(
                        f"--set {override}: {dotted(keys[:depth])} is a list of {len(target)}; "
                        f"use a number from 0 to {len(target) - 1} in place of {key!r}"
                    )
            elif not isinstance(target, dict):
                raise MedfuseError(
                    f"--set {override}: {dotted(keys[:depth])} is a single value, not a mapping"
                )
            elif not last and target.get(key) is None:
                target[key] = {}
            if last:
                target[key] = value
            target = target[key]
        for places in (self._places, self._keys):
            for old in [p for p in places if p[: len(keys)] == keys]:
                del places[old]
        for depth in range(1, len(keys) + 1):
            self._places.setdefault(keys[:depth], place)


def _by_line(place: str) -> tuple[int, int, str]:
    found = re.search(r":(\d+):(\d+)$", place)
    return (int(found[1]), int(found[2]), "") if found else (1 << 30, 0, place)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no`, `on` and `12:30` are strings, `1e-3` is a number."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [c if c != "\0" else "" for c in _first]
    )


class _Walk:
    """One pass over the nodes of a YAML text: values, places and problems."""

    def __init__(self, source: str, base: Path) -> None:
        self.source = source
        self.base = base
        self.places: dict[KeyPath, str] = {}
        self.keys: dict[KeyPath, str] = {}
        self.problems: list[tuple[str, str]] = []

    def read(self, text: str) -> Any:
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = f"{self.source}:{mark.line + 1}:{mark.column + 1}" if mark else self.source
            self.problems.append((place, f"not valid YAML: {error.problem or error.context}"))
            return None
        except yaml.YAMLError as error:
            self.problems.append((self.source, f"not valid YAML: {error}".replace("\n", " ")))
            return None
        return None if node is None else self._value(node, (), ())

    def _place(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _value(self, node: yaml.Node, path: KeyPath, around: tuple[int, ...]) -> Any:
        self.places.setdefault(path, self._place(node))
        if id(node) in around:
            self.problems.append((self._place(node), f"{dotted(path)}: an alias may not contain itself"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*around, id(node)))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(n, (*path, i), (*around, id(node))) for i, n in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, around: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append((self._place(key_node), f"{dotted(path)}: a key must be a plain word"))
                continue
            key = key_node.value
            here: KeyPath = (*path, key)
            if key in first:
                self.problems.append(
                    (
                        self._place(key_node),
                        f"{dotted(here)}: repeated; it was first given in line {first[key]}, keep one",
                    )
                )
                continue
            first[key] = key_node.start_mark.line + 1
            values[key] = self._value(value_node, here, around)
            self.keys[here] = self._place(key_node)
            if isinstance(value_node, yaml.CollectionNode):
                self.places[here] = self.keys[here]
        return values

    def _scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.rpartition(":")[2], node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float":
            return {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}.get(
                text.lower()
            ) or float(text)
        if kind != "str":
            self.problems.append((self._place(node), f"tag {node.tag!r} is not allowed; write a plain value"))
        return PlacedStr(text, self.base)


def unplaced(data: Any, path: KeyPath = ()) -> Any:
    """`data` with ordinary strings: what `json` or `yaml` may write out."""
    if isinstance(data, dict):
        return {k: unplaced(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [unplaced(v) for v in data]
    return str(data) if isinstance(data, str) else data


__all__ = ["Document", "Problem", "unplaced"]
