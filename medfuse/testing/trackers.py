"""What a tracker keeps: it takes whatever a training says, in any thread, and stays on this machine."""

from __future__ import annotations

import io
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from medfuse.api import TrackedRun, Tracker, Tracking
from medfuse.testing.disk import contents
from medfuse.testing.report import Check, report

_PARAMETERS: dict[str, str | int | float | bool] = {
    "name": "livers",
    "seed": 1,
    "train.minutes": 0.5,
    "train.compile": False,
    "train.parts.backbones.encoder.*.rate": 0.1,
    "model.fusion.décodé.inputs": "encoder.*, image",
    "a value that is long": "x" * 20_000,
}
_NUMBERS = {"loss": 0.7, "dice": 0.5, "dice/lobe supérieur (gauche)": 0.25, "rate/backbones.encoder.*": 1e-9}


def check_tracker(plugin: Tracker) -> None:
    """Runs are begun, carried on, finished and stopped, in a folder of their own that is gone afterwards."""
    checks: dict[str, Check] = {
        "takes a whole run": partial(_whole_run, plugin),
        "goes on with the run of a key": partial(_carried_on, plugin),
        "a run that stops is no fault": partial(_stopped, plugin),
        "works in any thread": partial(_in_threads, plugin),
        "two runs at once are two": partial(_side_by_side, plugin),
        "the run's own files stay as they are": partial(_leaves_the_run, plugin),
        "asks for no host": partial(_asks_for_no_host, plugin),
        "prints nothing on stdout": partial(_prints_nothing, plugin),
    }
    report(plugin, checks)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made, "runs")
        (folder / "livers").mkdir(parents=True)
        (folder / "livers" / "report.html").write_text("<html>a report</html>")
        yield folder


def _run(shared: Path, key: str = "1a2b3c", step: int = 0) -> TrackedRun:
    return TrackedRun("livers", key, shared / "livers", shared, step, _PARAMETERS)


def _steps(tracking: Tracking, first: int = 1) -> None:
    for step in range(first, first + 3):
        tracking.log(step, _NUMBERS)
    tracking.log(first + 2, {"dice": 0.6})  # what comes later of a step


def _finish(tracking: Tracking, run: TrackedRun) -> None:
    tracking.finish({"Dice": 0.5, "Dice/liver": 0.5}, [run.folder / "report.html"])


def _whole_run(plugin: Tracker) -> None:
    with _folder() as shared:
        run = _run(shared)
        tracking = plugin.begin(run)
        missing = [name for name in ("log", "finish", "stop") if not callable(getattr(tracking, name, None))]
        assert not missing, f"what begin() returns has no {', '.join(missing)}()"
        _steps(tracking)
        _finish(tracking, run)


def _carried_on(plugin: Tracker) -> None:
    """Killed after step 3, it goes on from step 2 with parameters that were told already."""
    with _folder() as shared:
        _steps(plugin.begin(_run(shared)))
        run = _run(shared, step=2)
        tracking = plugin.begin(run)
        _steps(tracking, 3)
        _finish(tracking, run)
        _finish(plugin.begin(_run(shared, step=5)), run)


def _stopped(plugin: Tracker) -> None:
    with _folder() as shared:
        tracking = plugin.begin(_run(shared))
        _steps(tracking)
        tracking.stop()


def _in_threads(plugin: Tracker) -> None:
    with _folder() as shared:
        _threaded(lambda: _begun_and_finished(plugin, _run(shared)))


def _begun_and_finished(plugin: Tracker, run: TrackedRun) -> None:
    tracking = plugin.begin(run)
    _steps(tracking)
    _finish(tracking, run)


def _side_by_side(plugin: Tracker) -> None:
    with _folder() as shared:
        for key in ("first", "second"):
            _begun_and_finished(plugin, _run(shared, key))


def _leaves_the_run(plugin: Tracker) -> None:
    with _folder() as shared:
        before = contents(shared / "livers")
        _begun_and_finished(plugin, _run(shared))
        changed = sorted(set(before.items()) ^ set(contents(shared / "livers").items()))
        assert not changed, f"{changed[0][0]} is written or removed; keep files in a folder of `run.shared`"


def _asks_for_no_host(plugin: Tracker) -> None:
    with _folder() as shared, _watched() as asked:
        _begun_and_finished(plugin, _run(shared))
    assert not asked, f"it asks for {asked[0]}; a network is used where a parameter asks for that"


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Hosts that Python looks up or calls, but for this one."""
    asked: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connecting(self: socket.socket, address: Any) -> None:
        _note(address, asked)
        connect(self, address)

    def looking_up(host: Any, *more: Any, **others: Any) -> Any:
        _note((host,), asked)
        return look_up(host, *more, **others)

    socket.socket.connect, socket.getaddrinfo = connecting, looking_up  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield asked
    finally:
        socket.socket.connect, socket.getaddrinfo = connect, look_up  # type: ignore[method-assign]  # as they were


def _note(address: Any, asked: list[str]) -> None:
    host = address[0] if isinstance(address, tuple) else ""
    if host not in ("", None, "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        asked.append(str(host))


def _prints_nothing(plugin: Tracker) -> None:
    said = io.StringIO()
    with _folder() as shared, redirect_stdout(said):
        _begun_and_finished(plugin, _run(shared))
    assert not said.getvalue(), f"it prints {said.getvalue()[:80]!r}; stdout is for results"


def _threaded(task: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            task()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
