"""On a board every case is taken by one living worker at a time, and is settled once, whoever dies."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from medfuse.core import board as boards
from medfuse.core import patience
from medfuse.core.board import ATTEMPTS, Board
from medfuse.core.crew import WORKER
from medfuse.core.errors import OutputError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "board"


def settled(board: Board) -> dict[int, dict]:
    return dict(board.records())


def test_every_case_is_taken_once_in_order(folder):
    first, second = Board(folder, 4), Board(folder, 4)
    assert [first.take(), second.take(), second.take(), first.take()] == [0, 1, 2, 3]
    with first.joined(), second.joined():
        assert first.take() is None
        assert second.take() is None
        assert first.left


def test_many_at_once_take_each_case_once(folder):
    taken: list[int] = []

    def work():
        board = Board(folder, 60)
        with board.joined():
            while (number := board.take()) is not None:
                board.settle(number, {"state": "done"})
                taken.append(number)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(60))
    assert sorted(settled(Board(folder, 60))) == list(range(60))


def test_what_is_settled_is_not_taken_again(folder):
    first = Board(folder, 2)
    first.settle(first.take(), {"state": "failed", "reason": "why"})
    later = Board(folder, 2)
    assert later.take() == 1
    later.settle(1, {"state": "done"})
    assert not later.left
    assert settled(later)[0] == {"state": "failed", "reason": "why", "attempt": 1}


def test_a_reason_that_may_pass_gives_another_attempt_and_the_last_sets_the_case_aside(folder):
    one, other = Board(folder, 1), Board(folder, 1)
    with one.joined(), other.joined():
        for attempt, worker in enumerate([one, other, one], 1):
            number = worker.take()
            assert (number, worker.attempt(0)) == (0, attempt)
            worker.give_up(0, f"reason {attempt}")
        assert one.take() is None
    assert settled(one)[0]["state"] == "failed"
    assert settled(one)[0]["reason"] == f"set aside after {ATTEMPTS} attempts: reason 1; reason 2; reason 3"


HOLDER = """
import sys, time
from pathlib import Path
from medfuse.core.board import Board
board = Board(Path(sys.argv[1]), 2)
with board.joined():
    print(board.take(), flush=True)
    time.sleep(60)
"""


def holder(folder, name="a worker"):
    env = {**os.environ, WORKER: name}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout
    assert process.stdout.readline().strip() == "0"
    return process


def test_a_killed_worker_gives_way_and_a_living_one_does_not(folder):
    other = Board(folder, 2)
    with other.joined(), holder(folder) as process:
        assert other.take() == 1
        assert other.take() is None
        process.kill()
        process.wait()
        assert other.take() == 0
        assert other.attempt(0) == 2
        assert other.tries(0)


def test_one_that_does_not_answer_gives_way_and_no_longer_holds_its_case(folder, monkeypatch):
    slow, other = Board(folder, 1), Board(folder, 1)
    with slow.joined():
        assert slow.take() == 0
        assert slow.holds(0)
        worker = next(iter(folder.glob("workers/*")))
        long_ago = time.time() - 10 * boards.DEAD_S
        monkeypatch.setattr(slow, "_beat", lambda: None)
        os.utime(worker, (long_ago, long_ago))
        assert other.take() == 0
        assert not slow.holds(0)
        assert other.holds(0)


def test_a_clock_that_is_off_kills_nobody(folder, monkeypatch):
    slow, other = Board(folder, 1), Board(folder, 1)
    with slow.joined(), other.joined():
        assert slow.take() == 0
        monkeypatch.setattr(time, "time", lambda: 1e12)
        assert other.take() is None


def test_a_stopped_worker_of_this_machine_is_alive_while_it_is_heard_of(folder):
    with holder(folder) as process:
        process.send_signal(signal.SIGSTOP)
        assert [worker.is_alive for worker in Board(folder, 2).workers()] == [True]
        process.kill()


def test_who_is_buried_is_named_with_the_reason(folder):
    other = Board(folder, 2)
    with holder(folder) as process:
        process.kill()
        process.wait()
        other.bury("another", "never")
        assert len(other.workers()) == 1
        other.bury("a worker", "killed by signal 9")
        assert other.workers() == []
        assert other.take() == 1
        assert other.take() == 0
        assert other.tries(0) == ["killed by signal 9"]


def test_a_claim_that_nobody_signed_gives_way_after_a_while(folder):
    board = Board(folder, 1)
    claim = folder / "claims" / "0.1"
    claim.touch()
    with board.joined():
        assert board.take() is None
        long_ago = time.time() - 10 * boards.DEAD_S
        os.utime(claim, (long_ago, long_ago))
        assert board.take() == 0


def test_workers_say_where_they_are(folder, monkeypatch):
    monkeypatch.setattr(boards, "BEAT_S", 0.01)
    board = Board(folder, 1)
    with board.joined():
        board.doing(case="a", done=3, of=9)
        until = time.monotonic() + 5
        while not (told := [(w.doing, w.pid) for w in Board(folder, 1).workers() if w.doing]):
            assert time.monotonic() < until
        assert told == [({"case": "a", "done": 3, "of": 9}, os.getpid())]
    assert Board(folder, 1).workers() == []


@pytest.mark.parametrize("claimed", [0, 1, 2, 3, 37, 63, 64, 99, 100])
def test_one_that_comes_late_takes_the_first_that_is_free(folder, claimed):
    first, late = Board(folder, 100), Board(folder, 100)
    with first.joined():
        for _ in range(claimed):
            first.take()
        assert late.take() == (claimed if claimed < 100 else None)


def test_a_gap_among_the_claims_is_taken_in_the_end(folder):
    first, late = Board(folder, 10), Board(folder, 10)
    with first.joined():
        for _ in range(6):
            first.take()
        (folder / "claims" / "2.1").unlink()
        assert [late.take() for _ in range(5)] == [6, 7, 8, 9, 2]


def test_a_late_worker_asks_for_few_files(folder, monkeypatch):
    first = Board(folder, 2000)
    for number in range(1500):
        (folder / "claims" / f"{number}.1").write_text(first._id)
    late, asked = Board(folder, 2000), []
    claim_path = late._claim_path
    monkeypatch.setattr(late, "_claim_path", lambda *which: asked.append(which) or claim_path(*which))
    assert late.take() == 1500
    assert len(asked) < 30


def test_what_a_lost_worker_held_is_taken_over_before_what_nobody_has_touched(folder, monkeypatch):
    monkeypatch.setattr(boards, "LOOK_S", 0.0)
    lost, other = Board(folder, 5), Board(folder, 5)
    assert lost.take() == 0
    lost._beat()
    assert other.take() == 1
    hour_ago = time.time() - 3600
    os.utime(folder / "workers" / lost._id, (hour_ago, hour_ago))
    assert other.take() == 0
    assert not lost.holds(0)
    assert other.take() == 2


def test_what_failed_for_a_reason_that_may_pass_is_tried_again_after_a_while(folder, monkeypatch):
    monkeypatch.setattr(boards, "LOOK_S", 0.0)
    board = Board(folder, 3)
    board.give_up(board.take(), "the disk was full")
    assert board.take() == 1
    hour_ago = time.time() - 3600
    os.utime(folder / "over" / "0.1", (hour_ago, hour_ago))
    assert (board.take(), board.attempt(0)) == (0, 2)
    assert board.take() == 2


def test_who_goes_on_is_not_buried(folder):
    other = Board(folder, 2)
    with holder(folder) as process:
        other.bury("a worker", "its engine thinks that it is gone")
        assert [worker.name for worker in other.workers()] == ["a worker"]
        assert other.tries(0) == []
        process.kill()


def test_a_worker_that_starts_again_gives_way_to_itself(folder, monkeypatch):
    """On another machine too, where nobody can tell whether the process is there."""
    with holder(folder) as process:
        process.kill()
    before = next((folder / "workers").iterdir())
    before.write_text(before.read_text().replace(f'"{socket.gethostname()}"', '"elsewhere"'))
    monkeypatch.setenv(WORKER, "a worker")
    again = Board(folder, 1)
    with again.joined():
        assert again.take() == 0
        assert again.attempt(0) == 2
        assert again.tries(0) == ["its worker was lost, and started again"]


def test_a_case_costs_a_few_operations_on_files_however_many_there_are(folder):
    """Those that Python tells of: opening, making, removing, renaming and listing."""
    asked = []
    concerns = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "os.listdir")

    def note(event, given):
        if watching and event in concerns and not isinstance(given[0], int):
            asked.append((event, str(given[0])))

    watching = False
    sys.addaudithook(note)
    for cases in (10, 1000):
        one, other = Board(folder / str(cases), cases), Board(folder / str(cases), cases)
        for board in (one, other, one, one, other):
            asked.clear()
            watching = True
            board.settle(board.take(), {"state": "done"})
            watching = False
            assert len(asked) <= 3, asked  # a claim; a record, and its place


def test_what_a_crashed_machine_left_empty_is_not_settled(folder):
    board = Board(folder, 2)
    board.settle(board.take(), {"state": "done"})
    (folder / "records" / "0.json").write_text("")
    assert settled(board) == {}
    assert board.left
    assert Board(folder, 2).take() is not None


def test_attempts_that_got_a_case_on_do_not_count_against_it(folder):
    far = [0]

    def worker() -> Board:
        return Board(folder, 1, mark=lambda number: str(far[0]))

    for _ in range(2 * ATTEMPTS):
        far[0] += 1
        board = worker()
        assert board.take() == 0
        board.give_up(0, "its disk was full")
    for _ in range(ATTEMPTS - 1):
        assert not settled(worker())
        board = worker()
        assert board.take() == 0
        board.give_up(0, "its disk was full")
    assert settled(worker())[0]["state"] == "failed"


@pytest.mark.parametrize("failure", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.ETIMEDOUT])
def test_a_disk_that_fails_for_a_while_is_asked_again(failure, folder, monkeypatch):
    """Making claims, writing records and looking at what is left; half a minute of it."""
    monkeypatch.setattr(patience, "PAUSE_S", 0.001)
    board, asked = Board(folder, 3), Counter()

    def now_and_then(name, real, concerns=lambda *given: True):
        def ask(*given, **options):
            asked[name] += concerns(*given)
            if concerns(*given) and asked[name] % 3:
                raise OSError(failure, os.strerror(failure))
            return real(*given, **options)

        return ask

    for name in ("put_text", "put_json", "_entries"):
        monkeypatch.setattr(boards, name, now_and_then(name, getattr(boards, name)))
    claims = str(folder / "claims")
    monkeypatch.setattr(
        os, "open", now_and_then("open", os.open, lambda path, *_: str(path).startswith(claims))
    )
    taken = []
    while board.left:
        number = board.take()
        taken.append(number)
        if number == 1 and board.attempt(1) == 1:
            board.give_up(1, "a reason that may pass")
        else:
            board.settle(number, {"state": "done"})
    assert sorted(taken) == [0, 1, 1, 2]
    assert all(asked[name] > 2 for name in ("put_json", "_entries", "open")), asked


def test_a_disk_that_goes_on_failing_is_a_line(folder, monkeypatch):
    monkeypatch.setattr(patience, "PAUSE_S", 0.001)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.02)
    board = Board(folder, 1)

    def full(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OutputError, match="the disk is full; free some space"):
        board.take()


def test_what_does_not_pass_is_not_asked_again(folder, monkeypatch):
    board, asked = Board(folder, 1), []

    def refused(*given, **options):
        asked.append(given)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OutputError, match="cannot be written"):
        board.take()
    assert len(asked) == 1
