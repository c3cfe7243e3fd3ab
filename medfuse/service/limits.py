"""How much a service takes on: sizes, numbers and times, each with what is usual."""

from __future__ import annotations

from dataclasses import dataclass

GiB = 1 << 30

FIELD_BYTES = 1 << 20  # of a form's field that is no file, and of a request in JSON
FIELDS = 50
NAME_BYTES = 120  # of a file on disk


@dataclass(frozen=True)
class Limits:
    """`request`: most bytes of one request. `unpacked`: most bytes that its files may become, as they are
    unpacked and as the network sees them. `files`: of one request. `queue`: most jobs that wait, or whose
    files are on their way. `disk`: most bytes that are kept for all clients together. `keep_s`: how long
    something is kept that nobody asks for. `idle_s`: how long a client may send nothing, and
    `slowest`: the fewest bytes that it sends in a second, after that time. `connections`: at once.
    """

    request: int = 2 * GiB
    unpacked: int = 8 * GiB
    files: int = 5000
    queue: int = 16
    disk: int = 32 * GiB
    keep_s: float = 3600.0
    idle_s: float = 20.0
    slowest: int = 4096
    connections: int = 200
    end_s: float = 10.0
