"""What all pictures share: colours, text, and files. matplotlib's objects only, so nothing is global."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medfuse.core.errors import OutputError
from medfuse.core.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
"""Okabe and Ito's colours, which colour-blind readers tell apart. More classes start over."""

INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"


def colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure with a canvas of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str) -> str:
    """`text` as matplotlib shall show it: no mathematics in dollars, no underscore that hides a legend."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def encode(figure: Figure, kind: Literal["svg", "png"], dpi: int = 120) -> bytes:
    """The figure as the bytes of a file, without a date, so that equal figures make equal files."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write `path`, whole or not at all. Raises OutputError for an ending other than .svg and .png."""
    ending = path.suffix.lower()
    if ending not in (".svg", ".png"):
        raise OutputError(f"{path}: pictures are written as .svg or .png; choose one of these endings")
    with atomic(path) as temporary:
        temporary.write_bytes(encode(figure, "svg" if ending == ".svg" else "png", dpi=160))
