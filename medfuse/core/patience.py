"""Disks of many machines fail for a while; what is asked of them is asked again."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from medfuse.core.errors import OutputError

PATIENCE_S = 30.0
PAUSE_S = 0.5
_PASSING = {
    getattr(errno, name)
    for name in (
        *(
            "EIO",
            "ESTALE",
            "ENOSPC",
            "EDQUOT",
            "ETIMEDOUT",
            "EAGAIN",
            "EINTR",
            "EBUSY",
            "ENOLCK",
            "EREMOTEIO",
        ),
        *("ENOTCONN", "ECONNRESET", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
    )
    if hasattr(errno, name)
}

Given = ParamSpec("Given")
Value = TypeVar("Value")


def may_pass(error: BaseException | None) -> bool:
    """Whether it is a refusal of the system's that may be over soon, such as a full disk or a lost server."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    return isinstance(cause, OSError) and cause.errno in _PASSING


def patient(ask: Callable[Given, Value]) -> Callable[Given, Value]:
    """`ask`, which may be asked twice, asked until the disk answers; for half a minute."""

    @wraps(ask)
    def asked(*args: Given.args, **options: Given.kwargs) -> Value:
        until = 0.0
        while True:
            try:
                return ask(*args, **options)
            except (OSError, OutputError) as error:
                until = until or time.monotonic() + PATIENCE_S
                if not may_pass(error) or time.monotonic() > until:
                    raise
            time.sleep(PAUSE_S)

    return asked
