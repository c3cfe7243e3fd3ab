"""The models that a service offers: loaded once for each device, and what clients are told of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import did_you_mean
from medfuse.core.reporter import Reporter
from medfuse.runs.models import load_model
from medfuse.service.refusals import Refusal

if TYPE_CHECKING:
    from medfuse.core.label_table import LabelEntry
    from medfuse.trained.trained import Trained

BACKGROUND = "background"
_WIDEST = 1024  # of label values whose gaps are named


@dataclass(frozen=True)
class Model:
    """`trained`: on each device, in their order."""

    name: str
    trained: tuple[Trained, ...]

    @property
    def entries(self) -> tuple[LabelEntry, ...]:
        return self.trained[0].plan.entries

    @property
    def labels(self) -> dict[str, int]:
        """Name → the value that is written for it, in the order of the values."""
        return {entry.name: entry.value for entry in sorted(self.entries, key=lambda entry: entry.value)}

    @property
    def numbered_labels(self) -> dict[str, int]:
        """`labels`, with a name for each value that has none: 3D Slicer takes the n-th name for value n."""
        named = {value: name for name, value in self.labels.items()}
        last = max(named, default=0)
        if last > _WIDEST:
            return self.labels
        return {named.get(value, f"no label {value}"): value for value in range(1, last + 1)}

    @property
    def told(self) -> dict[str, Any]:
        """What a client is told of it."""
        plan = self.trained[0].plan
        return {
            "labels": self.labels,
            "label_colors": {entry.name: list(entry.rgb) for entry in self.entries},
            "label_codes": {
                entry.name: f"{entry.code.scheme} {entry.code.value}" for entry in self.entries if entry.code
            },
            "channels": list(plan.channels),
            "weights": list(self.trained[0].hashes),
            "devices": [str(one.device) for one in self.trained],
        }


def load_models(
    runs: Sequence[Path],
    *,
    devices: Sequence[str] = ("auto",),
    overrides: Iterable[str] = (),
    best: bool = False,
    trust: str | Iterable[str] = (),
    reporter: Reporter,
) -> dict[str, Model]:
    """A model for each of `runs`, by its name. Raises CheckpointError for one that cannot be loaded."""
    how: dict[str, Any] = {"overrides": tuple(overrides), "best": best, "trust": trust, "reporter": reporter}
    models: dict[str, Model] = {}
    for run in runs:
        trained = tuple(load_model([run], device=device, **how) for device in devices)
        for one in trained:
            _ = one.runners  # made here, by one thread
        name = _free_name(trained[0].name or run.stem or "model", models)
        models[name] = Model(name, trained)
    return models


def _free_name(wanted: str, taken: Mapping[str, Model]) -> str:
    """A name that can stand in a URL, and is not taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", wanted).strip("._") or "model"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def chosen(models: Mapping[str, Model], name: str | None) -> Model:
    """The model of a name; without one the only one. Raises Refusal."""
    if not name and len(models) == 1:
        return next(iter(models.values()))
    if not name:
        raise Refusal(422, f"say which model: {', '.join(models)}")
    if name not in models:
        raise Refusal(
            404, f"no model named {name[:60]!r}{did_you_mean(name, models)} (here: {', '.join(models)})"
        )
    return models[name]
