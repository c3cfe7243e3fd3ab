"""What a command owes to whoever started it: output in any code page, a tidy end when it is told to."""

from __future__ import annotations

import codecs
import io
import signal
import sys
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that SIGTERM ended."""

_PLAIN = {
    "×": "x",
    "→": "->",
    "←": "<-",
    "–": "-",
    "—": "-",
    "…": "...",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "·": ".",
    "•": "*",
    "−": "-",
    "²": "^2",
    "³": "^3",
    "µ": "u",
    "≈": "~",
    "∞": "inf",
    "“": '"',
    "”": '"',
    "„": '"',
    "‘": "'",
    "’": "'",
    "━": "-",
    "╸": "-",
    "╺": "-",
    "│": "|",
    "─": "-",
}


def write_in_any_code_page() -> None:
    """What a terminal or a file cannot show is written in signs that it can, here and in all output."""
    codecs.register_error("medfuse.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="medfuse.plain")


def end_when_told() -> None:
    """SIGTERM ends this process as Ctrl-C does: what is open is closed, what is half-written is removed."""
    signal.signal(signal.SIGTERM, _end)


def was_told_to_end() -> bool:
    """Whether SIGTERM has come. What fails after it is no fault: loader processes may have got it too."""
    return bool(_told)


_told: list[int] = []


def _end(number: int, frame: FrameType | None) -> None:
    _told.append(number)
    raise SystemExit(TERMINATED)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in signs), error.end
