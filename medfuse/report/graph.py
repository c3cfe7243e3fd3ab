"""The model's graph as a picture: columns from left to right, no box over another, no edge through a box.

The layout is Sugiyama's (1981): a column per longest path, places kept free for edges that pass through,
rows ordered by the mean of their neighbours, then moved towards them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medfuse.core.offline import import_offline
from medfuse.report.figures import EDGE, INK, SOFT, encode, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["image", "backbone", "tap", "fusion", "head", "aux"]

FILLS: Mapping[Kind, tuple[str, str]] = {
    "image": ("#f5f7fa", "#616e7c"),
    "backbone": ("#d6e8f5", "#0072b2"),
    "tap": ("#e3f3fc", "#56b4e9"),
    "fusion": ("#d3efe6", "#009e73"),
    "head": ("#fbe3d3", "#d55e00"),
    "aux": ("#f7e6f0", "#cc79a7"),
}
"""Fill and outline of each kind."""

TITLE_PT, TEXT_PT, LINE_PT = 9.0, 7.5, 10.5
PAD_PT, GAP_X_PT, GAP_Y_PT, MARGIN_PT, LEGEND_PT = 8.0, 46.0, 14.0, 12.0, 26.0
GAP_DOWN_PT, FREE_PT = 26.0, 4.0
WRAP, WRAP_DOWN = 30, 16


@dataclass(frozen=True)
class GraphNode:
    """A box: its name, what it is, a few words (channels, stride), and the names of what flows into it."""

    name: str
    kind: Kind
    text: str = ""
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Box:
    """Where a node, or the free place of a passing edge (`node` None), stands: in points, y downwards."""

    node: GraphNode | None
    lines: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float

    def span(self, down: bool) -> tuple[float, float, float]:
        """Where it starts and ends along the graph's direction, and its middle across."""
        if down:
            return self.y, self.y + self.height, self.x + self.width / 2
        return self.x, self.x + self.width, self.y + self.height / 2


@dataclass(frozen=True)
class Layout:
    """Boxes, and each edge as the boxes that it visits, its ends included."""

    boxes: tuple[Box, ...]
    edges: tuple[tuple[Box, ...], ...]
    width: float
    height: float


def draw_graph(path: Path, nodes: Sequence[GraphNode]) -> None:
    """Write the picture to an .svg or .png file. Raises OutputError."""
    save(graph_figure(nodes), path)


def graph_svg(nodes: Sequence[GraphNode], *, down: bool = False) -> bytes:
    """From left to right, or from top to bottom for narrow screens."""
    return encode(graph_figure(nodes, down=down), "svg")


def graph_words(nodes: Sequence[GraphNode]) -> str:
    """The graph in a sentence, for those who cannot see it."""
    return "; ".join(
        f"{n.name} ({n.kind}){' from ' + ', '.join(n.inputs) if n.inputs else ''}" for n in nodes
    )


def lay_out(nodes: Sequence[GraphNode], *, down: bool = False) -> Layout:
    """Place every node, columns from left to right, or as rows from top to bottom.

    Raises KeyError for an input that is no node, CycleError for a circle.
    """
    by_name = {node.name: node for node in nodes}
    column = _columns(by_name)
    routes = [_route(source, node.name, column) for node in nodes for source in node.inputs]
    layers = _ordered(by_name, column, routes)
    lines = {name: _lines(node, WRAP_DOWN if down else WRAP) for name, node in by_name.items()}
    along, across = (_height, _width) if down else (_width, _height)
    sizes = {s: across(lines[s]) if s in lines else FREE_PT for layer in layers for s in layer}
    starts = _starts(layers, sizes, _neighbours(routes))
    boxes: dict[str, Box] = {}
    place = MARGIN_PT
    for layer in layers:
        length = max(along(lines[s]) for s in layer if s in by_name)
        for s in layer:
            x, y, width, height = place, starts[s], length, sizes[s]
            if down:
                x, y, width, height = y, x, height, width
            boxes[s] = Box(by_name.get(s), lines.get(s, ()), x, y, width, height)
        place += length + (GAP_DOWN_PT if down else GAP_X_PT)
    return Layout(
        boxes=tuple(boxes.values()),
        edges=tuple(tuple(boxes[stop] for stop in route) for route in routes),
        width=max(b.x + b.width for b in boxes.values()) + MARGIN_PT,
        height=max(b.y + b.height for b in boxes.values()) + MARGIN_PT + LEGEND_PT,
    )


def graph_figure(nodes: Sequence[GraphNode], *, down: bool = False) -> Figure:
    """The laid-out graph with a legend of kinds."""
    layout = lay_out(nodes, down=down)
    kinds = [kind for kind in FILLS if any(node.kind == kind for node in nodes)]
    width = max(layout.width, 2 * MARGIN_PT + 66 * len(kinds))
    figure = new_figure(width / 72, layout.height / 72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(layout.height, 0)
    for edge in layout.edges:
        _draw_edge(axes, edge, down)
    for box in layout.boxes:
        if box.node:
            _draw_box(axes, box, box.node.kind)
    for index, kind in enumerate(kinds):
        _draw_key(axes, MARGIN_PT + 66 * index, layout.height - MARGIN_PT, kind)
    return figure


def _columns(nodes: Mapping[str, GraphNode]) -> dict[str, int]:
    """Each node's column: one more than the last of its inputs'."""
    column: dict[str, int] = {}
    for name in TopologicalSorter({n.name: n.inputs for n in nodes.values()}).static_order():
        column[name] = max((column[source] + 1 for source in nodes[name].inputs), default=0)
    return column


def _route(source: str, target: str, column: Mapping[str, int]) -> tuple[str, ...]:
    """The stops of an edge: a free place in every column that it passes. One source's edges share theirs."""
    return source, *(f"{source}\0{c}" for c in range(column[source] + 1, column[target])), target


def _neighbours(routes: Sequence[tuple[str, ...]]) -> dict[str, set[str]]:
    near: dict[str, set[str]] = {}
    for route in routes:
        for left, right in pairwise(route):
            near.setdefault(left, set()).add(right)
            near.setdefault(right, set()).add(left)
    return near


def _ordered(
    nodes: Mapping[str, GraphNode], column: Mapping[str, int], routes: Sequence[tuple[str, ...]]
) -> list[list[str]]:
    """The stops of every column from top to bottom, with few crossings."""
    layers: list[list[str]] = [[] for _ in range(max(column.values()) + 1)]
    for name in nodes:
        layers[column[name]].append(name)
    for route in routes:
        for c, stop in enumerate(route, start=column[route[0]]):
            if stop not in layers[c]:
                layers[c].append(stop)
    near = _neighbours(routes)
    for sweep in range(8):
        order = range(1, len(layers)) if sweep % 2 == 0 else range(len(layers) - 2, -1, -1)
        for c in order:
            fixed = layers[c - 1 if sweep % 2 == 0 else c + 1]
            place = {stop: i for i, stop in enumerate(fixed)}
            layers[c] = _by_mean(layers[c], place, near)
    return layers


def _by_mean(layer: list[str], place: Mapping[str, int], near: Mapping[str, set[str]]) -> list[str]:
    def mean(item: tuple[int, str]) -> float:
        found = [place[n] for n in near.get(item[1], ()) if n in place]
        return sum(found) / len(found) if found else float(item[0])

    return [stop for _, stop in sorted(enumerate(layer), key=mean)]


def _starts(
    layers: Sequence[Sequence[str]], sizes: Mapping[str, float], near: Mapping[str, set[str]]
) -> dict[str, float]:
    """The upper (or left) edge of every stop: near the mean of its neighbours, never over the one before."""
    middle: dict[str, float] = {}
    for layer in layers:
        y = 0.0
        for stop in layer:
            middle[stop] = y + sizes[stop] / 2
            y += sizes[stop] + GAP_Y_PT
    for sweep in range(12):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [
                sum(middle[n] for n in near[s]) / len(near[s]) if near.get(s) else middle[s] for s in layer
            ]
            middle.update(zip(layer, _apart(wanted, [sizes[s] for s in layer])))
    first = min(middle[s] - sizes[s] / 2 for s in middle)
    return {s: middle[s] - sizes[s] / 2 - first + MARGIN_PT for s in middle}


def _apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles in the given order, GAP_Y apart, as near to `wanted` as pushing whole groups allows."""
    offsets = [0.0]
    for above, below in pairwise(heights):
        offsets.append(offsets[-1] + (above + below) / 2 + GAP_Y_PT)
    groups: list[tuple[float, int]] = []  # mean wish of stops that touch, and their number
    for wish, offset in zip(wanted, offsets):
        mean, count = wish - offset, 1
        while groups and groups[-1][0] > mean:
            before, many = groups.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        groups.append((mean, count))
    starts = [mean for mean, count in groups for _ in range(count)]
    return [start + offset for start, offset in zip(starts, offsets)]


def _lines(node: GraphNode, wrap: int) -> tuple[str, ...]:
    return node.name, *(part for line in node.text.splitlines() for part in textwrap.wrap(line, wrap))


def _height(lines: Sequence[str]) -> float:
    return LINE_PT * len(lines) + 2 * PAD_PT


def _width(lines: Sequence[str]) -> float:
    import_offline("matplotlib.font_manager")
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    sizes = [TITLE_PT, *[TEXT_PT] * (len(lines) - 1)]
    weights = ["bold", *["normal"] * (len(lines) - 1)]
    widest = max(
        text_to_path.get_text_width_height_descent(line, FontProperties(weight=weight, size=size), False)[0]
        for line, size, weight in zip(lines, sizes, weights)
    )
    return float(widest) + 2 * PAD_PT


def _draw_box(axes: Any, box: Box, kind: Kind) -> None:
    from matplotlib.patches import FancyBboxPatch

    fill, outline = FILLS[kind]
    style = "round,pad=0,rounding_size=5"
    axes.add_patch(
        FancyBboxPatch(
            (box.x, box.y),
            box.width,
            box.height,
            boxstyle=style,
            facecolor=fill,
            edgecolor=outline,
            linewidth=1,
        )
    )
    for index, line in enumerate(box.lines):
        axes.text(
            box.x + box.width / 2,
            box.y + PAD_PT + LINE_PT * (index + 0.5),
            line,
            ha="center",
            va="center",
            fontsize=TEXT_PT if index else TITLE_PT,
            fontweight="normal" if index else "bold",
            color=SOFT if index else INK,
            parse_math=False,
        )


def _draw_edge(axes: Any, stops: Sequence[Box], down: bool) -> None:
    """A line that bends only between columns (or rows), where no box stands, with an arrow at its end."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    spans = [box.span(down) for box in stops]  # (start, end, middle)
    points = [spans[0][1:]]
    codes = [Curve.MOVETO]
    for (_, start, before), (end, past, after) in pairwise(spans):
        bend = (end - start) / 2
        points += [(start + bend, before), (end - bend, after), (end, after), (past, after)]
        codes += [Curve.CURVE4] * 3 + [Curve.LINETO]
    points, codes = points[:-1], codes[:-1]  # an edge ends where its last box starts
    if down:
        points = [(y, x) for x, y in points]
    axes.add_patch(
        FancyArrowPatch(
            path=Curve(points, codes),
            arrowstyle="-|>",
            mutation_scale=8,
            color=EDGE,
            linewidth=0.9,
        )
    )


def _draw_key(axes: Any, x: float, y: float, kind: Kind) -> None:
    from matplotlib.patches import Rectangle

    fill, outline = FILLS[kind]
    axes.add_patch(Rectangle((x, y - 7), 9, 9, facecolor=fill, edgecolor=outline, linewidth=0.8))
    axes.text(x + 13, y - 2.5, kind, va="center", fontsize=TEXT_PT, color=SOFT)
