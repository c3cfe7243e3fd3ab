"""A case as it is shown: its scan, layers of labels on the same grid, what each value is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.label_table import LabelEntry, palette_color
from medfuse.core.text import by as times
from medfuse.viewer.coarse import Factors, coarse_affine, factors, means, most_frequent
from medfuse.volumes.dicom.origins import place_of
from medfuse.volumes.endings import is_picture
from medfuse.volumes.read import read_geometry, read_labels, read_volume
from medfuse.volumes.volume import Volume, slabs_of, smallest_integer, values_of

IGNORED = "#8c8c8c"
UNSURE = {0.1: "#fff3b0", 0.3: "#ffd166", 0.5: "#f8961e", 0.7: "#e5383b", 0.9: "#9d0208"}
"""Steps of uncertainty, each from there on, and their colours."""


@dataclass(frozen=True)
class Scene:
    """The files of a case. `layers`: label maps by what they are, such as reference and prediction.

    `entries`: what the table of labels says; values that it does not have are named by their number.
    `ignore`: the value of voxels that nobody annotated. `ct`: whether it is CT; told from its values if None.
    `dice`: of each label, where it is known. `channel`: which of an image of several is shown, from 0 on.
    `unsure`: a volume of how unsure each voxel is, 0 to 1, which is drawn in steps.
    """

    name: str
    image: Path
    layers: Mapping[str, Path] = field(default_factory=dict)
    entries: tuple[LabelEntry, ...] = ()
    ignore: int | None = None
    ct: bool | None = None
    dice: Mapping[str, float | None] = field(default_factory=dict)
    mean_dice: float | None = None
    channel: int = 0
    tolerance_mm: float = 1e-3
    unsure: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """A class of the page: a value of the label maps, its name and colour.

    ml: its volume in each layer, of the full scan. at: a voxel (x, y, z) of it as drawn, in the middle of its
    largest slice; None where it is in no layer.
    """

    value: int
    name: str
    color: str
    ml: tuple[float, ...]
    at: tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class Drawn:
    """A scene in numbers, as RAS+ (x, y, z). `layers` hold places in `classes`, from 1 on; 0 is nothing."""

    scene: Scene
    scan: npt.NDArray[Any]
    layers: tuple[npt.NDArray[Any], ...]
    affine: npt.NDArray[np.float64]
    classes: tuple[Shown, ...]
    notes: tuple[str, ...]


def draw(scene: Scene, most_voxels: int) -> Drawn:
    """Read a scene, of at most so many voxels. Raises DataError for a file that is no use."""
    image, notes = _grey(scene)
    geometry = image.geometry
    by = factors(geometry.ras_shape, geometry.ras_spacing_mm, most_voxels)
    scan = means(geometry.turn.apply(image.array), by)
    whole = image.array.dtype.kind in "iub"
    scan = np.rint(scan) if whole and by != (1, 1, 1) else scan
    del image
    read = [_layer(scene, path, by) for path in scene.layers.values()]
    values = sorted(set[int]().union(*(layer.counts for layer in read)) - {0})
    dtype = smallest_integer(len(values) + (len(UNSURE) if scene.unsure else 0))
    places = [_places(layer.array, values, dtype) for layer in read]
    classes = _classes(scene, values, read, places, geometry.voxel_ml)
    if scene.unsure:
        layer, steps = _unsure(scene, scene.unsure, by, len(values), dtype)
        places, classes = [*places, layer], (*classes, *steps)
    if by != (1, 1, 1):
        notes.append(_coarse_note(geometry.ras_shape, geometry.ras_spacing_mm, by))
    return Drawn(
        scene,
        scan,
        tuple(places),
        coarse_affine(as_ras(geometry).affine, by),
        classes,
        (*scene.notes, *notes),
    )


def _grey(scene: Scene) -> tuple[Volume, list[str]]:
    """The scan as one number for each voxel, and what to tell of it."""
    volume = read_volume(scene.image)
    array, notes = volume.array, list[str]()
    if array.ndim == 4 and is_picture(scene.image) and array.shape[3] in (3, 4):
        array = array[..., :3].mean(axis=3, dtype=np.float32).round().astype(np.uint8)
        notes.append("its colours are drawn as grey")
    elif array.ndim == 4:
        if scene.channel >= array.shape[3]:
            raise DataError(
                f"{scene.image}: has {array.shape[3]} channels; there is none of number {scene.channel + 1}"
            )
        notes.append(f"channel {scene.channel + 1} of {array.shape[3]} is drawn")
        array = array[..., scene.channel]
    elif scene.channel:
        raise DataError(f"{scene.image}: has one channel; there is none of number {scene.channel + 1}")
    if array.dtype.kind == "f" and (lacking := int((~np.isfinite(array)).sum())):
        notes.append(f"{lacking} of its voxels are not numbers, and drawn as the darkest")
    return Volume(array, volume.geometry), notes


@dataclass(frozen=True, eq=False)
class _Layer:
    array: npt.NDArray[Any]
    counts: Mapping[int, int]


def _layer(scene: Scene, path: Path, by: Factors) -> _Layer:
    """A label map as drawn, with the number of voxels of each value in the file. Raises DataError.

    Its axes may be stored in another order or direction than those of the scan.
    """
    own = _on_the_grid(scene, path)
    array = read_labels(path).array
    return _Layer(most_frequent(own.turn.apply(array), by), _counts(array))


def _unsure(
    scene: Scene, path: Path, by: Factors, before: int, dtype: npt.DTypeLike
) -> tuple[npt.NDArray[Any], tuple[Shown, ...]]:
    """Steps of uncertainty as a layer, whose classes come after `before` others. Raises DataError."""
    own = _on_the_grid(scene, path)
    array = np.nan_to_num(read_volume(path).array)
    whole = np.digitize(array, [*UNSURE])
    drawn = np.digitize(means(own.turn.apply(array), by), [*UNSURE])
    layer = np.asfortranarray(np.where(drawn > 0, drawn + before, 0).astype(dtype))
    steps = []
    for step, (low, high) in enumerate(zip(UNSURE, [*list(UNSURE)[1:], 1.0]), 1):
        ml = float((whole == step).sum()) * own.voxel_ml
        at = _middles([np.where(drawn == step, 1, 0)], 1).get(1)
        steps.append(Shown(-step, f"unsure {low:g} to {high:g}", UNSURE[low], (ml,), at))
    return layer, tuple(steps)


def _on_the_grid(scene: Scene, path: Path) -> Geometry:
    """The grid of a file that is drawn over the scan. Raises DataError where it is another."""
    grid, own = read_geometry(scene.image), read_geometry(path)
    if as_ras(grid).differences(as_ras(own), scene.tolerance_mm):
        unlike = "; ".join(grid.differences(own, scene.tolerance_mm))
        remedy = grid.remedy(own, "give labels on the grid of the scan, or resample one to the other")
        raise DataError(f"{place_of(path)}: {unlike} in {place_of(scene.image)}; {remedy}")
    return own


def as_ras(geometry: Geometry) -> Geometry:
    """The same voxels with the axes (x, y, z) that those of the file are turned to."""
    turned = np.zeros((4, 4))
    turned[3, 3] = 1
    for axis, (own, flipped) in enumerate(zip(geometry.turn.axes, geometry.turn.flipped)):
        turned[own, axis] = -1 if flipped else 1
        turned[own, 3] = geometry.shape[own] - 1 if flipped else 0
    return Geometry(geometry.ras_shape, geometry.affine @ turned, geometry.spaced)


def _counts(array: npt.NDArray[Any]) -> dict[int, int]:
    if array.dtype == np.uint8:
        total = np.zeros(256, np.int64)
        for _, slab in slabs_of(array):
            total += np.bincount(slab.ravel(order="K"), minlength=256)
        return {value: int(count) for value, count in enumerate(total) if count}
    values = np.asarray(values_of(array), dtype=array.dtype)
    counts = np.zeros(len(values), np.int64)
    for _, slab in slabs_of(array):
        counts += np.bincount(np.searchsorted(values, slab.ravel(order="K")), minlength=len(values))
    return {int(value): int(count) for value, count in zip(values, counts)}


def _places(array: npt.NDArray[Any], values: list[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Values → their places in the table, 1 for the first; F-ordered."""
    if array.dtype.kind in "ub" and array.dtype.itemsize <= 2:
        table = np.zeros(np.iinfo(np.dtype(f"u{array.dtype.itemsize}")).max + 1, dtype)
        table[[v for v in values if v < len(table)]] = [
            place for place, v in enumerate(values, 1) if v < len(table)
        ]
        return np.asfortranarray(table[array])
    known = np.asarray([0, *values], np.int64)
    return np.asfortranarray(np.searchsorted(known, array.astype(np.int64)).astype(dtype))


def _classes(
    scene: Scene,
    values: list[int],
    read: list[_Layer],
    places: list[npt.NDArray[Any]],
    voxel_ml: float,
) -> tuple[Shown, ...]:
    """Those of the table, and other values of the label maps, in the order of values."""
    named = names_of(scene.entries)
    if scene.ignore is not None:
        named[scene.ignore] = ("not annotated", IGNORED)
    made = []
    middles = _middles(places, len(values))
    for place, value in enumerate(values, 1):
        name, color = named.get(value) or (
            f"value {value}" if named else str(value),
            palette_color(value - 1),
        )
        ml = tuple(layer.counts.get(value, 0) * voxel_ml for layer in read)
        made.append(Shown(value, name, color, ml, middles.get(place)))
    return tuple(made)


def names_of(entries: tuple[LabelEntry, ...]) -> dict[int, tuple[str, str]]:
    """Value → name and colour. Of regions that share a value, those with the fewest name it."""
    found: dict[int, tuple[str, str]] = {}
    for value in sorted({v for entry in entries for v in entry.members} - {0}):
        holding = [entry for entry in entries if value in entry.members]
        least = min(len(entry.members) for entry in holding)
        inner = [entry for entry in holding if len(entry.members) == least]
        found[value] = " and ".join(entry.name for entry in inner), inner[0].color
    return found


def _middles(places: list[npt.NDArray[Any]], count: int) -> dict[int, tuple[int, int, int]]:
    """Place in the table → a voxel of it, in the first layer that has one."""
    found: dict[int, tuple[int, int, int]] = {}
    for layer in places:
        areas = np.stack(
            [np.bincount(layer[:, :, z].ravel(), minlength=count + 1) for z in range(layer.shape[2])]
        )
        for place in range(1, count + 1):
            z = int(areas[:, place].argmax())
            if place not in found and areas[z, place]:
                inside = np.argwhere(layer[:, :, z] == place)
                x, y = inside[((inside - inside.mean(axis=0)) ** 2).sum(axis=1).argmin()]
                found[place] = int(x), int(y), z
    return found


def _coarse_note(shape: tuple[int, ...], spacing_mm: tuple[float, ...], by: Factors) -> str:
    mm = "×".join(f"{s * f:.3g}" for s, f in zip(spacing_mm, by))
    return (
        f"drawn in voxels of {mm} mm, each of which stands for {times(by)} of the scan's {times(shape)}: "
        "what is smaller may not be seen"
    )
