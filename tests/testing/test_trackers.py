"""Faults that authors of trackers make, each caught by the law that it breaks."""

import contextlib
import json
import socket
import threading

from planting import each, failed, planted

from medfuse.api import Tracker
from medfuse.testing import check_tracker


class Told:
    def __init__(self, path):
        self.path = path

    def write(self, **line):
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def log(self, step, numbers):
        self.write(step=step, **numbers)

    def finish(self, summary, files):
        self.write(summary=dict(summary), files=[path.name for path in files])

    def stop(self):
        self.write(stopped=True)


class Lines(Tracker):
    """Writes lines of JSON.

    track: {use: lines}
    """

    def begin(self, run):
        (run.shared / "lines").mkdir(exist_ok=True)
        return Told(run.shared / "lines" / f"{run.key}.jsonl")


def beginning(before):
    """A tracker that does something else before it begins."""

    def begin(self, run):
        before(run)
        return Lines.begin(self, run)

    return {"begin": begin}


def refuse_known(run):
    if (run.shared / "lines" / f"{run.key}.jsonl").exists():
        raise FileExistsError(run.key)


def one_at_a_time(run):
    if (run.shared / "lines").exists() and run.key == "second":
        raise FileExistsError("a run is there")


def call_home(run):
    with contextlib.suppress(OSError):  # it asked all the same
        socket.getaddrinfo("collector.example", 443)


def only_in_main(run):
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signal only works in main thread")


def plain_names(run):
    if not all(name.isascii() for name in run.parameters):
        raise ValueError("a name is not ASCII")


FAULTS = {
    "hands out nothing": ("takes a whole run", {"begin": lambda self, run: object()}),
    "takes plain names alone": ("takes a whole run", beginning(plain_names)),
    "refuses a run that it knows": ("goes on with the run of a key", beginning(refuse_known)),
    "has room for one run": ("two runs at once are two", beginning(one_at_a_time)),
    "calls home": ("asks for no host", beginning(call_home)),
    "works in the main thread alone": ("works in any thread", beginning(only_in_main)),
    "prints": ("prints nothing on stdout", beginning(lambda run: print("hello"))),
    "writes into the run": (
        "the run's own files stay as they are",
        beginning(lambda run: (run.folder / "mine.txt").write_text("x")),
    ),
}


@each(FAULTS)
def test_a_fault_is_caught_by_its_law(fault):
    law, members = fault
    assert law in failed(check_tracker, planted(Lines, **members)())


def test_a_sound_tracker_passes():
    check_tracker(Lines())
