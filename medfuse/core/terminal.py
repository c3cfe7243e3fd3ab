"""What a command owes to whoever started it: output in any code page, a tidy end when it is told to."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import traceback
from contextlib import suppress
from types import FrameType

from medfuse.core.errors import MedfuseError

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


def stand_in_for_closed_streams() -> None:
    """Output that was closed leads nowhere; no file that is opened later takes its number, and its lines."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # as long as the process


def refuse_to_start_nowhere() -> None:
    """Raises MedfuseError where the working directory was deleted, which libraries do not survive."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise MedfuseError("the working directory has gone; cd to one that is there") from None


def flush() -> str:
    """All that was printed leaves this process. Why it cannot, or empty."""
    said = ""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            said = said or (error.strerror if isinstance(error, OSError) else "") or "it is closed"
            with suppress(OSError, ValueError):  # or Python tries once more at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return said


def stranger_that_ended(ended: SystemExit) -> str:
    """`FILE:LINE` of code, such as a plugin's, that called sys.exit in our midst; else empty."""
    frames = [*traceback.walk_tb(ended.__traceback__)]
    if not frames:
        return ""
    frame, line = frames[-1]
    ours = str(frame.f_globals.get("__name__")).partition(".")[0] in ("medfuse", "typer", "click")
    return "" if ours or was_told_to_end() else f"{frame.f_code.co_filename}:{line}"


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
