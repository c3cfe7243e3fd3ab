"""Whose fault it is, and errors put at a place of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from medfuse.api import Plugin
from medfuse.core.errors import MedfuseError, Path, PipelineError, Problem, dotted, reason
from medfuse.core.json_text import shortened
from medfuse.registry import blame

__all__ = ["blame", "placed", "told_at"]

_PLACE: ContextVar[Path] = ContextVar("place", default=())


@contextmanager
def placed(path: Path, plugin: Plugin) -> Iterator[None]:
    """A MedfuseError inside becomes a PipelineError at `path`; any other is noted to be the plugin's."""
    token = _PLACE.set(path)
    try:
        yield
    except PipelineError:
        raise
    except MedfuseError as error:
        raise PipelineError([Problem((*path, *error.at), line) for line in error.lines]) from error
    except Exception as error:
        said = shortened(reason(error), 200)
        if isinstance(error, MemoryError | OverflowError) or "allocate" in said or "overflow" in said:
            too_large = f"{blame(plugin)} is too large to be made: {said}; choose smaller numbers"
            raise PipelineError([Problem(path, too_large)]) from error
        error.add_note(f"raised by {blame(plugin)}")
        raise
    finally:
        _PLACE.reset(token)


def told_at(line: str) -> str:
    """A line with the place of the file that it is about, where one is `placed`."""
    return f"{dotted(place)}: {line}" if (place := _PLACE.get()) else line
