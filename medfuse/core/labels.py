"""What a label stands for in a label map: one value, or the values that a region unites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

LabelValue = int | tuple[int, ...]


def label_value(numbers: Iterable[int]) -> LabelValue:
    """What a label is, given all values that it has: a region of one value is that value."""
    found = tuple(sorted({*numbers}))
    return found[0] if len(found) == 1 else found


def members(value: LabelValue) -> tuple[int, ...]:
    """The values of a label map that belong to a label."""
    return value if isinstance(value, tuple) else (value,)


def mask_of(label_map: npt.NDArray[Any], value: LabelValue) -> npt.NDArray[np.bool_]:
    """Where `label_map` holds a label."""
    return np.isin(label_map, value) if isinstance(value, tuple) else np.asarray(label_map == value)


def map_values(labels: Iterable[LabelValue]) -> tuple[int, ...]:
    """Every value that a label map may hold, in order."""
    return tuple(sorted({number for value in labels for number in members(value)}))


def from_json(labels: Mapping[str, Any]) -> dict[str, LabelValue]:
    """Labels as JSON has them, where a region is a list."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in labels.items()}


def outputs(labels: Mapping[str, LabelValue], region_order: tuple[int, ...]) -> tuple[str, ...]:
    """What a network has a logit for: regions, in their order; else every class, by value."""
    if region_order:
        return tuple(name for name, value in labels.items() if value != 0)
    return tuple(sorted(labels, key=lambda name: members(labels[name])))


def united(labels: Mapping[str, LabelValue], region_order: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The class numbers that each region unites in a prepared label; empty where labels are no regions."""
    if not region_order:
        return ()
    numbers = {value: number for number, value in enumerate(map_values(labels.values()))}
    return tuple(tuple(numbers[v] for v in members(labels[name])) for name in outputs(labels, region_order))
