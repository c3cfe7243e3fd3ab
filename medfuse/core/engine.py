"""What runs a network, in plain values beside what it made: labels of two engines may differ in near-ties."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Engine = Mapping[str, Any]
"""Plain JSON values: `runtime`, `precision`, `device`, `hardware`, `versions` and what else it tells."""


class Running:
    """A prepared network, windows → logits, that tells in `engine` what runs it."""

    def __init__(self, run: Callable[[Tensor], Tensor], **engine: Any) -> None:
        self._run = run
        self.engine: Engine = engine

    def __call__(self, windows: Tensor) -> Tensor:
        return self._run(windows)


def told_by(run: object) -> dict[str, Any]:
    """What a prepared network tells of itself; nothing where it has nothing to tell."""
    told = getattr(run, "engine", None)
    if not isinstance(told, Mapping):
        return {}
    plain: dict[str, Any] = json.loads(json.dumps(dict(told), default=str))
    return plain


def told_once(engines: Iterable[Engine]) -> list[Engine]:
    """What runs the networks of a model: one engine where all are alike, else that of each."""
    found = [dict(engine) for engine in engines]
    alike = all(engine == found[0] for engine in found)
    return [engine for engine in (found[:1] if alike else found) if engine]


def label(engine: Engine) -> str:
    """`openvino in bf16`."""
    precision = f" in {engine['precision']}" if "precision" in engine else ""
    return f"{engine.get('runtime', 'another engine')}{precision}"


def differences(before: Engine, now: Engine) -> list[str]:
    """What is not as it was, such as `threads 4 → 2` and `openvino 2025.0 → 2026.1`."""
    found = []
    if label(before) != label(now):
        found.append(f"{label(before)} → {label(now)}")
    for key in sorted(({*before} | {*now}) - {"runtime", "precision"}):
        was, is_ = before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            found += [
                f"{name} {was.get(name) or 'none'} → {is_.get(name) or 'none'}"
                for name in sorted({*was} & {*is_})
                if was[name] != is_[name]
            ]
        elif was != is_ and key != "versions":
            found.append(f"{key} {was} → {is_}")
    return found
