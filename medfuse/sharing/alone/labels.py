"""From logits on the network's grid to a label map on the file's, and what tidies it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch.nn.functional import interpolate

from .grids import Array, Turn
from .preparing import ORIGINAL_AFFINE, ORIGINAL_SHAPE


class LabelMap(MapTransform):
    """Logits (classes, x, y, z) → labels (1, i, j, k) on the grid of the file that `image` was read from.

    The logits are interpolated, and then the largest wins, and is written as `values` says; where labels are
    `regions`, each is written where its logit is above 0, later ones over earlier ones. postprocess: steps
    for labels by their names, which are `labels`: name → values, in their order.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image: str,
        values: Sequence[int],
        regions: bool = False,
        labels: Mapping[str, Any] | None = None,
        postprocess: Mapping[str, Any] | None = None,
        several: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image, self.values, self.regions = image, list(values), regions
        self.labels, self.steps, self.several = dict(labels or {}), dict(postprocess or {}), several

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        made = dict(data)
        for key in self.key_iterator(made):
            made[key] = self.label_map(made[key], made[self.image].meta)
        return made

    def label_map(self, logits: torch.Tensor, meta: Mapping[str, Any]) -> MetaTensor:
        """The label map of one case, with the affine and the name of its file."""
        affine = np.asarray(torch.as_tensor(meta[ORIGINAL_AFFINE]).cpu(), np.float64).reshape(4, 4)
        shape = [int(n) for n in meta[ORIGINAL_SHAPE]]
        turn = Turn(affine)
        plain = logits.as_tensor() if isinstance(logits, MetaTensor) else torch.as_tensor(logits)
        numbers = self._decided(plain.float(), turn.of(shape))
        table = np.array([0, *self.values] if self.regions else self.values, np.int64)
        written = table[turn.undo(numbers[None])].astype(np.min_scalar_type(int(table.max())))
        if self.steps:
            ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
            written[0] = tidied(written[0], self.steps, self.labels, self.values if self.regions else (), ml)
        file = case_file(str(meta.get("filename_or_obj", "")), several=self.several)
        about = {
            "filename_or_obj": file,
            "spatial_shape": np.asarray(shape),
            ORIGINAL_AFFINE: affine,
            "original_channel_dim": float("nan"),  # MONAI's word for a file without channels
        }
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(written)), affine=affine, meta=about)

    def _decided(self, logits: torch.Tensor, shape: tuple[int, ...]) -> Array:
        """(x, y, z): the number of the winner, or of the last region that is there, counted from 1."""
        shifts = [_shift(name, self.steps) for name, value in self.labels.items() if value != 0]
        found = torch.zeros(shape, dtype=torch.int32, device=logits.device)
        best = torch.full(shape, 0.0 if self.regions else -math.inf, device=logits.device)
        for number, one in enumerate(logits):
            if self.regions and any(shifts):
                one = one - shifts[number]
            coarse = one[None, None].contiguous()
            fine = interpolate(coarse, shape, mode="trilinear", align_corners=False)[0, 0]
            wins = fine > best
            found[wins] = number + 1 if self.regions else number
            if not self.regions:
                torch.maximum(best, fine, out=best)
        numbers: Array = found.cpu().numpy()
        return numbers


def case_file(name: str, *, several: bool) -> str:
    """The name that a case's label map gets: of several files for its channels, without their number."""
    folder, slash, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    if several and stem[-5:-4] == "_" and stem[-4:].isdigit():
        stem = stem[:-5]
    return f"{folder}{slash}{stem}{dot}{ending}"


def _shift(name: str, steps: Mapping[str, Any]) -> float:
    threshold = steps.get("threshold", {}).get(name, 0.5)
    return math.log(threshold / (1 - threshold))


def tidied(
    label_map: Array,
    steps: Mapping[str, Any],
    labels: Mapping[str, Any],
    written: Sequence[int],
    voxel_ml: float,
) -> Array:
    """A copy of a label map after the steps of each label, in their order.

    What a label loses becomes background, or, of a region, the last region before it that holds all of it.
    """
    result = label_map.copy()
    foreground = {name: np.atleast_1d(value) for name, value in labels.items() if value != 0}
    written = list(written) or [int(value[0]) for value in foreground.values()]
    for (name, value), own in zip(foreground.items(), written):
        before = np.isin(result, value)
        after = _tidied_mask(before, steps, name, voxel_ml) if before.any() else before
        around = _around(name, foreground, written)
        result[before & ~after] = around
        result[after & ~before & np.isin(result, (0, around))] = own
    return result


def _tidied_mask(mask: Array, steps: Mapping[str, Any], name: str, voxel_ml: float) -> Array:
    if least := steps.get("minimum_ml", {}).get(name):
        mask = _components(mask, lambda sizes: sizes * voxel_ml >= least)
    if name in steps.get("largest_component", ()):
        mask = _components(mask, lambda sizes: np.arange(len(sizes)) == sizes.argmax())
    if name in steps.get("fill_holes", ()):
        from scipy.ndimage import binary_fill_holes

        mask = binary_fill_holes(mask)
    return mask


def _components(mask: Array, kept: Callable[[Array], Any]) -> Array:
    from scipy.ndimage import generate_binary_structure, label

    numbered, count = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    if not count:
        return mask
    chosen = np.concatenate([[False], kept(np.bincount(numbered.ravel())[1:])])
    found: Array = chosen[numbered]
    return found


def _around(name: str, labels: Mapping[str, Array], written: Sequence[int]) -> int:
    found, value = 0, set(labels[name].tolist())
    for (other, values), own in zip(labels.items(), written):
        if other == name:
            break
        if value < set(values.tolist()):
            found = own
    return found
