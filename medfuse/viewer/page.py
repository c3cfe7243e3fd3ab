"""The HTML of a viewer: one file that needs no other, or a folder whose page loads a file for each case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

import medfuse
from medfuse.core.errors import OutputError
from medfuse.core.files import atomic, make_folder, reported, write_text
from medfuse.viewer.packing import Packed

NIIVUE = "niivue/niivue.umd.js"
LICENCES = "niivue/LICENSES.txt"
_BEGIN = "<!DOCTYPE html>\n<!-- written by medfuse view -->\n"
_END = "\n<!-- sha256 "
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'{more}; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src data: blob:"
)
"""What a browser holds the page to: no request leaves it, whatever a library would like to do."""


@cache
def asset(name: str) -> str:
    """The text of a file that comes with this package."""
    return files("medfuse.viewer").joinpath(name).read_text(encoding="utf-8")


def page(title: str, cases: Sequence[Packed]) -> str:
    """One page with all cases inside."""
    data = [
        f'<script type="text/plain" data-case="{n}">{part}</script>\n'
        for n, case in enumerate(cases)
        for part in case.parts
    ]
    return _sealed(_html(title, [case.about for case in cases], data, ""))


def bytes_of_the_viewer() -> int:
    """What a page takes without any case."""
    return len(page("", []).encode())


def _html(title: str, cases: Sequence[object], data: Iterable[str], more: str) -> str:
    known = _in_script(json.dumps({"title": title, "cases": cases}))
    policy = escape(_POLICY.format(more=more))
    body = asset("viewer.html").replace("{title}", escape(title)).replace("{version}", medfuse.__version__)
    return "".join(
        (
            f'{_BEGIN}<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{asset('viewer.css')}</style></head>\n"
            f'{body}<script type="application/json" id="page">{known}</script>\n',
            *data,
            f"<!--\n{asset(LICENCES).replace('--', '- -')}-->\n<script>{asset(NIIVUE)}</script>\n"
            f"<script>{asset('viewer.js')}</script>\n</body></html>",
        )
    )


def _in_script(text: str) -> str:
    """JSON that no HTML can end or begin."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _sealed(text: str) -> str:
    return f"{text}{_END}{hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_own(path: Path) -> bool:
    """Whether a file is a page as it was written here."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    content, _, _ = text.rpartition(_END)
    return text.startswith(_BEGIN) and text == _sealed(content)


def refuse_others(path: Path, *, overwrite: bool) -> None:
    """Raises OutputError where there is something that was not written here, or not so."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; --output is the name of a page, such as view.html")
    if path.exists() and not overwrite and not is_own(path):
        raise OutputError(
            f"{path}: is not what medfuse wrote, or was changed since, and stays; choose another --output, "
            "or give --overwrite"
        )


FOLDER_PAGE = "index.html"


class Folder:
    """A viewer as a folder: its page, and a file for each case, which the page loads when it is shown.

    As scripts, since a page from disk may read no other file. Made anew; what stands in it is replaced.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OutputError."""
        self._folder = make_folder(folder)
        self._cases: list[dict[str, object]] = []
        with reported(folder):
            for old in (folder / FOLDER_PAGE, *folder.glob("case_*.js")):
                old.unlink(missing_ok=True)

    def add(self, case: Packed) -> None:
        """Write the file of a case. Raises OutputError."""
        number = len(self._cases)
        name = f"case_{number + 1:04}.js"
        write_text(self._folder / name, f"medfuse.take({number}, {json.dumps(case.parts)});\n")
        self._cases.append({**case.about, "file": name})

    def finish(self, title: str) -> None:
        """Write the page. Raises OutputError."""
        write_text(self._folder / FOLDER_PAGE, _sealed(_html(title, self._cases, (), " 'self' file:")))


def write_page(path: Path, title: str, cases: Sequence[Packed]) -> None:
    """Write the page, whole or not at all. Raises OutputError."""
    with atomic(path) as temporary:
        temporary.write_text(page(title, cases), encoding="utf-8")
