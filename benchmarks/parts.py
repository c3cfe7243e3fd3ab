"""A benchmark of several parts, each a process with its own seconds, written down as it is done."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

LINES_OF_AN_ERROR = 12


@dataclass(frozen=True)
class Part:
    """`measure` prints Markdown, line by line as it finds out; `seconds` are what it may take."""

    name: str
    title: str
    seconds: float
    measure: Callable[[argparse.Namespace], None]


def parser(doc: str | None, parts: Sequence[Part], *, minutes: float) -> argparse.ArgumentParser:
    """The options that all such benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    names = [part.name for part in parts]
    made.add_argument(
        "--dry-run", action="store_true", help="go through every line on this CPU, in tiny sizes"
    )
    made.add_argument("--only", choices=names, action="append", help="this part, several times for several")
    made.add_argument("--minutes", type=float, default=minutes, help="of all parts together")
    made.add_argument("--output", type=Path, help="a file that has what was measured, after each part")
    made.add_argument("--nnunet-python", type=Path, help="the Python of an environment that has nnunetv2")
    made.add_argument("--part", choices=names, help=argparse.SUPPRESS)
    return made


def measure(parts: Sequence[Part], given: argparse.Namespace, *, title: str, python: str) -> bool:
    """Every part, one after the other; whether all were done. A part that fails or takes too long is named.

    The file is whole after each part, and has its lines as they are said; a signal leaves them there.
    """
    chosen = [part for part in parts if not given.only or part.name in given.only]
    document = _Document(given.output, f"## {title}\n\n{_heading(given)}\n")
    patience = 10 if given.dry_run else 1  # of a machine that may be slow and busy, where nothing is measured
    ends, failed = time.monotonic() + 60 * patience * given.minutes, []
    for part in chosen:
        seconds = min(patience * part.seconds, ends - time.monotonic())
        document.say(f"\n### {part.title}\n")
        if seconds < 1:
            fault = "not begun: the minutes were over"
        else:
            fault = _measured(part, python, seconds, document)
        if fault:
            failed.append(part.name)
            document.say(f"- **{part.name}**: {fault}")
    return not failed


def _measured(part: Part, python: str, seconds: float, document: _Document) -> str:
    """What went wrong with a part, or nothing."""
    command = [python, *sys.argv, "--part", part.name]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        document.errors() as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,  # so that it is ended with all that it started
        ) as process,
        _ended_with_us(process),
    ):
        began = time.monotonic()
        timer = _Timer(process, seconds)
        with timer:
            assert process.stdout is not None
            for line in process.stdout:
                document.say(line.rstrip("\n"))
            code = process.wait()
        errors.flush()
        errors.seek(0)
        last = [line for line in errors.read().splitlines() if line.strip()][-LINES_OF_AN_ERROR:]
    said = "\n\n```\n" + "\n".join(last) + "\n```" if last else ""
    if timer.rang:
        return f"stopped after {time.monotonic() - began:.0f} seconds, which is what it may take{said}"
    return f"failed:{said}" if code else ""


class _Timer:
    """Ends a process and all that it started after some seconds."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        import threading

        self.rang = False
        self._process, self._timer = process, threading.Timer(seconds, self._ring)

    def _ring(self) -> None:
        self.rang = True
        end(self._process)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def end(process: subprocess.Popen[str]) -> None:
    """End a process that has a session of its own, and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    """A signal that ends this process ends the part first."""

    def stop(number: int, _: object) -> None:
        end(process)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Document:
    """What is said, on the screen and in a file, line by line."""

    def __init__(self, path: Path | None, head: str) -> None:
        self._path = path
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        self.say(head.rstrip("\n"))

    def say(self, text: str) -> None:
        if self._path:
            with self._path.open("a") as file:
                file.write(f"{text}\n")
        print(text, flush=True)

    @contextlib.contextmanager
    def errors(self):  # type: ignore[no-untyped-def]  # a text file, of a type without a public name
        """What a part says beside, of which the end is shown where it fails."""
        import tempfile

        with tempfile.TemporaryFile("w+") as file:
            yield file


def _heading(given: argparse.Namespace) -> str:
    tried = ", a dry run: every line, tiny sizes, no result" if given.dry_run else ""
    return f"- {date.today()}{tried}\n- command: `python {shlex.join(sys.argv)}`"


def run(command: Sequence[str | Path], *, quiet: bool = False, **environment: str) -> None:
    """A command of a part, whose output is the part's, which ends with it where it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        stdout=sys.stderr if quiet else None,
    )
    if done.returncode:
        sys.exit(done.returncode)


def has(python: Path | str, module: str) -> bool:
    """Whether an environment has a module."""
    look = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({module!r}))"
    return subprocess.run([str(python), "-c", look], capture_output=True).returncode == 0
