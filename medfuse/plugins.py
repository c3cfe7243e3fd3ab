"""Plugins by their names, for Python: `medfuse.plugins.losses.tversky(alpha=0.3)`.

A group's plugins are its attributes, which a notebook's Tab key lists; each is imported when it is named.
"""

from __future__ import annotations

from typing import Any

from medfuse import registry
from medfuse.api import Plugin
from medfuse.core.errors import PluginError


class Group:
    """The plugins of one entry-point group, as attributes."""

    def __init__(self, group: str) -> None:
        self._group = group

    def __getattr__(self, name: str) -> type[Plugin]:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return registry.get(self._group, name)
        except PluginError as error:
            raise AttributeError(str(error)) from None

    def __getitem__(self, name: str) -> type[Plugin]:
        """The same, for names that are no words of Python."""
        return registry.get(self._group, name)

    def __dir__(self) -> list[str]:
        return [*registry.names(self._group)]

    def __repr__(self) -> str:
        return f"{self._group}: {', '.join(registry.names(self._group))}"


_GROUPS = {contract.group.rpartition(".")[2]: contract.group for contract in registry.CONTRACTS}


def __getattr__(name: str) -> Any:
    if name not in _GROUPS:
        raise AttributeError(f"no group of plugins is called {name!r} ({', '.join(_GROUPS)})")
    return Group(_GROUPS[name])


def __dir__() -> list[str]:
    return [*_GROUPS]
