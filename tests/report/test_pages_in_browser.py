"""Reports and comparisons in headless Chromium: on a desk and on a phone, by day and by night."""

import re
from pathlib import Path

import pytest

from medfuse.report.candidates import Candidate
from medfuse.report.compare import compare
from medfuse.report.comparison import page as comparison_page
from medfuse.report.html import write_report

WIDTHS = (400, 1280)


@pytest.fixture(scope="module")
def pages(tmp_path_factory, content) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    write_report(folder / "report.html", content)
    dice = {f"case_{n}": [0.5 + n / 40] for n in range(12)}
    better = {name: [values[0] + 0.02 + n / 500] for n, (name, values) in enumerate(dice.items())}
    candidates = [Candidate("base", {"liver": dice}, 1), Candidate("<b>mine</b>", {"liver": better}, 1)]
    (folder / "comparison.html").write_text(comparison_page(compare(candidates)), encoding="utf-8")
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_fits_asks_for_nothing_and_has_no_fault(pages, tab, name, width, dark):
    tab.size(width, 900, dark=dark, phone=width < 640)
    tab.open(pages[name])
    assert tab.console == []
    assert {url for url in tab.requests if not url.startswith("data:")} == {pages[name].resolve().as_uri()}
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    color = re.findall(r"\d+", tab.ask("getComputedStyle(document.body).backgroundColor"))
    assert (sum(map(int, color)) < 200) == dark
    seen = tab.ask("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert seen


def test_a_picture_is_enlarged_and_put_back(pages, tab):
    tab.open(pages["report"])
    tab.ask("document.querySelector('.planes').click()")
    assert tab.ask("document.querySelector('dialog').open")
    tab.ask("document.querySelector('dialog').click()")
    tab.frames()
    assert tab.ask("document.querySelector('dialog') === null")


def test_a_dot_leads_to_its_case(pages, tab):
    tab.open(pages["report"])
    tab.ask("document.querySelector('a.dot').click()")
    assert tab.ask("document.querySelector('.card:target h3').textContent").endswith((" 1", " 2", " 4"))


def test_the_report_of_a_run_opens_each_case_in_the_viewer(finished_run, tab):
    report = finished_run.folder / "report.html"
    tab.open(report)
    links = tab.ask("[...document.querySelectorAll('a.open')].map(a => a.getAttribute('href'))")
    names = tab.ask("[...document.querySelectorAll('.card h3')].map(h => h.textContent)")
    assert len(links) == len(names) > 0
    for link, name in zip(links, names):
        page, _, fragment = link.partition("#")
        tab.open(report.parent / page, f"#{fragment}")
        assert tab.console == []
        assert tab.ask("document.getElementById('error').hidden")
        assert tab.ask("medfuse.state.about.name") == name
        asked = {url for url in tab.requests if not url.startswith("data:")}
        assert all(url.startswith(report.parent.resolve().as_uri()) for url in asked)
