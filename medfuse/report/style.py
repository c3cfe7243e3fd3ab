"""What the pages of reports share: the document around them, colours for light, dark and paper, tables."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files


def document(title: str, header: str, main: str) -> str:
    """A page that loads nothing from elsewhere. `header` and `main` are HTML."""
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_asset('page.css')}</style></head>\n<body>\n"
        f"<header>{header}</header>\n<main>{main}</main>\n<script>{_asset('page.js')}</script>\n</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of a page; nothing where there is nothing to say."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


@cache
def _asset(name: str) -> str:
    return files("medfuse.report").joinpath(name).read_text(encoding="utf-8")
