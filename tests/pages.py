"""The project's pages in Markdown: their headings, links and fenced blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]


def pages() -> list[Path]:
    """Every page that people read, but the changelog's past."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "plugins").glob("*/README.md")]
    return sorted(path for path in found if path.name not in ("index.md",))


@dataclass(frozen=True)
class Block:
    """A fenced block: the page, the line it begins at, its language, and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def tokens(page: Path) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")))


def blocks(page: Path) -> Iterator[Block]:
    for token in tokens(page):
        if token.type == "fence":
            language = token.info.split()[0] if token.info.split() else ""
            yield Block(page, (token.map or [0])[0] + 1, language, token.content)


def anchors(page: Path) -> set[str]:
    """What `#…` can lead to, by GitHub's rule."""
    counted: Counter[str] = Counter()
    found = set()
    for token, text in zip(tokens(page), tokens(page)[1:]):
        if token.type == "heading_open":
            plain = "".join(child.content for child in text.children or ())
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            found.add(f"{slug}-{counted[slug]}" if counted[slug] else slug)
            counted[slug] += 1
    return found


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Line and target of every link and picture."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if child.type in ("link_open", "image") and target:
                yield (token.map or [0])[0] + 1, str(target)
