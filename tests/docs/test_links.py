"""No page leads nowhere: relative links have a file, and anchors a heading."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from pages import ROOT, anchors, links, pages

INDEX = ROOT / "docs" / "index.md"


def lost(page: Path) -> list[str]:
    faults = []
    for line, target in links(page):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = unquote(target).partition("#")
        there = page.parent / path if path else page
        if not there.exists():
            faults.append(f"{page.name}:{line}: {target}: no such file")
        elif anchor and there.suffix == ".md" and anchor not in anchors(there):
            faults.append(f"{page.name}:{line}: {target}: no such heading")
        elif path and not there.resolve().is_relative_to(ROOT):
            faults.append(f"{page.name}:{line}: {target}: leads out of the project")
    return faults


@pytest.mark.parametrize("page", [*pages(), INDEX], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert lost(page) == []


def test_what_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading\n\n[a](#a-heading) [b](#b) [c](none.md) ![d](none.png)\n")
    assert len(lost(page)) == 3


def test_every_page_has_its_place_in_the_site():
    listed = {line.strip() for line in INDEX.read_text().splitlines()}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= listed
