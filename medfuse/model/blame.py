"""Whose fault it is, and errors put at a place of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medfuse.api import Plugin
from medfuse.core.errors import MedfuseError, Path, PipelineError, Problem, reason
from medfuse.core.json_text import shortened
from medfuse.registry import blame

__all__ = ["blame", "placed"]


@contextmanager
def placed(path: Path, plugin: Plugin) -> Iterator[None]:
    """A MedfuseError inside becomes a PipelineError at `path`; any other is noted to be the plugin's."""
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
