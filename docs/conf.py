"""How Sphinx builds the site of these pages: `make docs`. Nothing of it asks for another host."""

import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "medfuse"
author = "The medfuse authors"
copyright = author
version = release = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]

extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "text"

html_theme = "furo"
html_title = f"medfuse {release}"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+)([^)\s]*)\)")


def beyond(app: Any, name: str, source: list[str]) -> None:
    """What a page links to beside docs/ is in a clone and not on the site: there it is named, not linked."""

    def said(link: re.Match[str]) -> str:
        path = link[4].rstrip("/")
        return link[2] if path in link[2] else f"{link[2]} (`{path}`)"

    source[0] = _LINK.sub(said, source[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", beyond)
    return {"parallel_read_safe": True}
