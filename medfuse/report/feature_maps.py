"""What is inside a network, on one axial slice: the channels of a map, and where a label's evidence lies.

Slices are seen as in the overlays, from the feet: the patient's right is on the left, the front on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.report.figures import GRID, INK, SOFT, colour, encode, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, MOST_CHANNELS = 6, 17  # three rows with the image
WIDTH_IN, TITLE_IN, WORDS_IN, LOWEST_IN, HIGHEST_IN = 10.0, 0.3, 0.2, 0.4, 3.3
BARS_IN = 1.8


@dataclass(frozen=True)
class Picture:
    """A PNG, and what it shows in words."""

    png: bytes
    words: str


@dataclass(frozen=True, eq=False)
class ImageSlice:
    """The image under a picture: `array` (x, y), towards the patient's right and front, and its pixel_mm."""

    array: npt.NDArray[np.floating[Any]]
    pixel_mm: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Evidence:
    """A label's Grad-CAM: `heat` ≥ 0 (x, y), of a map of that `stride` whose voxel 0 lies at the image's.

    `predicted` are the voxels of `image` that are predicted as the label. Each label has a slice of its own;
    `number` is its place among the foreground, for its colour.
    """

    label: str
    number: int
    image: ImageSlice
    heat: npt.NDArray[np.floating[Any]]
    stride: tuple[int, int]
    predicted: npt.NDArray[np.bool_]


def montage(
    name: str, image: ImageSlice, maps: npt.NDArray[np.floating[Any]], stride: tuple[int, int]
) -> Picture:
    """The channels (channels, x, y) of the map `name` beside the image; see `montage_figure`."""
    shown = _count(len(maps))
    words = (
        f"{name}: the image, and {shown} on the same slice, each from its 1st (dark) to its 99th percentile"
    )
    return Picture(encode(montage_figure(name, image, maps, stride), "png"), words)


def bars(name: str, values: npt.NDArray[np.floating[Any]]) -> Picture:
    """What `name` says of the whole window, a bar for each channel (channels,); see `bars_figure`."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    channels = f"{len(values)} channel{'s' * (len(values) > 1)}"
    words = f"{name}: one value for the whole window in each of {channels}, from {low:.3g} to {high:.3g}"
    return Picture(encode(bars_figure(name, values), "png"), words)


def evidence(name: str, found: Sequence[Evidence]) -> Picture:
    """Grad-CAM of each label on the map `name`; see `evidence_figure`."""
    labels = ", ".join(one.label for one in found)
    words = (
        f"Grad-CAM on {name} for {labels}: the brighter, the more this place of the map speaks for the "
        "label; the line is the prediction"
    )
    return Picture(encode(evidence_figure(name, found), "png"), words)


def montage_figure(
    name: str, image: ImageSlice, maps: npt.NDArray[np.floating[Any]], stride: tuple[int, int]
) -> Figure:
    """The image and up to MOST_CHANNELS channels, each from percentile 1 to 99, which stand above it.

    Voxel 0 of a map lies at voxel 0 of the image.
    """
    shown = maps[:MOST_CHANNELS]
    rows = ceil((1 + len(shown)) / COLUMNS)
    figure, panels = _panels(image, rows, min(COLUMNS, 1 + len(shown)))
    _draw(panels[0], image.array, image)
    _say(panels[0], "image")
    for number, (axes, channel) in enumerate(zip(panels[1:], shown)):
        low, high = _draw(axes, channel, image, stride=stride, cmap="viridis")
        _say(axes, f"{number}:  {low:.3g} … {high:.3g}")
    _title(figure, f"{literal(name)}: {_count(len(maps))}")
    return figure


def bars_figure(name: str, values: npt.NDArray[np.floating[Any]]) -> Figure:
    """One bar for each channel, by its number."""
    figure = new_figure(WIDTH_IN, BARS_IN)
    axes = figure.add_axes((0.07, 0.22, 0.91, 0.58))
    axes.bar(np.arange(len(values)), np.nan_to_num(values.astype(np.float32)), width=0.8, color=colour(0))
    axes.set_xlim(-1, len(values))
    axes.set_xlabel("channel", fontsize=7, color=SOFT)
    axes.tick_params(labelsize=7, colors=SOFT, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    _title(figure, f"{literal(name)}: one value for the whole window in each channel")
    return figure


def evidence_figure(name: str, found: Sequence[Evidence]) -> Figure:
    """One panel a label: image, heat in its own scale, and the prediction as a line."""
    from matplotlib.patheffects import withStroke

    columns = min(4, len(found))
    figure, panels = _panels(found[0].image, ceil(len(found) / columns), columns)
    for axes, one in zip(panels, found):
        _draw(axes, one.image.array, one.image)
        top = float(one.heat.max())
        if top > 0:
            share = one.heat / top
            place = _place(one.heat, one.image, one.stride)
            heat = axes.imshow(share.T, cmap="inferno", vmin=0, vmax=1, interpolation="bilinear", **place)
            heat.set_alpha(0.75 * share.T)
        if one.predicted.any() and not one.predicted.all() and min(one.predicted.shape) > 1:
            x, y = (np.arange(n) * mm for n, mm in zip(one.predicted.shape, one.image.pixel_mm))
            line = axes.contour(
                x, y, one.predicted.T, levels=[0.5], colors=[colour(one.number)], linewidths=1.2
            )
            line.set_path_effects([withStroke(linewidth=2.2, foreground="black", alpha=0.6)])
        _say(axes, literal(one.label) + _nothing(one, top))
    _title(figure, f"Grad-CAM on {literal(name)}")
    return figure


def _nothing(one: Evidence, top: float) -> str:
    if not one.predicted.any():
        return ": not predicted"
    return "" if top > 0 else ": no evidence on this slice"


def _count(channels: int) -> str:
    if channels > MOST_CHANNELS:
        return f"the first {MOST_CHANNELS} of {channels} channels"
    return f"{channels} channel{'s' if channels > 1 else ''}"


def _panels(image: ImageSlice, rows: int, columns: int) -> tuple[Figure, list[Any]]:
    """A figure with `rows` × `columns` empty axes of the image's proportions, row by row."""
    across, along = (n * mm for n, mm in zip(image.array.shape, image.pixel_mm))
    wide = WIDTH_IN / COLUMNS if columns > 4 else min(WIDTH_IN / columns, WIDTH_IN / 4)
    tall = float(np.clip(wide * along / across, LOWEST_IN, HIGHEST_IN))
    height = TITLE_IN + rows * (tall + WORDS_IN)
    figure = new_figure(WIDTH_IN, height)
    panels = []
    for row in range(rows):
        bottom = (height - TITLE_IN - (row + 1) * (tall + WORDS_IN)) / height
        for column in range(columns):
            place = (
                (column * wide + 0.03) / WIDTH_IN,
                bottom,
                (wide - 0.06) / WIDTH_IN,
                (tall - 0.03) / height,
            )
            axes = figure.add_axes(place)
            axes.set_axis_off()
            panels.append(axes)
    return figure, panels


def _draw(
    axes: Any,
    array: npt.NDArray[Any],
    image: ImageSlice,
    *,
    stride: tuple[int, int] = (1, 1),
    cmap: str = "gray",
) -> tuple[float, float]:
    """Draw an array at its place in the image, from percentile 1 to 99; return what these are."""
    finite = array[np.isfinite(array)]
    low, high = (float(v) for v in np.percentile(finite, (1, 99))) if finite.size else (0.0, 0.0)
    shown = np.nan_to_num(array.astype(np.float32), nan=low, posinf=high, neginf=low)
    top = high if high > low else low + 1
    axes.imshow(
        shown.T, cmap=cmap, vmin=low, vmax=top, interpolation="nearest", **_place(array, image, stride)
    )
    (nx, ny), (dx, dy) = image.array.shape, image.pixel_mm
    axes.set_xlim((nx - 0.5) * dx, -0.5 * dx)  # the patient's right on the left
    axes.set_ylim(-0.5 * dy, (ny - 0.5) * dy)
    return low, high


def _place(array: npt.NDArray[Any], image: ImageSlice, stride: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Where an array lies: its voxel 0 is centred on the image's, which is centred on 0 mm."""
    edges: list[float] = []
    for n, step, mm in zip(array.shape, stride, image.pixel_mm):
        edges += [-0.5 * step * mm, (n - 0.5) * step * mm]
    return {"origin": "lower", "extent": tuple(edges), "aspect": "equal"}


def _say(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=7, color=SOFT, pad=2)


def _title(figure: Figure, text: str) -> None:
    figure.text(0.005, 1 - 0.06 / figure.get_figheight(), text, va="top", fontsize=9, color=INK)
