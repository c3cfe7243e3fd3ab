"""Large libraries are imported in one go, without what looks through their thousands of objects meanwhile."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imported_at_once(library: str) -> Iterator[None]:
    """Python collects no garbage while the block imports `library`: nearly all that is made then stays.

    It would look through all of it again and again, for a sixth of the time that torch takes to import, and
    is not to do so later either. Where the library is there already, nothing is otherwise.
    """
    collects = gc.isenabled() and library not in sys.modules
    if not collects:
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
