"""Small pictures of a case, one for each plane, with no paper around them: they suit light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.labels import LabelValue, mask_of
from medfuse.report.overlays import (
    OverlayCase,
    Plane,
    colors_of,
    cut,
    foreground,
    grey_window,
    read_overlay,
)

HEIGHT_PX = 280
_WIDEST_PX = 420
_FILLED, _LIGHTER = 0.45, 0.35


@dataclass(frozen=True)
class Thumbnail:
    """A plane as JPEG. `letters`: at its left and on top. mm: its width."""

    name: str
    letters: str
    jpeg: bytes
    size_px: tuple[int, int]
    width_mm: float


def thumbnails(case: OverlayCase, labels: Mapping[str, LabelValue]) -> tuple[Thumbnail, ...]:
    """Axial, coronal, sagittal, in one scale, through the largest areas of the labels. Raises DataError."""
    image, reference, prediction = read_overlay(case)
    planes = cut(image, reference, prediction, labels)
    low, high = grey_window(image.array, case.ct)
    colors = [bytes.fromhex(color[1:]) for color in colors_of(labels, case.colors)]
    tallest, widest = (max(plane.size_mm[side] for plane in planes) for side in (0, 1))
    per_mm = min(HEIGHT_PX / tallest, _WIDEST_PX / widest)
    return tuple(_thumbnail(plane, labels, colors, low, high, per_mm) for plane in planes)


def _thumbnail(
    plane: Plane,
    labels: Mapping[str, LabelValue],
    colors: Sequence[bytes],
    low: float,
    high: float,
    per_mm: float,
) -> Thumbnail:
    from PIL import Image
    from scipy.ndimage import binary_erosion

    height, width = (max(1, round(mm * per_mm)) for mm in plane.size_mm)
    grey = np.nan_to_num(plane.image.astype(np.float32), nan=low, posinf=high, neginf=low)
    grey = np.clip((grey - low) / (high - low), 0, 1) * 255
    scan = Image.fromarray(grey.round().astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    made = np.repeat(np.asarray(scan, np.float32)[..., None], 3, axis=2)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip((height, width), plane.image.shape)
    )
    truth, ours = (array[np.ix_(rows, columns)] for array in (plane.reference, plane.prediction))
    for color, (_, value) in zip(colors, foreground(labels)):
        inside = mask_of(ours, value)
        made[inside] = made[inside] * (1 - _FILLED) + _FILLED * _rgb(color)
    for color, (_, value) in zip(colors, foreground(labels)):
        inside = mask_of(truth, value)
        if inside.any():
            edge = inside & ~binary_erosion(inside, border_value=1)
            made[edge] = _rgb(color) * (1 - _LIGHTER) + 255 * _LIGHTER
    content = BytesIO()
    picture = Image.fromarray(made.round().astype(np.uint8))
    picture.save(content, "JPEG", quality=82, subsampling=0)
    return Thumbnail(
        plane.name, plane.letters[0] + plane.letters[2], content.getvalue(), (width, height), plane.size_mm[1]
    )


def _rgb(color: bytes) -> npt.NDArray[Any]:
    return np.frombuffer(color, np.uint8).astype(np.float32)
