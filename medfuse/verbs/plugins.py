"""Plugins as pages: the list of all, and the reference page of one, made from its fields."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from medfuse.api import Backbone, Plugin
from medfuse.core.errors import MedfuseError, PluginError, did_you_mean
from medfuse.core.result import Result
from medfuse.core.text import aligned
from medfuse.model.around import Around
from medfuse.model.origin import said
from medfuse.registry import CONTRACTS, Entry, entries, first_line, load, noun


def listing(*, describe: bool = False) -> Result:
    """Kind, name, package and version of every plugin. Imports none of them unless `describe`."""
    found = [e for contract in CONTRACTS for e in entries(contract.group)]
    clashes = {
        (e.group, e.name) for e in found if sum((o.group, o.name) == (e.group, e.name) for o in found) > 1
    }
    rows = [("kind", "name", "package", "version", "")]
    for e in found:
        note = "offered by several packages: uninstall all but one" if (e.group, e.name) in clashes else ""
        rows.append((noun(e.group), e.name, e.package, e.version, note or (_describe(e) if describe else "")))
    keys = ("kind", "name", "package", "version", "note")
    return Result(aligned(rows), {"plugins": [dict(zip(keys, row)) for row in rows[1:]]})


def page(name: str, group: str | None = None) -> Result:
    """The reference page of the plugin `name`, in every group that has one, or in `group`.

    Raises PluginError.
    """
    groups = [group] if group else [contract.group for contract in CONTRACTS]
    offers = [e for g in groups for e in entries(g) if e.name == name]
    if not offers:
        known = sorted({e.name for contract in CONTRACTS for e in entries(contract.group)})
        raise PluginError(
            f"no plugin named {name!r}{did_you_mean(name, known)} (installed: {', '.join(known)})"
        )
    pages = [_page(e) for e in offers]
    return Result("\n\n".join(pages), {"plugins": [page.values for page in pages]})


def _page(entry: Entry) -> Result:
    plugin = load(entry)
    rows = [_COLUMNS]
    for name, field in plugin.model_fields.items():
        rows.append((name, _type(field), _range(plugin, name), _default(field), field.description or ""))
    heading = f"{entry.name} ({noun(entry.group)}, {entry.package} {entry.version})"
    text = inspect.cleandoc(plugin.__doc__ or "")
    table = aligned(rows) if len(rows) > 1 else "It has no parameters."
    parts = [text, table, *_weights(plugin)]
    values = {
        "kind": noun(entry.group),
        "name": entry.name,
        "package": entry.package,
        "version": entry.version,
        "text": text,
        "parameters": [dict(zip(_COLUMNS, row)) for row in rows[1:]],
        "notes": _weights(plugin),
    }
    return Result("\n\n".join([heading, *(textwrap.indent(part, "  ") for part in parts)]), values)


_COLUMNS = ("parameter", "type", "range", "default", "meaning")


def _weights(plugin: type[Plugin]) -> list[str]:
    """Whence a backbone has weights, and their licence; nothing where it starts from fresh ones."""
    if not issubclass(plugin, Backbone) or plugin.origin in (Backbone.origin, Around.origin):
        return []
    asked = "It may bring weights along; `medfuse check FILE` says which, and their licence."
    try:
        origin = plugin().origin()
    except (ValidationError, MedfuseError):  # it depends on its parameters, or on a hub
        return [asked]
    return [f"Its weights: {said(origin)}." if origin else asked]


def _describe(entry: Entry) -> str:
    try:
        return first_line(load(entry))
    except PluginError as error:
        return f"broken: {error}"


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    text = (
        annotation.__name__
        if isinstance(annotation, type) and not _parameters(annotation)
        else str(annotation)
    )
    for noise in ("typing.", "pathlib.", "NoneType"):
        text = text.replace(noise, "None" if noise == "NoneType" else "")
    return _without_metadata(text)


def _parameters(annotation: Any) -> bool:
    return bool(getattr(annotation, "__args__", ()))


def _without_metadata(text: str) -> str:
    """`Annotated[int, FieldInfo(…)]` → `int`: ranges have a column of their own."""
    while (start := text.find("Annotated[")) >= 0:
        depth, comma = 0, -1
        for i, c in enumerate(text[start + 10 :], start + 10):
            depth += c in "[(" or -(c in "])")
            if c == "," and depth == 0 and comma < 0:
                comma = i
            if depth < 0:
                text = text[:start] + text[start + 10 : comma] + text[i + 1 :]
                break
    return text


def _range(plugin: type[Plugin], name: str) -> str:
    """Bounds as the JSON Schema has them, in mathematical signs."""
    schema = plugin.model_json_schema()["properties"].get(name, {})
    options = [schema, *schema.get("anyOf", ())]
    options += [o["items"] for o in options if isinstance(o.get("items"), dict)]
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {o[key]:g}" for o in options for key, sign in signs.items() if key in o]
    found += [f"{o['minItems']} or more" for o in options if "minItems" in o and "maxItems" not in o]
    return ", ".join(dict.fromkeys(found))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)
