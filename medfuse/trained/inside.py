"""What is inside a trained network at one case, as the report's pictures: channels of maps, and Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.infer.features import fullest_window
from medfuse.model.gradcam import grad_cam
from medfuse.model.segmenter import Segmenter
from medfuse.report.feature_maps import Evidence, ImageSlice, Picture, bars, evidence, montage

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class CaseInside:
    """A case on the network's grid: `image` (channels, x, y, z), and `predicted` class numbers (x, y, z)."""

    image: npt.NDArray[np.float32]
    predicted: Labels


@dataclass(frozen=True)
class Output:
    """A label: the channel of its logit, and the class numbers that it has in a prediction."""

    name: str
    channel: int
    numbers: tuple[int, ...]


def draw_inside(
    network: Segmenter,
    case: CaseInside,
    info: ImageInfo,
    *,
    maps: Sequence[FeatureInfo] = (),
    gradcam: Sequence[FeatureInfo] = (),
    labels: Sequence[Output] = (),
) -> list[Picture]:
    """A montage of each of `maps`, or bars of what is image-level, and Grad-CAM of `labels` on each of
    `gradcam`.

    Each looks at one window, the one with most of the prediction (of the label, for Grad-CAM), and shows the
    axial slice on which that has its largest area. Grad-CAM is of the voxels that the label map has, after
    all that was done to it, so that of a region inside another it is of the inner voxels, and of both.
    """
    device = next(network.parameters()).device
    made = []
    if maps:
        view = _View.of(case, case.predicted > 0, info)
        with torch.inference_mode():
            _, _, found = network(view.window.to(device)[None], (), tuple(f.name for f in maps))
        for f in maps:
            if f.image_level:
                made.append(bars(f.name, found[f.name].flatten().float().cpu().numpy()))
                continue
            channels = view.slice_of(found[f.name][0], f.stride)
            made.append(montage(f.name, view.image, channels, (f.stride[0], f.stride[1])))
    masks = (np.isin(case.predicted, label.numbers) for label in labels)
    views = [_View.of(case, mask, info) for mask in masks] if gradcam else []
    for f in gradcam:
        seen = []
        for number, (label, view) in enumerate(zip(labels, views)):
            where = torch.from_numpy(view.inside).to(device)
            heat = grad_cam(network, view.window.to(device), f.name, label.channel, where=where)
            stride = (f.stride[0], f.stride[1])
            seen.append(
                Evidence(label.name, number, view.image, view.slice_of(heat, f.stride), stride, view.mask)
            )
        made.append(evidence(f.name, seen))
    return made


@dataclass(frozen=True, eq=False)
class _View:
    """A `window` (channels, *patch_size), what is `inside` of a mask there, and the slice `at` of both.

    `image` is the slice of the first channel.
    """

    window: Tensor
    inside: npt.NDArray[np.bool_]
    at: int
    image: ImageSlice
    mask: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, case: CaseInside, mask: npt.NDArray[np.bool_], info: ImageInfo) -> _View:
        flat = info.dims == 2
        z = int(mask.sum((0, 1)).argmax()) if mask.any() else mask.shape[2] // 2
        if flat:
            x, y, _ = fullest_window(mask[..., z : z + 1], info.patch_size)
            where = (x, y, slice(z, z + 1))
        else:
            where = fullest_window(mask, info.patch_size)
        size = (*info.patch_size, 1)[:3]
        window = _filled(case.image[(slice(None), *where)], size)
        inside = _filled(mask[where][None], size)[0]
        at = int(inside.sum((0, 1)).argmax()) if inside.any() else size[2] // 2
        dx, dy = info.spacing_mm[:2]
        return cls(
            torch.from_numpy(window[..., 0] if flat else window),
            inside[..., 0] if flat else inside,
            at,
            ImageSlice(window[0, :, :, at], (dx, dy)),
            inside[:, :, at],
        )

    def slice_of(self, found: Tensor, stride: Sequence[int]) -> npt.NDArray[np.float32]:
        """(…, x, y) of a map (…, x, y, z), or of one that is flat already."""
        array: npt.NDArray[np.float32] = found.float().cpu().numpy()
        if self.window.ndim == 3:
            return array
        return array[..., min(array.shape[-1] - 1, round(self.at / stride[2]))]


def _filled(array: npt.NDArray[Any], size: Sequence[int]) -> npt.NDArray[Any]:
    """(channels, x, y, z) with zeros behind it where it is smaller than `size`."""
    short = [max(0, wanted - n) for wanted, n in zip(size, array.shape[1:])]
    return np.pad(array, [(0, 0), *((0, n) for n in short)]) if any(short) else np.ascontiguousarray(array)
