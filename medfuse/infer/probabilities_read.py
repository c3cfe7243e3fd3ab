"""Probabilities that `medfuse infer --probabilities` wrote, or others in the same form, label by label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.json_text import read_json
from medfuse.core.labels import LabelValue, from_json, members
from medfuse.infer.feature_files import zarr_module
from medfuse.infer.manifest import NAME
from medfuse.infer.probabilities import PROBABILITY_FORMATS, probability_file
from medfuse.volumes.read import read_volume


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Of one case: (i, j, k, channel), and the label value of each channel."""

    array: Any
    values: tuple[LabelValue, ...]

    def of(self, value: LabelValue) -> npt.NDArray[np.float32] | None:
        """(i, j, k): the channel of a label, or the sum of a union's classes; None where one is absent."""
        if value in self.values:
            return self._channel(value)
        if not all(one in self.values for one in members(value)):
            return None
        return np.asarray(sum(self._channel(one) for one in members(value)), np.float32)

    def _channel(self, value: LabelValue) -> npt.NDArray[np.float32]:
        return np.asarray(self.array[..., self.values.index(value)], np.float32)


def read_probabilities(folder: Path, case: str, shape: tuple[int, ...]) -> Probabilities | None:
    """Of a case of that shape in a folder of predictions; None where there are none. Raises DataError."""
    for kind in PROBABILITY_FORMATS:
        path = folder / probability_file(case, kind)
        if path.exists():
            array = _zarr(path) if kind == "zarr" else read_volume(path).array
            if array.ndim == 3:
                array = array[..., None]
            if array.shape[:3] != shape:
                raise DataError(f"{path}: has shape {array.shape[:3]}, its case {shape}; predict it again")
            return Probabilities(array, _values(folder, path, array.shape[3]))
    return None


def _zarr(path: Path) -> npt.NDArray[Any]:
    group = zarr_module("evaluate --calibration", "").open_group(str(path), mode="r")
    return np.moveaxis(np.asarray(group["probabilities"]), 0, -1)


def _values(folder: Path, path: Path, channels: int) -> tuple[LabelValue, ...]:
    """The label of each channel: those of the manifest; without one, channel n is label n."""
    manifest = folder / NAME
    labels = from_json(read_json(manifest).get("labels", {})) if manifest.is_file() else {}
    if not labels:
        return (1,) if channels == 1 else tuple(range(channels))
    regions = any(isinstance(value, tuple) for value in labels.values())
    values = (
        [value for value in labels.values() if value != 0]
        if regions
        else sorted(labels.values(), key=members)
    )
    if len(values) != channels:
        raise DataError(f"{path}: has {channels} channels, {manifest} {len(values)} labels; predict it again")
    return tuple(values)
