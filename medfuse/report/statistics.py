"""What a label map says of its image, class by class: volume, intensities, components, place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue, mask_of

DECILES = tuple(range(10, 100, 10))
_DIGITS = 6

Box = tuple[slice, slice, slice]
Slabs = Iterable[tuple[int, int, npt.NDArray[Any]]]
"""Channel, first row k, and voxels (i, j, rows), as `SlabReader.read` gives them."""


def measure(
    label_map: npt.NDArray[Any],
    geometry: Geometry,
    labels: Mapping[str, LabelValue],
    channels: Sequence[str],
    slabs: Slabs,
) -> dict[str, dict[str, Any]]:
    """Class → its numbers, of a label map (i, j, k) and the image of the same grid; without background.

    A region is the union of its values. Voxels are counted from 0 along the file's axes, boxes hold both
    ends; mm are the patient's (RAS+). Components touch at corners, as in postprocessing, the largest first.
    What a class that is absent has no number for is None.
    """
    classes = {name: value for name, value in labels.items() if value != 0}
    boxes = {name: _box(label_map, value) for name, value in classes.items()}
    found = {
        name: _absent(channels) if box is None else _shape(label_map, geometry, classes[name], box)
        for name, box in boxes.items()
    }
    values: dict[tuple[str, int], list[npt.NDArray[Any]]] = {}
    for channel, first, slab in slabs:
        for name, box in boxes.items():
            if box is None:
                continue
            rows = slice(max(first, box[2].start), min(first + slab.shape[2], box[2].stop))
            if rows.start < rows.stop:
                mask = mask_of(label_map[box[0], box[1], rows], classes[name])
                part = slab[box[0], box[1], rows.start - first : rows.stop - first]
                values.setdefault((name, channel), []).append(part[mask])
    for (name, channel), parts in values.items():
        found[name].setdefault("intensity", {})[channels[channel]] = _spread(np.concatenate(parts))
    return found


def _box(label_map: npt.NDArray[Any], value: LabelValue) -> Box | None:
    """The smallest that holds a class; slice by slice, so that no mask of the whole is made."""
    low, high = [np.iinfo(int).max] * 3, [-1] * 3
    for k in range(label_map.shape[2]):
        mask = mask_of(label_map[:, :, k], value)
        if not mask.any():
            continue
        for axis, at in enumerate((np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0)), np.array([k]))):
            low[axis], high[axis] = min(low[axis], int(at[0])), max(high[axis], int(at[-1]))
    if high[2] < 0:
        return None
    i, j, k_ = (slice(a, b + 1) for a, b in zip(low, high))
    return i, j, k_


def _shape(label_map: npt.NDArray[Any], geometry: Geometry, value: LabelValue, box: Box) -> dict[str, Any]:
    from scipy.ndimage import generate_binary_structure, label

    mask = mask_of(label_map[box], value)
    numbered, _ = label(mask, generate_binary_structure(3, 3))
    sizes = np.sort(np.bincount(numbered.ravel())[1:])[::-1]
    voxels = int(mask.sum())
    start = np.array([side.start for side in box])
    centre = (
        np.array([(np.arange(n) * _sums(mask, a)).sum() for a, n in enumerate(mask.shape)]) / voxels + start
    )
    ends = np.array([[side.start, side.stop - 1] for side in box])
    corners = np.stack(np.meshgrid(*(ends + np.array([-0.5, 0.5]))), -1).reshape(-1, 3)
    in_mm = _in_mm(geometry, corners)
    return {
        "volume_ml": _rounded(voxels * geometry.voxel_ml),
        "voxels": voxels,
        "components": len(sizes),
        "component_ml": [_rounded(n * geometry.voxel_ml) for n in sizes.tolist()],
        "box_voxels": ends.tolist(),
        "box_mm": [[_rounded(low), _rounded(high)] for low, high in zip(in_mm.min(0), in_mm.max(0))],
        "centroid_mm": [_rounded(mm) for mm in _in_mm(geometry, centre[None])[0]],
    }


def _absent(channels: Sequence[str]) -> dict[str, Any]:
    return {
        "volume_ml": 0.0,
        "voxels": 0,
        "components": 0,
        "component_ml": [],
        "box_voxels": None,
        "box_mm": None,
        "centroid_mm": None,
        "intensity": dict.fromkeys(channels),
    }


def _sums(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.int64]:
    return np.asarray(mask.sum(axis=tuple(a for a in range(3) if a != axis)), np.int64)


def _in_mm(geometry: Geometry, voxels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RAS+ mm of places (n, 3) in voxels."""
    return np.asarray(voxels @ geometry.affine[:3, :3].T + geometry.affine[:3, 3])


def _spread(voxels: npt.NDArray[Any]) -> dict[str, Any]:
    numbers = voxels.astype(np.float64)
    return {
        "mean": _rounded(numbers.mean()),
        "deciles": [_rounded(v) for v in np.percentile(numbers, DECILES)],
    }


def _rounded(number: float) -> float:
    return round(float(number), _DIGITS)


def as_csv(cases: Mapping[str, Mapping[str, Mapping[str, Any]]], channels: Sequence[str]) -> str:
    """A row for each case and class of what `measure` says. Blanks part the sizes of components."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    edges = [
        f"{end}_{axis}{unit}"
        for unit, axes in (("", "ijk"), ("_mm", "xyz"))
        for axis in axes
        for end in ("min", "max")
    ]
    intensity = [
        f"{channel} {what}" for channel in channels for what in ("mean", *(f"p{d}" for d in DECILES))
    ]
    head = ["volume_ml", "voxels", "components", "component_ml"]
    writer.writerow(["case", "class", *head, *edges, "x_mm", "y_mm", "z_mm", *intensity])
    for case, classes in cases.items():
        for name, one in classes.items():
            box = [n for key in ("box_voxels", "box_mm") for ends in one[key] or [("", "")] * 3 for n in ends]
            spread = (one["intensity"].get(channel) for channel in channels)
            numbers = [
                n for s in spread for n in ([s["mean"], *s["deciles"]] if s else [""] * (1 + len(DECILES)))
            ]
            sizes = " ".join(map(str, one["component_ml"]))
            writer.writerow(
                [
                    case,
                    name,
                    *(one[key] for key in head[:3]),
                    sizes,
                    *box,
                    *(one["centroid_mm"] or [""] * 3),
                    *numbers,
                ]
            )
    return text.getvalue()
