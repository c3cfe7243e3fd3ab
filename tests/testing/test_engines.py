"""Faults that authors of engines make, each caught by the law that it breaks."""

import os
import secrets
import subprocess

import pytest
from planting import each, failed, planted

from medfuse.api import Engine
from medfuse.testing import check_engine, engines


class Processes:
    def __init__(self, command):
        self.command, self.running = command, {}

    def __len__(self):
        return len(self.running)

    def add(self, **changed):
        name = secrets.token_hex(4)
        words, variables = self.command.words, self.command.variables(name, cores=1, ends_with_this=True)
        self.running[name] = subprocess.Popen(
            **{"args": words, "env": {**os.environ, **variables}, "stderr": subprocess.PIPE} | changed
        )

    def ended(self):
        found = []
        for name in [name for name, process in self.running.items() if process.poll() is not None]:
            process = self.running.pop(name)
            said = process.stderr.read().decode()
            process.stderr.close()
            if reason := self.command.ended(process.returncode, said):
                found.append((name, reason))
        return found

    def end(self):
        for process in self.running.values():
            process.kill()
            process.wait()
            process.stderr.close()
        self.running.clear()


class Sound(Engine):
    """Processes.

    {use: sound}
    """

    def start(self, command, workers):
        return started(Processes(command), workers)


def started(crew, workers):
    for _ in range(workers):
        crew.add()
    return crew


def crew_that(**members):
    """An engine whose crew differs."""
    kind = type("Odd", (Processes,), members)
    return {"start": lambda self, command, workers: started(kind(command), workers)}


def nameless(self):
    Processes.add(self, env={**os.environ, "MEDFUSE_WORKER": secrets.token_hex(4)})


def all_told(self):
    return [(name, "it ended") for name in list(self.running) if self.running[name].poll() is not None]


def unnamed(self):
    return [("one of them", reason) for _, reason in Processes.ended(self)]


def speechless(self):
    return [(name, "it ended") for name, _ in Processes.ended(self)]


def lenient(self):
    self.command = type("C", (), {"ended": lambda _, code, said: f"{code} {said}"})()
    return Processes.ended(self)


def chatty(self):
    print("a worker has begun")
    Processes.add(self)


def without_the_last(self):
    self.command = type(self.command)(
        self.command.arguments[:-1], self.command.folder, module=self.command.module
    )
    Processes.add(self)


def adds_two(self):
    self.count = getattr(self, "count", 0) + 1
    if self.count <= 2:
        Processes.add(self)


def leaves_them(self):
    self.left = dict(self.running)
    self.running.clear()


FAULTS = {
    "starts one too few": (
        "so many workers, each with a name and the words",
        {"start": lambda self, command, workers: started(Processes(command), workers - 1)},
    ),
    "keeps the names to itself": (
        "who fails is told of by name, with the last line",
        crew_that(add=nameless),
    ),
    "loses a word": ("so many workers, each with a name and the words", crew_that(add=without_the_last)),
    "tells of who ends well": ("who ends well is not told of", crew_that(ended=all_told)),
    "gives another name": ("who is killed is told of by name, or begins again", crew_that(ended=unnamed)),
    "keeps what was said": ("who fails is told of by name, with the last line", crew_that(ended=speechless)),
    "goes on after a mistake": ("a mistake of the user's ends all", crew_that(ended=lenient)),
    "adds nobody": ("one more in place of one that ended", crew_that(add=adds_two)),
    "ends nobody": ("the end of all", crew_that(end=leaves_them)),
    "prints": ("prints nothing on stdout", crew_that(add=chatty)),
}


@each(FAULTS)
@pytest.mark.filterwarnings("default")  # of the pipes and processes that a faulty engine leaves
def test_a_fault_is_caught_by_its_law(fault, monkeypatch):
    law, members = fault
    known = engines._LAWS
    monkeypatch.setattr(engines, "_LAWS", {law: known[law]})
    assert law in failed(lambda plugin: check_engine(plugin, wait_s=2), planted(Sound, **members)())


def test_a_sound_engine_passes():
    check_engine(Sound())


class Printer(Engine):
    """Prints.

    {use: printer}
    """

    def printed(self, command, workers):
        lines = (" ".join([*command.arguments, "--shard", f"{one}/{workers}"]) for one in range(workers))
        return "\n".join(lines)


def test_one_that_only_prints_is_held_to_that():
    check_engine(Printer())
    broken = planted(Printer, printed=lambda self, command, workers: "none")()
    assert "what it prints has the words and the shards" in failed(check_engine, broken)
