"""A YAML file as plain values, each of which remembers where it was written."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medfuse.core.errors import MedfuseError, PipelineError, Problem, dotted
from medfuse.core.errors import Path as KeyPath
from medfuse.core.json_text import read_text, shortened
from medfuse.core.yaml_text import Walk


class Document:
    """The values of a pipeline file (`data`), and the place of every one of them (`locate`)."""

    def __init__(
        self, data: dict[str, Any], places: dict[KeyPath, str], keys: dict[KeyPath, str], source: str
    ) -> None:
        self.data = data
        self.source = source
        self._places, self._keys = places, keys
        self._stands: Callable[[KeyPath], KeyPath] = tuple

    @classmethod
    def load(cls, path: Path, overrides: Iterable[str] = ()) -> Document:
        """Read `path`, then apply `--set` texts such as `train.epochs=5`.

        Raises MedfuseError for a missing or unreadable file, PipelineError for faulty YAML.
        """
        text = read_text(path, raises=MedfuseError, remedy="give the path of a pipeline file")
        document = cls.parse(text, source=str(path), base=path.resolve().parent)
        for override in overrides:
            document.override(override)
        return document

    @classmethod
    def parse(cls, text: str, *, source: str, base: Path) -> Document:
        walk = Walk(source, base)
        data = walk.read(text)
        if not walk.problems and not isinstance(data, dict):
            walk.problems.append(
                (f"{source}:1:1", "a pipeline file is a mapping of sections, such as `data:`")
            )
        if walk.problems:
            raise MedfuseError(*(f"{place}: {message}" for place, message in walk.problems))
        return cls(data, walk.places, walk.keys, source)

    def repeat(self, source: KeyPath, target: KeyPath) -> None:
        """Put what stands at `source` at `target` too; problems with either are told at the source."""
        value, around = self._at(source), self._at(target[:-1])
        around[target[-1]] = copy.deepcopy(value)
        for places in (self._places, self._keys):
            inner = {path: place for path, place in places.items() if path[: len(source)] == source}
            places |= {(*target, *path[len(source) :]): place for path, place in inner.items()}

    def _at(self, path: KeyPath) -> Any:
        found: Any = self.data
        for key in path:
            found = found[key]
        return found

    def within(self, inner: KeyPath, left_out: Collection[str] = ()) -> Document:
        """As if the sections of the mapping at `inner` stood outside, in place of those of the same names.

        `left_out`: names of sections that are in none. Problems are told where things stand in the file; of
        sections that stand nowhere, in `inner`. Paths that begin with `inner[0]` lead into such a mapping.
        """
        own = self._at(inner)
        outside = {key: value for key, value in self.data.items() if key not in left_out}
        made = Document({**outside, **own}, self._places, self._keys, self.source)

        def stands(path: KeyPath) -> KeyPath:
            whole = path if path[:1] == inner[:1] else (*inner, *path)
            around, rest = whole[: len(inner)], whole[len(inner) :]
            is_outside = bool(rest) and rest[0] in outside and rest[0] not in self._at(around)
            return rest if is_outside else whole

        made._stands = stands
        return made

    def locate(self, path: KeyPath) -> str:
        """`liver.yaml:7:12`, or `--set a.b`: the place of `path`, or of the nearest mapping around it."""
        path = self._stands(path)
        for length in range(len(path), -1, -1):
            if (place := self._places.get(path[:length])) is not None:
                return place
        return self.source

    def located(self, error: PipelineError) -> PipelineError:
        """The same problems, each line beginning with its place; ordered as in the file."""
        problems = [replace(problem, path=self._stands(problem.path)) for problem in error.problems]
        places = [self._place_of(problem) for problem in problems]
        lines = [
            f"{place}: {p.message if place == f'--set {dotted(p.path)}' else p}"
            for place, p in zip(places, problems)
        ]
        order = sorted(range(len(lines)), key=lambda i: _by_line(places[i]))
        return PipelineError([error.problems[i] for i in order], lines=[lines[i] for i in order])

    def _place_of(self, problem: Problem) -> str:
        key = self._keys.get(problem.path) if problem.at_key else None
        return key or self.locate(problem.path)

    def override(self, override: str) -> None:
        """Apply one `--set` text, such as `train.epochs=5`. Raises MedfuseError where it is no such text."""
        if not isinstance(override, str):  # from Python
            raise MedfuseError(f"{shortened(repr(override))}: write a text, such as 'train.epochs=5'")
        said = f"--set {shortened(override, 120)}"
        name, equals, text = override.partition("=")
        if not equals or not _NAME.fullmatch(name) or len(name) > 500:
            raise MedfuseError(f"{said}: write it as path.to.key=value, such as train.epochs=5")
        place = f"--set {name}"
        walk = Walk(place, Path.cwd())
        value = walk.read(text)
        if walk.problems:
            raise MedfuseError(*(f"{said}: {message}" for _, message in walk.problems))
        self.put(name, value, place, said)

    def put(self, name: str, value: Any, place: str, said: str = "") -> KeyPath:
        """Set what `name` spells (`a.b[0]`), as if it stood at `place`; the keys that lead there.

        Raises MedfuseError, beginning with `said`, where nothing can stand there.
        """
        if not _NAME.fullmatch(name) or len(name) > 500:
            raise MedfuseError(f"{said or place}: {shortened(name)!r} is no key; write it as path.to.key")
        keys = self._put(re.findall(r"[^.\[\]]+", name), value, said or place)
        for places in (self._places, self._keys):
            for old in [p for p in places if p[: len(keys)] == keys]:
                del places[old]
        for depth in range(1, len(keys) + 1):
            self._places.setdefault(keys[:depth], place)
        return keys

    def copy(self) -> Document:
        """The same, to be changed on its own."""
        return Document(copy.deepcopy(self.data), dict(self._places), dict(self._keys), self.source)

    def _put(self, words: list[str], value: Any, said: str) -> KeyPath:
        """Set the value that `words` lead to; where it stands. Raises MedfuseError beginning with `said`."""
        target: Any = self.data
        keys: KeyPath = ()
        for depth, word in enumerate(words):
            key: str | int = word
            if isinstance(target, list):
                key = int(word) if re.fullmatch(r"[0-9]{1,9}", word) else -1
                if not 0 <= key < len(target):
                    first = f"use a number from 0 to {len(target) - 1} in place of {word!r}"
                    remedy = first if target else "set all of it, such as [1, 2]"
                    raise MedfuseError(f"{said}: {dotted(keys)} is a list of {len(target)}; {remedy}")
            elif not isinstance(target, dict):
                raise MedfuseError(f"{said}: {dotted(keys)} is a single value, not a mapping")
            keys = (*keys, key)
            if depth == len(words) - 1:
                target[key] = value
            elif isinstance(target, dict) and target.get(key) is None:
                target[key] = {}
            target = target[key]
        return keys


_NAME = re.compile(r"[^\s.\[\]][^.\[\]]*(\.[^.\[\]]+|\[[^.\[\]]+\])*")


def _by_line(place: str) -> tuple[int, int, str]:
    found = re.search(r":(\d+):(\d+)$", place)
    return (int(found[1]), int(found[2]), "") if found else (1 << 30, 0, place)
