"""An image as the network was trained to see it: scaled, resampled, turned to right, front and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from .grids import Array, Turn, resample, resampled_shape, spacing

ORIGINAL_SHAPE = "original_shape"
ORIGINAL_AFFINE = "original_affine"
_ENDS = {"unit": (0.5, 0.0), "symmetric": (0.05, -1.0)}
_MOST_SAMPLES = 2**20


class Prepared(MapTransform):
    """(channels, i, j, k) with its affine → (inputs, x, y, z) at the network's spacing.

    Each channel is scaled as `normalization` says, one entry for each; `windows` make several inputs of one.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: Sequence[float],
        normalization: Sequence[Mapping[str, Any]],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_mm = tuple(spacing_mm)
        self.normalization = [dict(how) for how in normalization]

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        made = dict(data)
        for key in self.key_iterator(made):
            made[key] = self.prepare(made[key])
        return made

    def prepare(self, image: Any) -> MetaTensor:
        """The image of one case. Raises ValueError where it has another number of channels, or NaN."""
        voxels = np.asarray(torch.as_tensor(image).cpu(), dtype=np.float32)
        if voxels.ndim == 3:
            voxels = voxels[..., None]  # a slice
        if len(voxels) != len(self.normalization):
            raise ValueError(
                f"an image of {len(voxels)} channels, where the model takes {len(self.normalization)}"
            )
        if not np.isfinite(voxels).all():
            raise ValueError("an image with voxels that are NaN or infinite")
        affine = np.eye(4) if not isinstance(image, MetaTensor) else np.asarray(image.affine, np.float64)
        turn, shape = Turn(affine), voxels.shape[1:]
        target = resampled_shape(turn.of(shape), turn.of(spacing(affine)), self.spacing_mm)
        flipped = [turn.flipped[turn.axes.index(axis)] for axis in range(3)]
        inputs = [
            resample(one, turn.back(target), flipped)
            for channel, how in zip(voxels, self._measured(voxels))
            for one in _scaled(channel, how)
        ]
        prepared = torch.from_numpy(np.ascontiguousarray(turn.apply(np.stack(inputs))))
        meta = dict(image.meta) if isinstance(image, MetaTensor) else {}
        meta.pop("affine", None)
        meta |= {ORIGINAL_SHAPE: list(shape), ORIGINAL_AFFINE: torch.as_tensor(affine)}
        return MetaTensor(prepared, affine=_affine_of(affine, turn, shape, target), meta=meta)

    def _measured(self, voxels: Array) -> list[dict[str, Any]]:
        """How each channel is scaled, with the numbers of its own voxels where it is by these."""
        return [_measured(channel, how, voxels) for channel, how in zip(voxels, self.normalization)]


def _measured(channel: Array, how: dict[str, Any], voxels: Array) -> dict[str, Any]:
    kind = how["kind"]
    if kind in ("zscore", "nonzero_zscore"):
        inside = channel[channel != 0].astype(np.float64)
        count = int(inside.size)
        if kind == "zscore":
            count = _box_voxels((voxels != 0).any(0))  # margins that are 0 in all channels do not count
        mean = inside.sum() / max(count, 1)
        squares = ((inside - mean) ** 2).sum() + (count - inside.size) * mean**2
        return {**how, "mean": float(mean), "std": float(np.sqrt(squares / max(count, 1)))}
    if kind in _ENDS:
        share, lowest = _ENDS[kind]
        flat, step = channel.transpose(2, 0, 1).reshape(-1), 1
        while -(-flat.size // step) > _MOST_SAMPLES:
            step *= 2
        low, high = (float(v) for v in np.percentile(flat[::step], (share, 100 - share)))
        std = (high - low) / (1 - lowest)
        return {**how, "lower": low, "upper": high, "mean": low - lowest * std, "std": std}
    return how


def _box_voxels(filled: Array) -> int:
    """Voxels in the smallest box around what is filled."""
    count = 1
    for others in ((1, 2), (0, 2), (0, 1)):
        at = np.flatnonzero(filled.any(others))
        count *= int(at[-1] - at[0] + 1) if at.size else 0
    return count


def _scaled(channel: Array, how: Mapping[str, Any]) -> list[Array]:
    """The inputs that a channel becomes."""
    if how["kind"] == "windows":
        return [
            _scaled_once(
                channel, {"kind": "window", "lower": low, "upper": high, "mean": low, "std": high - low}
            )
            for low, high in how["windows"]
        ]
    return [_scaled_once(channel, how)]


def _scaled_once(channel: Array, how: Mapping[str, Any]) -> Array:
    made = channel.copy()
    if how["kind"] == "none":
        return made
    inside = made != 0 if how["kind"] == "nonzero_zscore" else np.ones((), bool)
    if how["kind"] not in ("zscore", "nonzero_zscore"):
        np.clip(made, how["lower"], how["upper"], out=made)
    np.subtract(made, how["mean"], out=made, where=inside)
    np.divide(made, max(how["std"], 1e-8), out=made, where=inside)
    return made


def _affine_of(affine: Array, turn: Turn, shape: Sequence[int], target: Sequence[int]) -> torch.Tensor:
    """From an index on the new grid to mm."""
    turned = np.eye(4)
    for row, (axis, flip) in enumerate(zip(turn.axes, turn.flipped)):
        step = turn.of(shape)[row] / target[row]
        turned[axis, axis] = 0
        turned[axis, row] = -step if flip else step
        turned[axis, 3] = shape[axis] - 0.5 - step / 2 if flip else step / 2 - 0.5
    for axis in range(3):
        if turn.axes[axis] != axis:
            turned[axis, axis] = 0
    return torch.as_tensor(affine @ turned)
