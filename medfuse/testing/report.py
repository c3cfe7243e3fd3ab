"""The checks of one plugin, all of them run, and those that fail told by name in one AssertionError."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from medfuse.api import Plugin
from medfuse.testing.parameters import parameter_checks
from medfuse.testing.settings import restore, settings

Check = Callable[[], None]


def for_each(check: Callable[..., None], *values: Any) -> Check:
    """One check, of several values in turn."""

    def run() -> None:
        for value in values:
            check(value)

    return run


def report(plugin: Plugin, checks: Mapping[str, Check]) -> None:
    """Run every check, those common to all plugins first; report all that fail.

    Neither torch's settings nor anybody's random numbers are others afterwards.
    """
    before, dumped = settings(), copy.deepcopy(plugin.model_dump())
    states = random.getstate(), np.random.get_state()
    failed: list[str] = []
    told: dict[str, str] = {}  # what was said, and by which check first
    changed: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]):
        for name, check in {**parameter_checks(plugin), **checks}.items():
            try:
                check()
            except Exception as error:
                kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                said = f"{kind}{error}"
                failed.append(f"{name}: {said if said not in told else f'as for {told[said]!r}'}")
                told.setdefault(said, name)
            for setting in restore(before):
                changed.setdefault(setting, name)
    random.setstate(states[0])
    np.random.set_state(states[1])
    if changed:
        where = ", ".join(f"{setting} (in {name!r})" for setting, name in changed.items())
        failed.append(
            f"the process's settings stay as they are: changed by {where}; use `with`, or set it back"
        )
    if (now := plugin.model_dump()) != dumped:
        failed.append(
            f"the plugin stays as it is: it was {dumped} and is {now}; compute without changing self"
        )
    if failed:
        raise AssertionError(f"{type(plugin).__name__} fails {len(failed)} checks:\n  " + "\n  ".join(failed))
