import re

import pytest

from medfuse.report.dots import MOST_LINES, Dot, Row, dots_html, folded_dots


def places(html: str, kind: str) -> list[float]:
    return [float(n) for n in re.findall(rf'class="{kind}" style="left:([\d.]+)%', html)]


def test_dots_stand_where_their_values_are():
    html = dots_html([Row("a", "", [Dot(0, "x"), Dot(0.25, "y"), Dot(1, "z")], mean=0.5)], (0, 1), (0, 1))
    assert places(html, "dot") == [0, 25, 100]
    assert places(html, "mean") == [50]


def test_an_axis_around_zero_has_a_line_there():
    html = dots_html([Row("a", "", [Dot(0.1, "x")], low=-0.1, high=0.2)], (-0.4, 0.4), (-0.4, 0, 0.4))
    assert places(html, "zero") == [50]
    assert 'class="span" style="left:37.50%;width:37.50%"' in html
    assert "+0.40" in html


@pytest.mark.parametrize("value", [-3, 7])
def test_what_lies_beyond_stands_at_the_end(value):
    (place,) = places(dots_html([Row("a", "", [Dot(value, "x")])], (0, 1), ()), "dot")
    assert place in (0, 100)


def test_without_a_case_there_is_nothing():
    assert dots_html([Row("a", "no case", [])], (0, 1), ()) == ""


def test_words_are_escaped():
    html = dots_html([Row("<b>", "<i>", [Dot(0.5, "\"'<", 'p"')])], (0, 1), ())
    assert not re.search(r"<b>|<i>[^<]*</small>", html)
    assert "&lt;b&gt;" in html
    assert "&quot;&#x27;&lt;" in html


@pytest.mark.parametrize("count", [1, MOST_LINES, MOST_LINES + 5])
def test_every_line_is_there_and_those_of_many_are_folded(count):
    rows = [Row(f"label {n}", "", [Dot(0.5, "x")]) for n in range(count)]
    seen, _, folded = folded_dots(rows, (0, 1), (0, 1), "others").partition("<details>")
    assert seen.count('class="track"') == min(count, MOST_LINES)
    assert folded.count('class="track"') == max(0, count - MOST_LINES)
