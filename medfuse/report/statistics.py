"""What a label map says of its image, class by class: volume, intensities, components, place."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue, mask_of, members
from medfuse.quality.components import Components
from medfuse.report.spread import DECILES, Spread

_DIGITS = 6
_MANY = 1 << 16
"""Beyond it, values are numbered anew."""

Box = tuple[slice, slice, slice]
Numbers = npt.NDArray[np.int64]
LabelSlabs = Iterable[tuple[int, npt.NDArray[Any]]]
"""First row k, and label values (i, j, rows), all rows in order."""
Slabs = Iterable[tuple[int, int, npt.NDArray[Any]]]
"""Channel, first row k, and voxels (i, j, rows), as `SlabReader.read` gives them: channel by channel."""


def measure(
    label_map: Callable[[], LabelSlabs],
    geometry: Geometry,
    labels: Mapping[str, LabelValue],
    channels: Sequence[str],
    image: Callable[[], Slabs],
) -> dict[str, dict[str, Any]]:
    """Class → its numbers, of a label map (i, j, k) and the image of the same grid; without background.

    Both are read slab by slab, the label map once more for each channel, and all again where an image holds
    more than 16 bits. A region is the union of its values. Voxels are counted from 0 along the file's axes,
    boxes hold both ends; mm are the patient's (RAS+). Components touch at corners, as in postprocessing, the
    largest first. What a class that is absent has no number for is None.
    """
    classes = {name: value for name, value in labels.items() if value != 0}
    shapes = {name: _Shape() for name in classes}
    for first, slab in label_map():
        for name, box in _boxes(slab, classes).items():
            shapes[name].add(first, box, mask_of(slab[box], classes[name]))
    found = {
        name: shape.numbers(geometry) if shape.voxels else _absent(channels) for name, shape in shapes.items()
    }
    spreads = {(name, n): Spread() for name in classes for n in range(len(channels)) if shapes[name].voxels}
    unknown = spreads
    while unknown:
        for channel, slab, part in _together(label_map, image()):
            there = {name: value for name, value in classes.items() if (name, channel) in unknown}
            for name, box in _boxes(slab, there).items():
                unknown[name, channel].add(part[box][mask_of(slab[box], classes[name])])
        unknown = {key: spread for key, spread in unknown.items() if not spread.is_known()}
    for (name, channel), spread in spreads.items():
        found[name].setdefault("intensity", {})[channels[channel]] = {
            "mean": _rounded(spread.mean()),
            "deciles": [_rounded(number) for number in spread.deciles()],
        }
    return found


def _together(
    label_map: Callable[[], LabelSlabs], image: Slabs
) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[Any]]]:
    """Channel, labels and voxels of the same rows."""
    rows: Iterator[tuple[int, npt.NDArray[Any]]] = iter(())
    start, held = 0, np.zeros((0, 0, 0))
    for channel, first, slab in image:
        done = 0
        while done < slab.shape[2]:
            k = first + done
            if k == 0:
                rows = iter(label_map())
                start, held = next(rows)
            while k >= start + held.shape[2]:
                start, held = next(rows)
            count = min(slab.shape[2] - done, start + held.shape[2] - k)
            yield channel, held[:, :, k - start : k - start + count], slab[:, :, done : done + count]
            done += count


def _boxes(slab: npt.NDArray[Any], classes: Mapping[str, LabelValue]) -> dict[str, Box]:
    """The classes that a slab holds, each with the smallest box that holds it there."""
    from scipy.ndimage import find_objects

    largest = int(slab.max())
    if largest > _MANY:
        values = np.unique(slab)
        values = values[values != 0]
        slab = np.where(slab, np.searchsorted(values, slab) + 1, 0)
        of_value = dict(zip(values.tolist(), find_objects(slab, len(values)), strict=True))
    else:
        of_value = {n: box for n, box in enumerate(find_objects(slab, largest), 1) if box}
    made = {}
    for name, value in classes.items():
        boxes = [of_value[n] for n in members(value) if n in of_value]
        if boxes:
            i, j, k = (
                slice(min(b[axis].start for b in boxes), max(b[axis].stop for b in boxes))
                for axis in range(3)
            )
            made[name] = (i, j, k)
    return made


@dataclass
class _Shape:
    """Where a class is, as it is added slab by slab."""

    voxels: int = 0
    low: Numbers = field(default_factory=lambda: np.full(3, np.iinfo(np.int64).max))
    high: Numbers = field(default_factory=lambda: np.full(3, -1, np.int64))
    sums: Numbers = field(default_factory=lambda: np.zeros(3, np.int64))
    components: Components = field(default_factory=Components)

    def add(self, first: int, box: Box, mask: npt.NDArray[np.bool_]) -> None:
        start = np.array([box[0].start, box[1].start, box[2].start + first], np.int64)
        own = int(mask.sum())
        for axis, n in enumerate(mask.shape):
            along = mask.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.int64)
            self.sums[axis] += int((np.arange(n) * along).sum()) + own * int(start[axis])
        self.voxels += own
        self.low = np.minimum(self.low, start)
        self.high = np.maximum(self.high, start + mask.shape - 1)
        self.components.add((int(start[0]), int(start[1]), int(start[2])), mask)

    def numbers(self, geometry: Geometry) -> dict[str, Any]:
        ends = np.stack([self.low, self.high], axis=1)
        corners = np.stack(np.meshgrid(*(ends + np.array([-0.5, 0.5]))), -1).reshape(-1, 3)
        in_mm = _in_mm(geometry, corners)
        sizes = self.components.sizes()
        return {
            "volume_ml": _rounded(self.voxels * geometry.voxel_ml),
            "voxels": self.voxels,
            "components": len(sizes),
            "component_ml": [_rounded(n * geometry.voxel_ml) for n in sizes],
            "box_voxels": ends.tolist(),
            "box_mm": [[_rounded(low), _rounded(high)] for low, high in zip(in_mm.min(0), in_mm.max(0))],
            "centroid_mm": [_rounded(mm) for mm in _in_mm(geometry, (self.sums / self.voxels)[None])[0]],
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


def _in_mm(geometry: Geometry, voxels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RAS+ mm of places (n, 3) in voxels."""
    return np.asarray(voxels @ geometry.affine[:3, :3].T + geometry.affine[:3, 3])


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
