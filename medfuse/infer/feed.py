"""Items from one thread to another, so few at a time that neither runs away from the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Abandoned(Exception):
    """The other side of a feed has given up."""


class Feed(Generic[Item]):
    """One thread puts, another iterates; `put` waits until an item's bytes fit into `room`, or it is alone.

    The giver ends with `finish`. Either side may `abandon` it: then the other gets `Abandoned`, at once.
    `held_seconds`: how long `put` has waited; `waited_seconds`: how long the iteration has.
    """

    def __init__(self, room: int) -> None:
        self.held_seconds = self.waited_seconds = 0.0
        self._room = room
        self._items: deque[tuple[Item, int]] = deque()
        self._finished = self._abandoned = False
        self._changed = threading.Condition()

    def put(self, item: Item, size: int) -> None:
        began = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or self._fits(size))
            self.held_seconds += time.perf_counter() - began
            if self._abandoned:
                raise Abandoned
            self._items.append((item, size))
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._items or size + sum(waiting for _, waiting in self._items) <= self._room

    def finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Without effect once it is finished: what is complete may be used."""
        with self._changed:
            self._abandoned = not self._finished
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            began = time.perf_counter()
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._finished or self._abandoned)
                self.waited_seconds += time.perf_counter() - began
                if self._abandoned:
                    self._items.clear()
                    raise Abandoned
                if not self._items:
                    return
                item, _ = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # or it would be held while the next one is waited for
