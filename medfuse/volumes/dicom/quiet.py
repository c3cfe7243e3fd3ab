"""pydicom without what it says of values that break the standard."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class _Quiet(logging.Filter):
    """Of threads that read by `quietly`, whose records are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: Counter[int] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.thread and self.threads[record.thread])


_quiet = _Quiet()


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom without its warnings of values that break the standard: what matters is checked here."""
    log, own = logging.getLogger("pydicom"), threading.get_ident()
    log.addFilter(_quiet)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    _quiet.threads[own] += 1
    try:
        yield
    finally:
        _quiet.threads[own] -= 1
