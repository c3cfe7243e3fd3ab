"""One combination of values, put into the pipeline as it is written: a pipeline, or why there is none."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medfuse.api import Plugin
from medfuse.core.document import Document
from medfuse.core.errors import MedfuseError, PipelineError, Problem, did_you_mean
from medfuse.core.errors import Path as KeyPath
from medfuse.pipeline import Pipeline, parse_pipeline, resolved
from medfuse.space.dimensions import NONE, Choices, Dimension, words

Values = Mapping[str, Any]
"""Key of the space → its value. A key that is left out stays as the file has it."""

_UNKNOWN = "unknown key"
"""How the problem of a key begins that a section, or a plugin, does not have."""


@dataclass(frozen=True)
class Combined:
    """A combination as it came out: `values` without keys that have no meaning in it."""

    values: dict[str, Any]
    pipeline: Pipeline
    document: Document


@dataclass(frozen=True)
class Space:
    """The pipeline as it is written, and what may be tried; `name` is its default name."""

    document: Document
    name: str
    dimensions: Mapping[str, Dimension]

    def combine(self, values: Values) -> Combined:
        """Raises PipelineError where they are no pipeline.

        What the file, or the space, says of a plugin that `use` no longer names goes, unless the new one has
        a parameter of that name too and it is no default. `none` where that is no value takes out what the
        file has.
        """
        active = {key: values[key] for key in sorted(values, key=lambda k: (len(keys_of(k)), k))}
        nothing: set[str] = set()
        dropped: set[KeyPath] = set()
        while True:
            document = self._told.copy()
            placed = self._place(document, {k: None if k in nothing else v for k, v in active.items()})
            for path in dropped:
                _remove(document.data, path)
            try:
                pipeline = parse_pipeline(document, default_name=self.name)
            except PipelineError as error:
                known = (len(active), len(nothing), len(dropped))
                for problem in error.problems:
                    self._mend(problem, active, nothing, dropped)
                if known == (len(active), len(nothing), len(dropped)):
                    raise
            else:
                return Combined({key: active[key] for key in placed}, pipeline, document)

    def _mend(
        self, problem: Problem, active: dict[str, Any], nothing: set[str], dropped: set[KeyPath]
    ) -> None:
        """Take out what has no meaning beside what was chosen, if that is the problem."""
        around = [key for key in active if problem.path[: len(keys_of(key))] == keys_of(key)]
        own = max(around, key=lambda key: len(keys_of(key)), default=None)
        if own and active[own] == NONE:
            nothing.add(own)
        elif problem.message.startswith(_UNKNOWN) and self._governed(problem.path, active):
            if own and keys_of(own) == problem.path:
                del active[own]
            else:
                dropped.add(problem.path)

    def _place(self, document: Document, values: Values) -> list[str]:
        """Put `values` there, those from outside in first; the keys that found their place."""
        placed: list[str] = []
        for key, value in values.items():
            keys, around = keys_of(key), document.data
            chosen = any(keys[: len(keys_of(other))] == keys_of(other) for other in placed)
            for depth, part in enumerate(keys[:-1], 1):
                inner = _inner(around, part)
                if inner is None and around is not None and not chosen:
                    inner = self._default(keys[:depth])
                if isinstance(inner, str):  # a plugin's name alone
                    inner = {"use": inner}
                    _set(around, part, inner)
                around = inner
            if around is None and chosen:
                continue  # what it would be a part of was chosen to be left out
            try:
                document.put(key, copy.deepcopy(value), key)
            except MedfuseError as error:
                raise PipelineError([Problem(keys, str(error).partition(": ")[2])]) from None
            placed.append(key)
        return placed

    def identity(self, values: Values) -> str:
        """The same for combinations that are one pipeline, however they say it. Raises PipelineError."""
        name = words(dict(sorted(values.items())))
        if name not in self._identities:
            all_of_it = resolved(self.combine(values).pipeline)
            self._identities[name] = json.dumps(all_of_it, sort_keys=True)
        return self._identities[name]

    @cached_property
    def _identities(self) -> dict[str, str]:
        return {}

    def _default(self, keys: KeyPath) -> str | None:
        """The name of the plugin that stands at a key which the file leaves open."""
        found = _look(self._resolved, keys)
        return found["use"] if isinstance(found, Mapping) and "use" in found else None

    @cached_property
    def _resolved(self) -> dict[str, Any]:
        return resolved(self._written)

    @cached_property
    def _written(self) -> Pipeline:
        return parse_pipeline(self.document, default_name=self.name)

    @cached_property
    def _told(self) -> Document:
        """The file without what it says of plugins that is so by default, as that says nothing of others."""
        document = self.document.copy()
        document.data = {
            key: _without_defaults(said, getattr(self._written, key, None))
            for key, said in document.data.items()
        }
        return document

    def _governed(self, path: KeyPath, values: Values) -> bool:
        """Whether a choice was made that decides which keys there are around `path`."""
        for key in values:
            own = keys_of(key)
            around = own[:-1] if own[-1] == "use" else own
            if path[: len(around)] == around and path != own:
                return True
        return False

    def unnamed(self, key: str) -> str:
        """What is wrong with a key that leads through a name, as of a node, that the file does not have."""
        around: Any = self._written
        for part in keys_of(key):
            if isinstance(around, Mapping) and part not in around:
                return f"{did_you_mean(str(part), around)} (known: {', '.join(around)})"
            around = around.get(part) if isinstance(around, Mapping) else getattr(around, str(part), None)
        return ""

    def as_written(self, key: str) -> Any:
        """What stands at a key, by the file or by default; None where nothing does."""
        found = _look(self.document.data, keys_of(key))
        return _look(self._resolved, keys_of(key)) if found is None else found

    def prior(self) -> dict[str, Any]:
        """The values of the file, as far as they are in the space."""
        return dict(self._prior)

    @cached_property
    def _prior(self) -> dict[str, Any]:
        found = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choices):
                same = [option for option in dimension.options if self._changes_nothing(key, option)]
            else:
                written = self.as_written(key)
                same = [written] if dimension.holds(written) else []
            if same:
                found[key] = same[0]
        return found

    def _changes_nothing(self, key: str, value: Any) -> bool:
        """Whether the file says it, in these words or in others."""
        try:
            counts = key in self.combine({key: value}).values
            return counts and self.identity({key: value}) == self.identity({})
        except MedfuseError:
            return False

    def differing(self, values: Values) -> dict[str, Any]:
        """Those that the file does not have."""
        prior = self.prior()
        return {k: v for k, v in values.items() if k not in prior or _plain(prior[k]) != _plain(v)}


def keys_of(key: str) -> KeyPath:
    """`a.b[0].c` → ("a", "b", 0, "c")."""
    words = re.findall(r"[^.\[\]]+", key)
    return tuple(int(word) if f"[{word}]" in key and word.isdecimal() else word for word in words)


def _inner(around: Any, part: str | int) -> Any:
    if isinstance(around, Mapping):
        return around.get(str(part))
    if isinstance(around, list) and str(part).isdecimal() and int(part) < len(around):
        return around[int(part)]
    return None


def _look(data: Any, keys: KeyPath) -> Any:
    for part in keys:
        data = _inner(data, part)
    return data


def _without_defaults(said: Any, value: Any) -> Any:
    """`said`, of which `value` was made, without those parameters of plugins that have their default."""
    if isinstance(said, Mapping):
        if isinstance(value, Plugin):
            said = {key: inner for key, inner in said.items() if not _is_default(value, key)}
        at = value.get if isinstance(value, Mapping) else lambda key: getattr(value, key, None)
        return {key: _without_defaults(inner, at(key)) for key, inner in said.items()}
    if isinstance(said, list) and isinstance(value, list | tuple) and len(said) == len(value):
        return [_without_defaults(one, of) for one, of in zip(said, value)]
    return said


def _is_default(plugin: Plugin, key: str) -> bool:
    field = type(plugin).model_fields.get(key)
    if field is None or field.is_required() or field.default_factory_takes_validated_data:
        return False
    return bool(getattr(plugin, key) == field.get_default(call_default_factory=True))


def _set(around: Any, part: str | int, value: Any) -> None:
    around[int(part) if isinstance(around, list) else str(part)] = value


def _remove(data: Any, keys: KeyPath) -> None:
    for part in keys[:-1]:
        data = _inner(data, part)
    if isinstance(data, dict):
        data.pop(keys[-1], None)


def _plain(value: Any) -> Any:
    """A mapping with `use` alone is the name of a plugin, and a tuple a list."""
    if isinstance(value, Mapping):
        if [*value] == ["use"]:
            return _plain(value["use"])
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, str) else value


def changes(values: Values) -> Iterator[str]:
    """`model.fusion.decoded.use=fpn`, as it is said to people and to `--set`."""
    for key, value in values.items():
        yield f"{key}={words(value)}"
