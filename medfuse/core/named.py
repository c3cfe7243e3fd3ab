"""Code that a text names, `package.module:name`: what it is, how it is found, and how it is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from medfuse.core.errors import PluginError, did_you_mean, lacks, reason
from medfuse.core.json_text import shortened

TARGET = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*(\.\w+)*$"
"""The form of a target: a module, and a class or function in it."""

IMPORT = "import:"
"""How an argument begins that stands for a class or function: `import:torch.nn.InstanceNorm3d`."""


@dataclass(frozen=True)
class NamedCode:
    """A class or function that a parameter names, and what it is called with, if it is called."""

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def target_of(text: str) -> str:
    """`package.module:name` of `package.module.name` too."""
    if ":" in text:
        return text
    module, _, name = text.rpartition(".")
    return f"{module}:{name}"


def checked_target(value: Any) -> Any:
    """A target of the right form, or no text at all. Raises ValueError, with the one that may be meant."""
    if not isinstance(value, str) or re.match(TARGET, value):
        return value
    meant = target_of(value)
    example = meant if re.match(TARGET, meant) else "monai.networks.nets:ResNet"
    raise ValueError(
        f"{shortened(repr(value))} has not the form of a target; write it as `package.module:name`, "
        f"such as `{shortened(example)}`"
    )


def named_in(arguments: Any) -> Iterator[NamedCode]:
    """Every `import:` among arguments, however deep."""
    for value in within(arguments):
        if isinstance(value, str) and value.startswith(IMPORT):
            yield NamedCode(target_of(value.removeprefix(IMPORT)))


def within(value: Any) -> Iterator[Any]:
    """A value, and all that it holds in mappings and lists, however deep."""
    yield value
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for inner in value:
            yield from within(inner)


def find(target: str) -> Any:
    """What `package.module:name` names. Raises PluginError, whatever its import raises."""
    path, _, name = target.partition(":")
    try:
        found = import_module(path)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"target {target}: {path or 'its module'} cannot be imported ({reason(error)}); "
            "install its package, or mend the name"
        ) from error
    for part in name.split("."):
        holder = found
        try:
            found = getattr(holder, part)
        except AttributeError:
            raise PluginError(
                f"target {target}: {path} has no {name!r}{did_you_mean(part, dir(holder))}"
            ) from None
    return found


def call(target: str, arguments: Mapping[str, Any]) -> Any:
    """What it makes of `arguments`, in which `import:` stands for what it names. Raises PluginError."""
    made = find(target)
    if not callable(made):
        raise PluginError(f"target {target}: is no class and no function; name one that makes a network")
    values = {key: _imported(value) for key, value in arguments.items()}
    try:
        return made(**values)
    except (Exception, SystemExit) as error:  # whatever its author chose to raise
        if missing := lacks(error):
            raise PluginError(f"target {target}: {missing}") from error
        raise PluginError(
            f"target {target}: refuses these parameters: {shortened(reason(error), 200)}"
        ) from error


def _imported(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(IMPORT):
        return find(target_of(value.removeprefix(IMPORT)))
    if isinstance(value, Mapping):
        return {key: _imported(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_imported(inner) for inner in value]
    return str(value) if isinstance(value, str) else value
