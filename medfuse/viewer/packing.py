"""A drawn case as what a page carries: a header, and compressed voxels as text."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.text import number
from medfuse.viewer.scene import Drawn
from medfuse.volumes.nifti import header_at

SOFT_TISSUE_HU = (-160.0, 240.0)
_AIR_HU, _DENSEST_HU = -900.0, 35_000.0
_STEPS = 65_000
_SAMPLED = 1_000_000


@dataclass(frozen=True)
class Packed:
    """`about` is for JSON; `parts` are voxels, gzip in base64: of the scan, and then of each layer."""

    name: str
    about: dict[str, Any]
    parts: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(map(len, self.parts)) + len(json.dumps(self.about))


def pack(drawn: Drawn) -> Packed:
    """Nothing of a file's own header is in it but where its voxels lie."""
    scan, slope, inter, window, ct = _stored(drawn)
    shape = drawn.scan.shape
    scene = drawn.scene
    header, _ = header_at(shape, scan.dtype, drawn.affine)
    label_type = drawn.layers[0].dtype if drawn.layers else np.dtype(np.uint8)
    label_header, _ = header_at(shape, label_type, drawn.affine)
    about = {
        "name": scene.name,
        "shape": list(shape),
        "affine": [[float(f"{x:.9g}") for x in row] for row in drawn.affine[:3]],
        "header": base64.b64encode(header).decode(),
        "labelHeader": base64.b64encode(label_header).decode(),
        "slope": slope,
        "inter": inter,
        "window": window,
        "ct": ct,
        "layers": [*scene.layers, *(["uncertainty"] if scene.unsure else [])],
        "compared": len(scene.layers),
        "classes": [
            {"value": c.value, "name": c.name, "color": c.color, "ml": c.ml, "at": c.at}
            for c in drawn.classes
        ],
        "dice": {name: round(d, 4) for name, d in scene.dice.items() if d is not None},
        "meanDice": number(scene.mean_dice, 3) if scene.mean_dice is not None else "",
        "notes": list(drawn.notes),
        "view": _view(shape),
    }
    parts = tuple(_text(array) for array in (scan, *drawn.layers))
    return Packed(scene.name, about, parts, drawn.notes)


def _stored(
    drawn: Drawn,
) -> tuple[npt.NDArray[Any], float, float, tuple[float, float], bool]:
    """Voxels as integers, by which numbers they become values again, the window, and whether it is CT."""
    scan = drawn.scan
    step = max(1, round((scan.size / _SAMPLED) ** (1 / 3)))
    sample = scan[::step, ::step, ::step]
    sample = sample[np.isfinite(sample)] if np.isfinite(sample).any() else scan[np.isfinite(scan)]
    finite = scan if scan.dtype.kind != "f" else np.where(np.isfinite(scan), scan, np.nan)
    low, high = (float(np.nanmin(finite)), float(np.nanmax(finite))) if sample.size else (0.0, 0.0)
    ct = drawn.scene.ct
    if ct is None:
        ct = -4096 <= low <= _AIR_HU and 100 <= high <= _DENSEST_HU
    window = SOFT_TISSUE_HU if ct else window_of(sample.astype(np.float64))
    whole = scan.dtype.kind in "iub" or bool(np.array_equal(np.rint(finite), finite, equal_nan=True))
    for kind in (np.uint8, np.int16):
        limits = np.iinfo(kind)
        if whole and limits.min <= low and high <= limits.max:
            return np.nan_to_num(finite, nan=low).astype(kind), 1.0, 0.0, window, ct
    width = window[1] - window[0]
    low, high = max(low, window[0] - 50 * width), min(high, window[1] + 50 * width)
    slope = (high - low) / _STEPS or 1.0
    steps = np.rint((np.clip(np.nan_to_num(finite, nan=low), low, high) - low) / slope) - _STEPS // 2
    return steps.astype(np.int16), slope, low + slope * (_STEPS // 2), window, ct


def window_of(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Percentiles 1 and 99 of what is not exactly 0, the usual fill around a scan."""
    found = values[np.isfinite(values) & (values != 0)]
    if not found.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(found, (1, 99)))
    return (low, high) if high > low else (low, low + 1)


def _view(shape: tuple[int, ...]) -> str:
    """What is shown first: of a single slice, its plane."""
    flat = [axis for axis in range(3) if shape[axis] == 1]
    return ("sagittal", "coronal", "axial")[flat[-1]] if flat else "all"


def _text(array: npt.NDArray[Any]) -> str:
    from isal import igzip

    return base64.b64encode(igzip.compress(array.tobytes(order="F"), 2, mtime=0)).decode("ascii")
