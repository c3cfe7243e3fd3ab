"""What the two stages of a cascade must agree on: cases, channels and labels."""

from __future__ import annotations

from dataclasses import replace

from medfuse.api import DatasetInfo
from medfuse.core.errors import DataError, PipelineError, Problem
from medfuse.core.labels import map_values
from medfuse.core.staged import STAGES
from medfuse.pipeline import Pipeline

FOREGROUND = "foreground"
"""The one label of a first stage that does not tell classes apart."""


def first_dataset(pipeline: Pipeline, info: DatasetInfo) -> DatasetInfo:
    """What the first stage learns from, where `info` is what the second does. Raises PipelineError."""
    assert pipeline.first is not None
    assert pipeline.cascade is not None
    first, where = info, (STAGES, 0, "data", "root")
    if pipeline.first.data != pipeline.data:
        try:
            first = pipeline.first.data.read()
        except DataError as error:
            raise PipelineError([Problem(where, line) for line in error.lines]) from None
        if problems := [Problem(where, message) for message in _differing(first, info)]:
            raise PipelineError(problems)
    return _as_one(first) if pipeline.cascade.targets == "foreground" else first


def shown_values(pipeline: Pipeline, info: DatasetInfo) -> tuple[int, ...]:
    """The values of the first stage's label maps that the second is shown, each as an input of its own."""
    if pipeline.first is None or pipeline.cascade is None or not pipeline.cascade.shown:
        return ()
    first = first_dataset(pipeline, info)
    return first.region_order or tuple(value for value in map_values(first.labels.values()) if value != 0)


def _differing(first: DatasetInfo, second: DatasetInfo) -> list[str]:
    """In how far the datasets of two stages are not of the same cases."""
    found = []
    if first.channels != second.channels:
        found.append(
            f"its channels are {', '.join(first.channels)}, and the second stage's are "
            f"{', '.join(second.channels)}; both stages see the same images"
        )
    values = [{*map_values(info.labels.values())} - {0} for info in (first, second)]
    if values[0] != values[1]:
        names = [", ".join(name for name, value in i.labels.items() if value != 0) for i in (first, second)]
        found.append(
            f"its labels {names[0]} have the values {_listed(values[0])}, and the second stage's {names[1]} "
            f"have {_listed(values[1])}; the first must find all that the second segments, as classes, as "
            "regions, or with `cascade: {targets: foreground}` as one"
        )
    missing = sorted({c.name for c in second.cases if c.label} - {c.name for c in first.cases if c.label})
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        found.append(
            f"it has no label for {', '.join(missing[:5])}{more}, which the second stage learns from"
        )
    return found


def _listed(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _as_one(info: DatasetInfo) -> DatasetInfo:
    """The same cases with one region of all that is not background."""
    background = next(name for name, value in info.labels.items() if value == 0)
    values = tuple(value for value in map_values(info.labels.values()) if value != 0)
    labels = {background: 0, FOREGROUND: values if len(values) > 1 else values[0]}
    return replace(info, labels=labels, region_order=values[:1] if len(values) > 1 else (), label_table={})
