"""Something that is done every few seconds beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(act: Callable[[], object], every_s: float, name: str) -> Iterator[None]:
    """`act` is called by a thread, first after `every_s`, until it says True or the block ends."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(every_s):
            if act() is True:
                return

    thread = threading.Thread(target=go_on, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
