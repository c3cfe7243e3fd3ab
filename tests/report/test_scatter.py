"""Points over two axes: in their place, the best joined, and all said in words."""

import random
import re
import xml.etree.ElementTree as ElementTree

import pytest

from medfuse.report.scatter import Axis, Point, cheapest, scatter_svg


def points(*pairs):
    return [Point(x, y, f"trial {n}: {y} for {x}") for n, (x, y) in enumerate(pairs)]


def drawn(some):
    return ElementTree.fromstring(scatter_svg(some, Axis("seconds"), Axis("Dice"), "cost"))


def circles(some):
    return [(float(c.get("cx")), float(c.get("cy"))) for c in drawn(some).iter("circle")]


def test_each_point_is_where_its_numbers_are():
    chance = random.Random(1)
    some = points(*((chance.uniform(0.1, 9), chance.uniform(0, 1)) for _ in range(30)))
    found = circles(some)
    assert len(found) == 30
    for a, p in zip(found, some):
        for b, q in zip(found, some):
            assert (a[0] < b[0] - 0.1) <= (p.x < q.x)
            assert (a[1] > b[1] + 0.1) <= (p.y < q.y)
    assert all(0 <= x <= 640 and 0 <= y <= 320 for x, y in found)


@pytest.mark.parametrize(
    "pairs",
    [
        [(1, 1)],
        [(0, 0)],
        [(2, 0.5), (2, 0.5)],
        [(1e-9, 0.5), (2e-9, 0.4)],
        [(1e12, 0.999), (1, 0.998)],
        [(3, -1)],
    ],
)
def test_any_numbers_are_inside_the_picture(pairs):
    assert all(0 <= x <= 640 and 0 <= y <= 320 for x, y in circles(points(*pairs)))


def test_the_line_joins_what_no_other_beats_in_both():
    chance = random.Random(2)
    some = points(*((chance.randint(1, 9), chance.randint(1, 9)) for _ in range(40)))
    best = cheapest(some)
    for n, p in enumerate(some):
        beaten = any(q.x <= p.x and q.y >= p.y and (q.x, q.y) != (p.x, p.y) for q in some)
        same = any((some[b].x, some[b].y) == (p.x, p.y) for b in best)
        assert same == (not beaten), n
    assert sum(c.get("class") == "best" for c in drawn(some).iter("circle")) == len(best)


def test_it_is_told_in_words_too():
    root = drawn(points((1, 0.5), (2, 0.9), (3, 0.7)))
    assert root.get("role") == "img"
    said = {element.get("id"): element.text for element in root if element.get("id")}
    assert [said[name] for name in root.get("aria-labelledby").split()] == [
        "Dice against seconds, 3 trials",
        "2 of them no other beats in both; from trial 0: 0.5 for 1 to trial 1: 0.9 for 2. "
        "The table below has all numbers.",
    ]
    assert [c.find("title").text for c in root.iter("circle")] == [
        "trial 0: 0.5 for 1", "trial 1: 0.9 for 2", "trial 2: 0.7 for 3"
    ]  # fmt: skip


def test_names_are_text_and_nothing_is_drawn_of_nothing():
    made = scatter_svg([Point(1, 1, "<b>&", "<i>")], Axis("a<"), Axis("b>"), "cost")
    ElementTree.fromstring(made)
    assert not re.search("<b>|<i>", made)
    assert scatter_svg([], Axis("a"), Axis("b"), "cost") == ""
