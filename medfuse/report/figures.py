"""What all pictures share: colours, text, and files. matplotlib's objects only, so nothing is global."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medfuse.core.errors import OutputError
from medfuse.core.files import atomic
from medfuse.core.offline import import_offline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
"""Okabe and Ito's colours, which colour-blind readers tell apart. More classes start over."""

INK, SOFT, GRID, PAPER, EDGE = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff", "#7b8794"

DARK = {
    PAPER: "#29333e",
    INK: "#f5f7fa",
    SOFT: "#9aa5b1",
    GRID: "#3e4c59",
    EDGE: "#9aa5b1",
    "#0072b2": "#56b4e9",
    "#56b4e9": "#8fd0f5",
    "#009e73": "#2cc79c",
    "#d55e00": "#f28c4a",
    "#f5f7fa": "#323f4b",
    "#d6e8f5": "#123a52",
    "#e3f3fc": "#1b4a63",
    "#d3efe6": "#0f4a3a",
    "#fbe3d3": "#5a2e10",
    "#f7e6f0": "#54324a",
}
"""Colours of the pictures in an SVG, and those that stand for them where its reader prefers dark pages."""


def colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure with a canvas of its own."""
    import_offline("matplotlib.font_manager")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def literal(text: str) -> str:
    """`text` as matplotlib shall show it: no mathematics in dollars, no underscore that hides a legend."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def encode(figure: Figure, kind: Literal["svg", "png"], dpi: int = 120) -> bytes:
    """The figure as the bytes of a file, without a date, so that equal figures make equal files.

    An SVG turns dark where its reader prefers dark pages.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    if kind == "png":
        return buffer.getvalue()
    return buffer.getvalue().replace(b"<defs>", f"{_dark_style()}<defs>".encode(), 1)


def _dark_style() -> str:
    rules = (
        f'[style*="{what}: {light}"] {{ {what}: {dark} !important }}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return f"<style>@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>"


def save(figure: Figure, path: Path) -> None:
    """Write `path`, whole or not at all. Raises OutputError for an ending other than .svg and .png."""
    ending = path.suffix.lower()
    if ending not in (".svg", ".png"):
        raise OutputError(f"{path}: pictures are written as .svg or .png; choose one of these endings")
    with atomic(path) as temporary:
        temporary.write_bytes(encode(figure, "svg" if ending == ".svg" else "png", dpi=160))
