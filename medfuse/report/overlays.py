"""A case in three planes: image, prediction filled, reference as a line.

Planes are those of the patient, whatever the axes of the file: every volume is turned to RAS+ first.
Axial and coronal slices are seen as radiologists see them, from the feet and from the front: the patient's
right is on the left. Sagittal slices have the front on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.label_table import LabelSays, entries_of
from medfuse.core.labels import LabelValue, mask_of, members
from medfuse.report.figures import INK, PALETTE, SOFT, colour, encode, literal, new_figure, save
from medfuse.viewer.packing import SOFT_TISSUE_HU, window_of
from medfuse.volumes.read import read_labels, read_volume
from medfuse.volumes.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANES = (("axial", 2, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 0, "APSI"))
"""Name, the RAS+ axis that is sliced, and the letters at left, right, top and bottom."""

MOST_IN_LEGEND = 12
WIDTH_IN, TOP_IN, BOTTOM_IN = 10.0, 0.35, 0.55


@dataclass(frozen=True)
class OverlayCase:
    """The files of one picture. `ct` shows Hounsfield units in a soft-tissue window, else percentiles.

    Of an image with channels the first is shown. Without a prediction or a reference that one is left out.
    `colors`: of labels, where the dataset says them.
    """

    name: str
    image: Path
    reference: Path | None = None
    prediction: Path | None = None
    ct: bool = False
    tolerance_mm: float = 1e-3
    colors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice as it is seen: arrays (row, column), row 0 on top. pixel_mm: height, width."""

    name: str
    letters: str
    image: npt.NDArray[Any]
    reference: npt.NDArray[Any]
    prediction: npt.NDArray[Any]
    pixel_mm: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        return self.image.shape[0] * self.pixel_mm[0], self.image.shape[1] * self.pixel_mm[1]


def draw_overlay(path: Path, case: OverlayCase, labels: Mapping[str, LabelValue]) -> None:
    """Write the picture to a .png or .svg file. Raises DataError, OutputError."""
    save(overlay_figure(case, labels), path)


def overlay_png(case: OverlayCase, labels: Mapping[str, LabelValue]) -> bytes:
    return encode(overlay_figure(case, labels), "png")


def overlay_figure(case: OverlayCase, labels: Mapping[str, LabelValue]) -> Figure:
    """Three planes through the largest area of the labels, side by side in one scale, with a legend."""
    image, reference, prediction = read_overlay(case)
    planes = cut(image, reference, prediction, labels)
    low, high = grey_window(image.array, case.ct)
    width_mm = sum(p.size_mm[1] for p in planes)
    height_in = WIDTH_IN * max(p.size_mm[0] for p in planes) / width_mm
    figure = new_figure(WIDTH_IN, height_in + TOP_IN + BOTTOM_IN)
    left = 0.0
    for plane in planes:
        share = plane.size_mm[1] / width_mm
        tall = WIDTH_IN * plane.size_mm[0] / width_mm
        bottom = (BOTTOM_IN + (height_in - tall) / 2) / figure.get_figheight()
        axes = figure.add_axes((left + 0.004, bottom, share - 0.008, tall / figure.get_figheight()))
        _draw(axes, plane, labels, colors_of(labels, case.colors), low, high)
        left += share
    _legend(figure, planes, labels, case)
    return figure


def cut(
    image: Volume, reference: Volume, prediction: Volume, labels: Mapping[str, LabelValue]
) -> tuple[Plane, ...]:
    """The three planes through the reference's largest areas (the prediction's, where there is none)."""
    turn = image.geometry.turn
    spacing = image.geometry.ras_spacing_mm
    known = [number for _, value in foreground(labels) for number in members(value)]
    grey, truth, ours = (turn.apply(v.array) for v in (image, reference, prediction))
    marked = np.isin(truth, known)
    if not marked.any():
        marked = np.isin(ours, known)
    planes = []
    for name, axis, letters in PLANES:
        rest = tuple(a for a in range(3) if a != axis)
        areas = marked.sum(axis=rest)
        index = int(areas.argmax()) if areas.any() else grey.shape[axis] // 2
        seen = [_as_seen(np.take(v, index, axis=axis)) for v in (grey, truth, ours)]
        pixel_mm = (spacing[rest[1]], spacing[rest[0]])
        planes.append(Plane(name, letters, seen[0], seen[1], seen[2], pixel_mm))
    return tuple(planes)


def _as_seen(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(first, second) RAS+ axes → (row, column): right or front on the left, front or head on top."""
    return plane.T[::-1, ::-1]


def read_overlay(case: OverlayCase) -> tuple[Volume, Volume, Volume]:
    """Image (one channel), reference and prediction on one grid. Raises DataError where they differ."""
    image = read_volume(case.image)
    array = image.array[..., 0] if image.array.ndim == 4 else image.array
    image = Volume(array, image.geometry)
    maps = []
    for path in (case.reference, case.prediction):
        if path is None:
            maps.append(Volume(np.zeros(array.shape, np.uint8), image.geometry))
            continue
        found = read_labels(path)
        if unlike := image.geometry.differences(found.geometry, case.tolerance_mm):
            raise DataError(f"{path}: {'; '.join(unlike)} in {case.image}; they cannot be overlaid")
        maps.append(found)
    return image, maps[0], maps[1]


def grey_window(array: npt.NDArray[Any], ct: bool) -> tuple[float, float]:
    """From black to white: of CT soft tissue, else what most voxels have."""
    return SOFT_TISSUE_HU if ct else window_of(array)


def colors_of(labels: Mapping[str, LabelValue], given: Mapping[str, str]) -> list[str]:
    """The colour of each label: as given, else one of few that colour-blind readers tell apart.

    Where labels are more than there are of those, it is that of the table of labels.
    """
    names = [name for name, _ in foreground(labels)]
    few = {name: colour(index) for index, name in enumerate(names)}
    if len(names) > len(PALETTE):
        table = entries_of(labels, {name: LabelSays(color=color) for name, color in given.items()})
        few = {entry.name: entry.color for entry in table}
    return [given.get(name) or few[name] for name in names]


def _draw(
    axes: Any, plane: Plane, labels: Mapping[str, LabelValue], colors: Sequence[str], low: float, high: float
) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patheffects import withStroke

    height, width = plane.size_mm
    extent = (0.0, width, height, 0.0)
    grey = np.nan_to_num(plane.image.astype(np.float32), nan=low, posinf=high, neginf=low)
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    halo = [withStroke(linewidth=2.2, foreground="black", alpha=0.6)]
    columns = (np.arange(plane.image.shape[1]) + 0.5) * plane.pixel_mm[1]
    rows = (np.arange(plane.image.shape[0]) + 0.5) * plane.pixel_mm[0]
    fill = np.zeros((*plane.image.shape, 4))
    for index, (_, value) in enumerate(foreground(labels)):
        fill[mask_of(plane.prediction, value)] = to_rgba(colors[index], 0.5)
    axes.imshow(fill, extent=extent, interpolation="nearest")
    for index, (_, value) in enumerate(foreground(labels)):
        mask = mask_of(plane.reference, value)
        if mask.any() and not mask.all() and min(mask.shape) > 1:
            line = axes.contour(columns, rows, mask, levels=[0.5], colors=[colors[index]], linewidths=1.2)
            line.set_path_effects(halo)
    axes.set_axis_off()
    axes.set_aspect("equal")
    _letters(axes, plane, halo)


def _letters(axes: Any, plane: Plane, halo: list[Any]) -> None:
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (ha, va) in zip(plane.letters, places, sides):
        text = axes.text(x, y, letter, transform=axes.transAxes, ha=ha, va=va, color="white", fontsize=8)
        text.set_path_effects(halo)


def _legend(
    figure: Figure, planes: tuple[Plane, ...], labels: Mapping[str, LabelValue], case: OverlayCase
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    seen = {int(v) for p in planes for array in (p.reference, p.prediction) for v in np.unique(array)}
    shown = [(i, n) for i, (n, v) in enumerate(foreground(labels)) if seen & {*members(v)}]
    handles: list[Any] = [
        Patch(facecolor=SOFT, alpha=0.5, label="filled: prediction"),
        Line2D([], [], color=SOFT, label="line: reference"),
    ]
    colors = colors_of(labels, case.colors)
    handles += [Patch(facecolor=colors[i], label=literal(name)) for i, name in shown[:MOST_IN_LEGEND]]
    if len(shown) > MOST_IN_LEGEND:
        handles.append(Patch(facecolor="none", label=f"and {len(shown) - MOST_IN_LEGEND} more"))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=min(7, len(handles)),
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )
    names = ", ".join(p.name for p in planes)
    title = f"{literal(case.name)}: {names}"
    figure.text(0.005, 1 - 0.1 / figure.get_figheight(), title, va="top", fontsize=9, color=INK)


def foreground(labels: Mapping[str, LabelValue]) -> list[tuple[str, LabelValue]]:
    return [(name, value) for name, value in labels.items() if value != 0]
