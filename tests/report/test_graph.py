import itertools
import re
from graphlib import CycleError

import pytest

from medfuse.core.errors import OutputError
from medfuse.report.figures import DARK
from medfuse.report.graph import Box, GraphNode, draw_graph, graph_words, lay_out


def model(taps: int = 9) -> list[GraphNode]:
    names = [f"encoder.layer{i}" for i in range(taps)]
    return [
        GraphNode("image", "image", "1 channel"),
        GraphNode(
            "encoder", "backbone", "a name that is long enough to be wrapped over several lines", ("image",)
        ),
        *(
            GraphNode(n, "tap", f"{8 << i} channels, stride {1 << i}", ("encoder",))
            for i, n in enumerate(names)
        ),
        GraphNode("context", "fusion", "spp", names[-1:]),
        GraphNode("decoded", "fusion", "unet_decoder", ("context", *names[:-1])),
        GraphNode("fused", "fusion", "input_concat", ("decoded", "image")),
        GraphNode("head", "head", "3 classes", ("fused",)),
        *(GraphNode(f"aux {n}", "aux", "3 classes", (n,)) for n in names[:4]),
    ]


def apart(a: Box, b: Box) -> bool:
    beside = a.x + a.width <= b.x or b.x + b.width <= a.x
    return beside or a.y + a.height <= b.y or b.y + b.height <= a.y


@pytest.mark.parametrize("down", [False, True])
def test_no_box_and_no_passing_edge_lies_over_another(down):
    boxes = lay_out(model(), down=down).boxes
    assert len([b for b in boxes if b.node]) == len(model()) == 19
    assert all(apart(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_every_edge_runs_from_left_to_right():
    for edge in lay_out(model()).edges:
        assert all(a.x + a.width < b.x for a, b in itertools.pairwise(edge))


def test_every_edge_runs_down_where_the_screen_is_narrow():
    for edge in lay_out(model(), down=True).edges:
        assert all(a.y + a.height < b.y for a, b in itertools.pairwise(edge))


def test_every_input_is_an_edge():
    drawn = {(e[0].node.name, e[-1].node.name) for e in lay_out(model()).edges}
    assert drawn == {(source, node.name) for node in model() for source in node.inputs}


@pytest.mark.parametrize("down", [False, True])
def test_boxes_stay_inside_the_picture(down):
    layout = lay_out(model(), down=down)
    assert all(b.x > 0 and b.x + b.width < layout.width for b in layout.boxes)
    assert all(b.y > 0 and b.y + b.height < layout.height for b in layout.boxes)


def test_a_circle_is_refused():
    with pytest.raises(CycleError):
        lay_out([GraphNode("a", "fusion", inputs=("b",)), GraphNode("b", "fusion", inputs=("a",))])


def test_text_wraps_into_the_box():
    box = next(b for b in lay_out(model()).boxes if b.node and b.node.name == "encoder")
    assert " ".join(box.lines[1:]) == "a name that is long enough to be wrapped over several lines"
    assert len(box.lines) > 2


def test_what_fills_the_graph_has_a_colour_for_dark_pages(tmp_path):
    draw_graph(tmp_path / "graph.svg", model())
    style, _, drawn = (tmp_path / "graph.svg").read_text().partition("</style>")
    assert "@media (prefers-color-scheme: dark)" in style
    colours = {*re.findall(r"fill: (#[0-9a-f]{6})", drawn)}
    assert colours
    assert colours <= {*DARK}


def test_dollars_and_angles_are_drawn_as_they_are(tmp_path):
    draw_graph(tmp_path / "graph.svg", [GraphNode("a$\\foo$<b>", "image", "$x")])
    assert (tmp_path / "graph.svg").read_text().startswith("<?xml")


def test_png_and_svg_are_told_apart_by_their_ending(tmp_path):
    draw_graph(tmp_path / "graph.png", model(2))
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="choose one of these endings"):
        draw_graph(tmp_path / "graph.pdf", model(2))


def test_the_graph_can_be_told_in_words():
    assert "fused (fusion) from decoded, image" in graph_words(model())
