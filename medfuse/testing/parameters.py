"""What every plugin keeps, whatever it is for: its parameters, its docstring, its YAML."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel, ValidationError

from medfuse.api import Plugin
from medfuse.core.errors import MedfuseError


def parameter_checks(plugin: Plugin) -> dict[str, Callable[[], None]]:
    """The checks common to all plugins, by name."""
    return {
        "every parameter is documented": partial(_parameters_are_documented, plugin),
        "the docstring has a line and an example": partial(_docstring_has_an_example, plugin),
        "its example is valid": partial(_example_is_valid, plugin),
        "its YAML reads back": partial(_reads_back, plugin),
        "an unknown key is refused": partial(_unknown_keys_are_refused, plugin),
        "a value out of range is refused by name": partial(_ranges_are_kept, plugin),
        "a value of another type is refused by name": partial(_types_are_kept, plugin),
        "its defaults are valid": partial(_defaults_are_valid, plugin),
        "it is frozen": partial(_is_frozen, plugin),
    }


def _parameters_are_documented(plugin: Plugin) -> None:
    bare = [name for name, field in type(plugin).model_fields.items() if not field.description]
    assert not bare, f"give {', '.join(bare)} a Field(description=...)"


def _docstring_has_an_example(plugin: Plugin) -> None:
    text = _docstring(plugin)
    assert text.partition("\n")[0].strip(), "write what it does in the docstring's first line"
    assert "use:" in text, "show a YAML example, such as `fused: {use: NAME, inputs: [...]}`"


def _example_is_valid(plugin: Plugin) -> None:
    for paragraph in _docstring(plugin).split("\n\n"):
        if "use:" in paragraph:
            for example in _plugins_in(yaml.load(textwrap.dedent(paragraph), _Examples)):
                try:
                    type(plugin).model_validate(example)
                except ValidationError as error:
                    raise AssertionError("; ".join(_said(error))) from error


class _Examples(yaml.SafeLoader):
    """Numbers as pipeline files have them, where 1e-3 is one, and `on` and `yes` are words as there.

    A paragraph may show one key several times.
    """


_BOOL = "tag:yaml.org,2002:bool"
_Examples.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0] != _BOOL or first in "tTfF"]
    for first, resolvers in _Examples.yaml_implicit_resolvers.items()
}
_Examples.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def _plugins_in(value: Any) -> Iterator[dict[str, Any]]:
    """The parameters of every mapping with `use:`, the outermost alone."""
    if isinstance(value, dict) and "use" in value:
        yield {key: inner for key, inner in value.items() if key != "use"}
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _plugins_in(inner)


def _reads_back(plugin: Plugin) -> None:
    again = type(plugin).model_validate(plugin.model_dump(mode="json"))
    assert again == plugin, f"{plugin!r} is read back as {again!r}"


def _unknown_keys_are_refused(plugin: Plugin) -> None:
    assert not _accepts(plugin, "no_such_key", 1), "`no_such_key: 1` is accepted; keep extra='forbid'"
    for name in type(plugin).model_fields:
        inner = getattr(plugin, name)
        if isinstance(inner, BaseModel):
            value = {**plugin.model_dump(mode="json")[name], "no_such_key": 1}
            assert not _accepts(plugin, name, value), (
                f"`{name}: {{no_such_key: 1}}` is accepted; give {type(inner).__name__} extra='forbid'"
            )


def _ranges_are_kept(plugin: Plugin) -> None:
    """A validator may come before a field's range and hide it, or raise without the field's name."""
    for name, field in type(plugin).model_fields.items():
        for value in _out_of_range(field.metadata):
            assert not _accepts(plugin, name, value), f"{name}: {value} is accepted, against its range"


def _types_are_kept(plugin: Plugin) -> None:
    """A validator that comes before the type may take anything, and hide a mistake, or break on it."""
    wrong = {"no_such_key": None}
    for name, field in type(plugin).model_fields.items():
        if not _is_plain(field.annotation):
            continue
        try:
            accepted = _accepts(plugin, name, wrong)
        except (TypeError, AttributeError, LookupError) as error:
            raise AssertionError(
                f"{name}: {wrong} ends in a {type(error).__name__} ({error}); let a validator that "
                "comes before "
                "the type hand on what it does not know, or let it come after"
            ) from error
        assert not accepted, f"{name}: {wrong} is accepted, and is no {field.annotation}"


def _is_plain(annotation: Any) -> bool:
    """Numbers, strings, and what is made of them: nothing that a mapping could be."""
    match get_origin(annotation):
        case typing.Literal:
            return True
        case typing.Annotated:
            return _is_plain(get_args(annotation)[0])
        case types.UnionType | typing.Union:
            return all(map(_is_plain, get_args(annotation)))
    return annotation in (int, float, str, bool, Path, type(None)) or get_origin(annotation) in (tuple, list)


def _defaults_are_valid(plugin: Plugin) -> None:
    """pydantic takes a default as it is."""
    dumped = plugin.model_dump(mode="json")
    for name, field in type(plugin).model_fields.items():
        if field.is_required():
            continue
        try:
            type(plugin).model_validate({**dumped, name: field.get_default(call_default_factory=True)})
        except ValidationError as error:
            own = [said for said in _said(error) if said.startswith(name)]
            assert not own, f"the default of {'; '.join(own)}"


def _is_frozen(plugin: Plugin) -> None:
    assert type(plugin).model_config.get("frozen"), "leave model_config frozen: a plugin is a value"


def _out_of_range(metadata: Iterable[Any]) -> Iterator[Any]:
    for bound in metadata:
        match bound:
            case annotated_types.Ge(ge):
                yield ge - 1  # type: ignore[operator]  # bounds are numbers
            case annotated_types.Gt(gt):
                yield gt
            case annotated_types.Le(le):
                yield le + 1  # type: ignore[operator]  # bounds are numbers
            case annotated_types.Lt(lt):
                yield lt


def _accepts(plugin: Plugin, name: str, value: Any) -> bool:
    """Whether the plugin can be made with that value. A refusal has to name the parameter."""
    try:
        type(plugin).model_validate({**plugin.model_dump(mode="json"), name: value})
    except ValidationError as error:
        said = _said(error)
    except MedfuseError as error:
        said = [str(error)]
    else:
        return True
    assert any(name in text for text in said), f"{name}: {value} is refused without its name: {said}"
    return False


def _said(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]


def _docstring(plugin: Plugin) -> str:
    return inspect.cleandoc(type(plugin).__dict__.get("__doc__") or "")
