"""Entry points → names → plugins. Listing imports nothing; using one imports that one alone.

What `register` adds for one process, such as a notebook's class, stands beside what packages offer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from medfuse.api import (
    ActivationLoss,
    Augmentation,
    AuxSchedule,
    Backbone,
    Dataset,
    Engine,
    FusionBlock,
    Loss,
    Plugin,
    Runtime,
    TapStrategy,
    Tracker,
)
from medfuse.core.errors import MedfuseError, PluginError, did_you_mean
from medfuse.core.json_text import shortened

CONTRACTS: tuple[type[Plugin], ...] = (
    Backbone,
    TapStrategy,
    FusionBlock,
    AuxSchedule,
    Loss,
    ActivationLoss,
    Augmentation,
    Dataset,
    Runtime,
    Tracker,
    Engine,
)
"""The eleven contracts, one per entry-point group."""


@dataclass(frozen=True)
class Entry:
    """One offered plugin, as its package's metadata tells it."""

    group: str
    name: str
    package: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.source})"

    @property
    def source(self) -> str:
        """Package and version."""
        return f"{self.package} {self.version}".rstrip()


THIS_PROCESS = "this process"
"""The package of what `register` has added."""

_registered: dict[Entry, type[Plugin]] = {}

P = TypeVar("P", bound=type[Plugin])


def register(name: str) -> Callable[[P], P]:
    """Offer a class as a plugin of this name to this process alone, such as a notebook's, as a decorator.

    Registered again under its name, as by a cell that is run twice, it takes the place of the one before.
    Raises PluginError where it subclasses no contract, or an installed package offers that name already.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w-]*", name):
        raise PluginError(
            f"register({shortened(repr(name))}): write the name in brackets, in letters, digits and _, "
            'such as @medfuse.register("gate")'
        )

    def add(plugin: P) -> P:
        contract = next((c for c in CONTRACTS if isinstance(plugin, type) and issubclass(plugin, c)), None)
        if contract is None:
            bases = ", ".join(f"medfuse.{c.__name__}" for c in CONTRACTS)
            raise PluginError(f"{getattr(plugin, '__name__', plugin)} subclasses none of {bases}")
        if taken := next((e for e in _installed(contract.group) if e.name == name), None):
            raise PluginError(f"{noun(contract.group)} {taken} is installed; choose another name")
        for entry in [e for e in _registered if (e.group, e.name) == (contract.group, name)]:
            del _registered[entry]
        target = f"{plugin.__module__}:{plugin.__qualname__}"
        _registered[Entry(contract.group, name, THIS_PROCESS, "", target)] = plugin
        return plugin

    return add


def entries(group: str) -> tuple[Entry, ...]:
    """Every plugin on offer in `group`, by name. Imports none of them."""
    own = [entry for entry in _registered if entry.group == group]
    if not own:
        return _installed(group)
    return tuple(sorted((*_installed(group), *own), key=lambda e: (e.name, e.package)))


@functools.cache
def _installed(group: str) -> tuple[Entry, ...]:
    found: dict[Entry, None] = {}
    told: dict[int, tuple[str, str]] = {}
    for point in metadata.entry_points(group=group):
        if id(point.dist) not in told:  # one for all of its entries, and to read what it says takes a while
            told[id(point.dist)] = _named(point.dist)
        found[Entry(group, point.name, *told[id(point.dist)], point.value)] = None
    return tuple(sorted(found, key=lambda e: (e.name, e.package)))


def registered() -> frozenset[str]:
    """The names that `register` has added."""
    return frozenset(entry.name for entry in _registered)


def _named(dist: metadata.Distribution | None) -> tuple[str, str]:
    """Package and version."""
    said = dist.metadata if dist else {"Name": "unknown package", "Version": ""}
    return said["Name"], said["Version"]


def forget() -> None:
    """What is known of packages, as one may have been installed since; what was registered stays."""
    _installed.cache_clear()
    _imported.cache_clear()


def is_offered(plugin: type[Plugin]) -> bool:
    """Whether a name leads to this class."""
    target = f"{plugin.__module__}:{plugin.__qualname__}"
    return any(_registered.get(e, plugin) is plugin for e in entries(plugin.group) if e.target == target)


def names(group: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(e.name for e in entries(group)))


def noun(group: str) -> str:
    """`medfuse.fusion_blocks` → `fusion block`."""
    plural = group.rpartition(".")[2].replace("_", " ")
    ending = "es" if plural.endswith("sses") else "s"
    return {"tap strategies": "tap strategy"}.get(plural, plural.removesuffix(ending))


def find(group: str, name: str) -> Entry:
    """The one entry that offers `name`. Raises PluginError where there is none, or more than one."""
    offers = [e for e in entries(group) if e.name == name]
    if not offers:
        installed = ", ".join(names(group)) or "none"
        meant = _elsewhere(name) or did_you_mean(name[:100], names(group))
        raise PluginError(f"no {noun(group)} named {shortened(repr(name))}{meant} (installed: {installed})")
    if len(offers) > 1:
        packages = " and ".join(e.source for e in offers)
        raise PluginError(f"{noun(group)} {name!r} is offered by {packages}; uninstall one of them")
    return offers[0]


def _elsewhere(name: str) -> str:
    """`; that is a loss`, where plugins of other kinds have this name; else nothing."""
    kinds = [noun(contract.group) for contract in CONTRACTS if name in names(contract.group)]
    said = " and ".join(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in kinds)
    return f"; that is {said}" if said else ""


def load(entry: Entry) -> type[Plugin]:
    """Import a plugin's class. Raises PluginError that blames its package, whatever it did."""
    return _registered[entry] if entry in _registered else _imported(entry)


@functools.cache
def _imported(entry: Entry) -> type[Plugin]:
    contract = next(c for c in CONTRACTS if c.group == entry.group)
    blame = f"{noun(entry.group)} {entry.name!r} of {entry.source}"
    point = metadata.EntryPoint(entry.name, entry.target, entry.group)
    try:
        plugin = point.load()
    except (Exception, SystemExit) as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise PluginError(
            f"{blame} fails on import: {type(error).__name__}: {reason}; mend or uninstall {entry.package}"
        ) from error
    if not (isinstance(plugin, type) and issubclass(plugin, contract)):
        raise PluginError(f"{blame}: {entry.target} is not a subclass of medfuse.{contract.__name__}")
    return plugin


def get(group: str, name: str) -> type[Plugin]:
    """The plugin class that `name` stands for in `group`. Raises PluginError."""
    return load(find(group, name))


def name_of(plugin: Plugin) -> str:
    """The name under which `plugin`'s class is installed, or its class name where it is not."""
    target = f"{type(plugin).__module__}:{type(plugin).__qualname__}"
    return next((e.name for e in entries(plugin.group) if e.target == target), type(plugin).__name__)


def blame(plugin: Plugin) -> str:
    """`fusion block 'spp' (medfuse 0.1.0)`: whose fault it is."""
    target = f"{type(plugin).__module__}:{type(plugin).__qualname__}"
    found = next((e for e in entries(plugin.group) if e.target == target), None)
    return f"{noun(plugin.group)} {found or repr(type(plugin).__name__)}"


class FromRegistry:
    """Marks a field as "a plugin of this contract": `use:` names it, the other keys are its parameters.

    `{use: spp, bins: [1, 2]}`; just `spp` where no parameter is needed.
    """

    def __init__(self, contract: type[Plugin]) -> None:
        self.contract = contract

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(as_mapping)
        )

    def _validate(self, value: Any) -> Plugin:
        if isinstance(value, self.contract):
            return value
        group = self.contract.group
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("use"), str):
            wanted = f"name a {noun(group)} with `use:`, one of {', '.join(names(group))}"
            near = get_close_matches("use", map(str, value), n=1) if isinstance(value, Mapping) else []
            raise PydanticCustomError("plugin", "{message}", {"message": wanted, "key": [*near, ""][0]})
        try:
            plugin = get(group, value["use"])
        except PluginError as error:
            raise PydanticCustomError("plugin_name", "{message}", {"message": str(error)}) from error
        try:
            return plugin.model_validate({k: v for k, v in value.items() if k != "use"})
        except ValidationError as error:
            raise PydanticCustomError(
                "nested", "see below", {"errors": error.errors(), "model": plugin}
            ) from error
        except MedfuseError as error:
            raise PydanticCustomError("plugin", "{message}", {"message": str(error)}) from error

    def __get_pydantic_json_schema__(
        self, _: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        group, package = self.contract.group, _package.get()
        offered = [
            e.name for e in entries(group) if package in (None, e.package) and names(group).count(e.name) == 1
        ]
        known = {"enum": offered}
        if group in _described.get():  # a plugin that holds one of its own kind would never end
            mapping = {"type": "object", "properties": {"use": known}, "required": ["use"]}
            return {"anyOf": [mapping, known]}
        outer = _described.set(_described.get() | {group})
        options: list[dict[str, Any]] = []
        for name in offered:
            use: dict[str, Any] = {"const": name}
            try:
                plugin = get(group, name)
            except PluginError:  # of which nothing is known but its name
                options.append({"type": "object", "properties": {"use": use}, "required": ["use"]})
                continue
            schema = handler.resolve_ref_schema(handler(plugin.__pydantic_core_schema__))
            properties = {"use": {**use, "description": first_line(plugin)}, **schema.get("properties", {})}
            options.append(
                {**schema, "properties": properties, "required": ["use", *schema.get("required", [])]}
            )
        _described.reset(outer)
        return {"anyOf": [*options, known]}


def json_schema(model: type[BaseModel], *, package: str | None = None) -> dict[str, Any]:
    """The JSON Schema of a pipeline section, with the plugins that are installed, or those of one package."""
    outer = _package.set(package)
    try:
        schema = model.model_json_schema()
    finally:
        _package.reset(outer)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


_package: ContextVar[str | None] = ContextVar("_package", default=None)
"""The package whose plugins a schema is written with; all where it is None."""

_described: ContextVar[frozenset[str]] = ContextVar("_described", default=frozenset())
"""Groups whose schema is being written."""


def as_mapping(plugin: Plugin) -> dict[str, Any]:
    """A plugin as its YAML: `use` and every parameter."""
    return {"use": name_of(plugin), **plugin.model_dump(mode="json")}


def first_line(plugin: type[Plugin]) -> str:
    """The first line of a plugin's own docstring."""
    return (plugin.__dict__.get("__doc__") or "").strip().partition("\n")[0]


BackboneField = Annotated[Backbone, FromRegistry(Backbone)]
TapStrategyField = Annotated[TapStrategy, FromRegistry(TapStrategy)]
FusionBlockField = Annotated[FusionBlock, FromRegistry(FusionBlock)]
AuxScheduleField = Annotated[AuxSchedule, FromRegistry(AuxSchedule)]
LossField = Annotated[Loss, FromRegistry(Loss)]
ActivationLossField = Annotated[ActivationLoss, FromRegistry(ActivationLoss)]
AugmentationField = Annotated[Augmentation, FromRegistry(Augmentation)]
DatasetField = Annotated[Dataset, FromRegistry(Dataset)]
RuntimeField = Annotated[Runtime, FromRegistry(Runtime)]
TrackerField = Annotated[Tracker, FromRegistry(Tracker)]
