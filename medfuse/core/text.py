"""Numbers, tables and plain data as the text that people read."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def by(numbers: Iterable[int]) -> str:
    """`64×64×32`."""
    return "×".join(map(str, numbers))


def listed(names: Sequence[str], most: int = 12) -> str:
    """`a, b, c`, and how many there are beyond the first `most`."""
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def typed(path: Path) -> str:
    """A path as it is typed in a shell, for commands to copy."""
    return shlex.quote(str(path))


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """A number with so many digits behind its point; a dash where it is undefined."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def duration(seconds: float) -> str:
    """`1.25 s`, `3.1 ms`."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def lasting(seconds: float) -> str:
    """`4.2 s`, `12.0 min`, `3.4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, aligned in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


def yaml_text(value: Any) -> str:
    """Plain data as YAML, its keys in their order."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def is_text(name: str) -> bool:
    """Whether a name of the file system is one in UTF-8, as records and pages are."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
