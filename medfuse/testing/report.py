"""The checks of one plugin, all of them run, and those that fail told by name in one AssertionError."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from medfuse.api import Plugin
from medfuse.testing.parameters import parameter_checks

Check = Callable[[], None]


def report(plugin: Plugin, checks: Mapping[str, Check]) -> None:
    """Run every check, those common to all plugins first; report all that fail."""
    failed: list[str] = []
    for name, check in {**parameter_checks(plugin), **checks}.items():
        try:
            check()
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            failed.append(f"{name}: {kind}{error}")
    if failed:
        raise AssertionError(f"{type(plugin).__name__} fails {len(failed)} checks:\n  " + "\n  ".join(failed))
