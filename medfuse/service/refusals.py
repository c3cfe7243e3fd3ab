"""What a client is told that cannot have what it asks for: a status and one line."""

from __future__ import annotations

from typing import Any

from medfuse.core.errors import MedfuseError


class Refusal(MedfuseError):
    """`status`: of HTTP. `headers`: that go with it."""

    def __init__(self, status: int, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


REASONS = {
    400: "the request cannot be read",
    401: "no token, or another one",
    403: "not from here",
    404: "there is none",
    406: "another version of the service was asked for",
    409: "not yet, or no longer",
    413: "too large, or too many files",
    415: "a kind of content that is not taken",
    422: "what was sent cannot be used",
    429: "the queue is full",
    507: "the disk is full",
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer beside what it is for, for its description."""
    schema = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
    content = {"application/json": {"schema": schema}}
    always = (400, 401, 403, 406, 422)
    return {n: {"description": REASONS[n], "content": content} for n in sorted({*always, *statuses})}
