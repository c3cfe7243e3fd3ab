"""A feed gives in order, holds the giver back, and lets either side go."""

import threading
import time

import pytest
from clock import Clock

from medfuse.infer.feed import Abandoned, Feed


def in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_items_come_in_order() -> None:
    feed: Feed[int] = Feed(10)

    def give() -> None:
        for number in range(100):
            feed.put(number, 3)
        feed.finish()

    giver = in_thread(give)
    assert list(feed) == list(range(100))
    giver.join(10)
    assert not giver.is_alive()


class Watched(Clock):
    """A clock that tells when somebody looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Semaphore(0)

    def perf_counter(self) -> float:
        self.read.release()
        return super().perf_counter()


def test_the_giver_waits_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Watched()
    monkeypatch.setattr("medfuse.infer.feed.time", clock)
    feed: Feed[str] = Feed(10)
    given: list[str] = []

    def give() -> None:
        for name in "abc":
            feed.put(name, 5)
            given.append(name)
        feed.finish()

    giver = in_thread(give)
    for _ in range(5):  # before and after a and b, and before c
        assert clock.read.acquire(timeout=60)
    giver.join(0.2)
    assert given == ["a", "b"]
    clock.now = 7
    assert list(feed) == ["a", "b", "c"]
    assert feed.held_seconds == 7


def test_an_item_larger_than_the_room_passes_alone() -> None:
    feed: Feed[str] = Feed(10)
    feed.put("large", 1000)
    feed.finish()
    assert list(feed) == ["large"]


def test_a_giver_who_waits_is_told_that_the_taker_has_gone() -> None:
    feed: Feed[str] = Feed(1)
    feed.put("a", 1)
    in_thread(lambda: (time.sleep(0.1), feed.abandon()))
    with pytest.raises(Abandoned):
        feed.put("b", 1)


def test_a_taker_who_waits_is_told_that_the_giver_has_gone() -> None:
    feed: Feed[str] = Feed(1)
    in_thread(lambda: (time.sleep(0.1), feed.abandon()))
    with pytest.raises(Abandoned):
        list(feed)


def test_what_is_complete_is_not_abandoned() -> None:
    feed: Feed[str] = Feed(10)
    feed.put("a", 1)
    feed.finish()
    feed.abandon()
    assert list(feed) == ["a"]
