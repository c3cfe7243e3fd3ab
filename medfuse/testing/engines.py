"""What an engine keeps: so many workers as were asked for, with their names and words, and how they end."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

from medfuse.api import Command, Crew, Engine
from medfuse.core.errors import MedfuseError
from medfuse.testing import rehearsal
from medfuse.testing.report import Check, report

_WORDS = ("--quiet", "a folder/of läbels", "x=1", "")


def check_engine(plugin: Engine, *, wait_s: float = 60.0) -> None:
    """Workers that only wait for orders are started in a temporary folder. wait_s: for one to begin or end.

    An engine that starts nothing itself is held to what it prints.
    """
    checks: dict[str, Check] = {
        "what it prints has the words and the shards": partial(_prints_a_file, plugin)
    }
    if starts(plugin):
        checks = {name: partial(law, plugin, wait_s) for name, law in _LAWS.items()}
    report(plugin, checks)


def starts(plugin: Engine) -> bool:
    """Whether it starts workers itself, rather than printing what does."""
    try:
        plugin.printed(Command(("infer",), Path("/labels")), 2)
    except MedfuseError:
        return True
    return False


class _Stage:
    """Workers of a rehearsal, and what is seen of them."""

    def __init__(self, crew: Crew, folder: Path, wait_s: float) -> None:
        self.crew, self.folder, self._wait_s = crew, folder, wait_s
        self.told: list[tuple[str, str]] = []

    def names(self) -> list[str]:
        return sorted(path.name.removesuffix(".began") for path in self.folder.glob("*.began"))

    def begun(self, count: int) -> list[str]:
        self.until(lambda: len(self.names()) >= count, f"only {len(self.names())} of {count} workers begin")
        return self.names()

    def order(self, name: str, what: str) -> None:
        path = self.folder / f"{name}.order"
        path.with_suffix(".new").write_text(what)
        path.with_suffix(".new").rename(path)

    def until(self, seen: Callable[[], bool], otherwise: str) -> None:
        ends = time.monotonic() + self._wait_s
        while not seen():
            self.told += self.crew.ended()
            assert time.monotonic() < ends, f"{otherwise}, within {self._wait_s:g} s; told: {self.told}"
            time.sleep(rehearsal.POLL_S)

    def beats(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.glob("*.alive")}


@contextmanager
def _stage(plugin: Engine, wait_s: float, workers: int = 2) -> Iterator[_Stage]:
    with tempfile.TemporaryDirectory(prefix="medfuse engine ", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        words = (str(folder), *_WORDS)
        crew = plugin.start(Command(words, folder, "cpu", module="medfuse.testing.rehearsal"), workers)
        try:
            yield _Stage(crew, folder, wait_s)
        finally:
            (folder / "end").touch()
            crew.end()


def _begin(plugin: Engine, wait_s: float) -> None:
    with _stage(plugin, wait_s) as stage:
        names = stage.begun(2)
        assert len(names) == 2, f"two workers were asked for, and {len(names)} begin"
        assert all(names), "a worker has no name; give it the variables of `Command.variables(name)`"
        assert len(stage.crew) == 2, f"the length of a crew of two is {len(stage.crew)}"
        for name in names:
            words = json.loads((stage.folder / f"{name}.began").read_text().splitlines()[0])
            assert words == list(_WORDS), f"a worker is given {words} in place of {list(_WORDS)}"
        assert not stage.told, f"workers that go on are told of: {stage.told}"


def _ends_well(plugin: Engine, wait_s: float) -> None:
    with _stage(plugin, wait_s) as stage:
        stage.order(stage.begun(2)[0], "well")
        stage.until(lambda: len(stage.crew) == 1, "a worker that ended well is still counted")
        stage.told += stage.crew.ended()
        assert not stage.told, f"a worker that ended with code 0 is told of: {stage.told}"


def _fails(plugin: Engine, wait_s: float) -> None:
    with _stage(plugin, wait_s) as stage:
        name = stage.begun(2)[0]
        stage.order(name, "fail")
        stage.until(lambda: bool(stage.told), "a worker that ended with code 1 is not told of")
        assert [told for told, _ in stage.told] == [name], f"told of {stage.told}; it was {name}"
        said = stage.told[0][1]
        assert rehearsal.SAID["fail"] in said, f"its last line is not in the reason: {said}"
        assert len(stage.crew) == 1, f"{len(stage.crew)} are counted; one of two has ended"


def _is_killed(plugin: Engine, wait_s: float) -> None:
    with _stage(plugin, wait_s) as stage:
        name = stage.begun(2)[0]
        stage.order(name, "die")
        began = stage.folder / f"{name}.began"
        stage.until(
            lambda: bool(stage.told) or len(began.read_text().splitlines()) > 1,
            "a worker that was killed is not told of, and does not begin again",
        )
        assert {told for told, _ in stage.told} <= {name}, f"told of {stage.told}; it was {name}"


def _mistake(plugin: Engine, wait_s: float) -> None:
    with _stage(plugin, wait_s) as stage:
        stage.order(stage.begun(2)[0], "mistake")
        try:
            stage.until(lambda: bool(stage.told), "no MedfuseError of a worker that ended with code 2")
        except MedfuseError as error:
            said = str(error)
        else:
            raise AssertionError(f"told of as a loss: {stage.told}; `Command.ended` raises for code 2")
        assert rehearsal.SAID["mistake"] in said, f"the worker's last line is not in the error: {said}"


def _one_more(plugin: Engine, wait_s: float) -> None:
    with _stage(plugin, wait_s) as stage:
        stage.order(stage.begun(2)[0], "fail")
        stage.until(lambda: bool(stage.told), "a worker that ended with code 1 is not told of")
        stage.crew.add()
        assert len(stage.crew) == 2, f"after add() a crew of one has {len(stage.crew)}"
        assert len(stage.begun(3)) == 3


def _end(plugin: Engine, wait_s: float) -> None:
    with _stage(plugin, wait_s) as stage:
        stage.begun(2)
        stage.until(lambda: len(stage.beats()) == 2, "workers do not go on")
        stage.crew.end()
        assert len(stage.crew) == 0, f"after end() {len(stage.crew)} are counted"
        ends = time.monotonic() + wait_s
        before: dict[str, str] = {}
        while before != (before := stage.beats()):
            assert time.monotonic() < ends, "workers go on after end()"
            time.sleep(10 * rehearsal.POLL_S)
        assert not stage.crew.ended(), "who was ended is told of"


def _prints_nothing(plugin: Engine, wait_s: float) -> None:
    said = io.StringIO()
    with redirect_stdout(said), _stage(plugin, wait_s, workers=1) as stage:
        stage.order(stage.begun(1)[0], "fail")
        stage.until(lambda: bool(stage.told), "a worker that ended with code 1 is not told of")
    assert not said.getvalue(), f"it prints {said.getvalue()[:80]!r}; stdout is for results"


def _prints_a_file(plugin: Engine) -> None:
    command = Command(("infer", "a run", "--input", "scäns", "--output", "labels"), Path("/labels"))
    text = plugin.printed(command, 3)
    for word in ("a run", "scäns", "--shard"):
        assert word in text, f"{word!r} is not in what it prints"
    assert "/3" in text, "it does not say that there are three shards"


_LAWS = {
    "so many workers, each with a name and the words": _begin,
    "who ends well is not told of": _ends_well,
    "who fails is told of by name, with the last line": _fails,
    "who is killed is told of by name, or begins again": _is_killed,
    "a mistake of the user's ends all": _mistake,
    "one more in place of one that ended": _one_more,
    "the end of all": _end,
    "prints nothing on stdout": _prints_nothing,
}
