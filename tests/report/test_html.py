import base64
import re
from html.parser import HTMLParser

import pytest

from medfuse.report.evaluate import Evaluation
from medfuse.report.html import ReportContent, chosen_cases, page, readable, write_report

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "source"}


class Walk(HTMLParser):
    """Every start tag must be closed, in order; keeps attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data + "\n"

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags for key, value in attrs.items() if key == name and value]


@pytest.fixture(scope="module")
def text(content) -> str:
    return page(content)


def test_every_tag_is_closed(text):
    assert Walk(text).open == []


def test_names_are_escaped(text):
    assert EVIL not in text
    assert Walk(text).text.count(EVIL) >= 10


def test_nothing_is_loaded_from_elsewhere(text):
    walk = Walk(text)
    assert all(source.startswith("data:image/") for source in walk.attributes("src"))
    assert all(re.fullmatch(r"#case-\d", place) for place in walk.attributes("href"))
    assert not re.search(r"https?://|url\(|@import", text)


def test_every_picture_has_words(text):
    pictures = [attrs for tag, attrs in Walk(text).tags if tag == "img"]
    assert len(pictures) == 12  # graph, two curves, three planes of three cases
    assert all(len(attrs["alt"] or "") > 20 for attrs in pictures)


def test_the_page_turns_dark_where_its_reader_does(text):
    assert "@media (prefers-color-scheme: dark)" in text.partition("</style>")[0]


def test_a_narrow_screen_gets_a_graph_that_is_no_wider(text):
    def width(source: str) -> float:
        svg = base64.b64decode(source.partition("base64,")[2]).decode()
        return float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 96 / 72

    (narrow,) = (attrs for tag, attrs in Walk(text).tags if tag == "source")
    assert narrow["media"] == "(max-width: 640px)"
    assert width(narrow["srcset"]) < 400


def test_the_table_begins_with_the_worst_case(text):
    table = text.partition('class="sortable"')[2]
    scores = [
        float(s) for s in re.findall(r'"Dice">(\d\.\d{3})</td><td data-head="HD95 \(mm\)">\d\.\d</td>', table)
    ]
    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(2 * 16 / (16 + 64))


def test_an_undefined_metric_is_a_dash_never_a_number(text):
    assert "nan" not in Walk(text).text.lower()
    assert "absent in both" in text
    assert "–" in text


def test_the_headline_says_what_the_mean_stands_on(text):
    assert "mean foreground Dice: 1 label, 3 cases" in text


def test_best_median_and_worst_are_shown(content):
    shown = [(word, case.name[-1]) for word, case in chosen_cases(content.evaluation.cases)]
    assert shown == [("best", "4"), ("median", "2"), ("worst", "1")]


def test_one_case_is_shown_once(content):
    assert [word for word, _ in chosen_cases(content.evaluation.cases[:1])] == ["best and median and worst"]


def test_a_missing_image_is_a_line_and_not_a_failure(content, tmp_path):
    images = dict.fromkeys(content.images, tmp_path / "gone.nii")
    found = page(ReportContent(content.name, content.date, content.evaluation, images=images))
    assert "gone.nii: no such file" in found


def test_an_empty_evaluation_is_still_a_page(tmp_path):
    write_report(tmp_path / "report.html", ReportContent("run", "today", Evaluation((), {"liver": 1}, 2.0)))
    assert Walk((tmp_path / "report.html").read_text(encoding="utf-8")).open == []


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2030-01-02T03:04:05+00:00", "2 January 2030, 03:04 UTC"),
        ("2030-01-02", "2 January 2030"),
        ("today", "today"),
    ],
)
def test_dates_are_told_as_people_read_them(written, read):
    assert readable(written) == read


def test_a_cell_says_what_it_is_where_a_row_is_a_card(text):
    rows = re.findall(r"<tbody>(.*?)</tbody>", text)
    assert rows
    assert all(cell.startswith(" data-head=") for row in rows for cell in row.split("<td")[1:])


def test_cases_beyond_what_there_is_time_for_are_cards_without_pictures(content, monkeypatch):
    monkeypatch.setattr("medfuse.report.cards.MOST_PICTURED", 1)
    text = page(content)
    assert len(re.findall(r'<article class="card"', text)) == 3
    assert len(re.findall(r'<div class="planes"', text)) == 1
    assert "Pictures are of the worst 1." in text
