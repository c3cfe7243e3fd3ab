"""The door: who is let in, how much they may bring, and how slowly."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from medfuse.core.memory import bytes_text
from medfuse.service.limits import Limits
from medfuse.service.refusals import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

API = "1"
"""The version of what is said here. A client that needs another says so in the header API-Version."""

OPEN = ("/healthz", "/auth/", "/auth/token")
"""What is answered without a token: these say how it is with the service, and how a token is given."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Rules:
    """`token`: none where anybody may come. `hosts`: names that the service is asked by; any where there are
    none."""

    token: str | None = None
    hosts: tuple[str, ...] = ()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def hosts_of(host: str, further: Sequence[str]) -> tuple[str, ...]:
    """On loopback what a browser may call the service by, so that no page elsewhere gets there by a name of
    its own; elsewhere a token keeps it out."""
    if not is_loopback(host):
        return tuple(further)
    own = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return tuple(dict.fromkeys(name.lower() for name in (*_LOOPBACK, own, *further)))


class Door:
    """Refuses, before anything is read: other hosts, pages of other sites, tokens that are wrong, content
    that is too large or packed. Stops what comes too slowly."""

    def __init__(self, app: App, rules: Rules, limits: Limits, tell: Callable[[int, str, str], None]) -> None:
        self._app, self._rules, self._limits, self._tell = app, rules, limits, tell

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        status = 0

        async def heard(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                closing = () if body.ended else _CLOSING  # what is still to come of the request is not read
                message["headers"] = [*message.get("headers", ()), *_ALWAYS, *closing]
            await send(message)

        headers = Headers(scope=scope)
        body = _Body(receive, self._limits, comes="transfer-encoding" in headers or _length(headers) != "0")
        try:
            self._check(scope, headers)
            await self._app(scope, body, heard)
        except Refusal as refusal:  # of a body that came while the app was reading it, too
            if status == 0:
                await refuse(refusal, heard)
        finally:
            self._tell(status, scope["method"], scope["path"])

    def _check(self, scope: MutableMapping[str, Any], headers: Headers) -> None:
        rules, host = self._rules, headers.get("host", "").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if rules.hosts and name not in rules.hosts:
            raise Refusal(403, f"no host of this service: {host[:80]!r}; start it with --allow-host for it")
        if (origin := headers.get("origin")) and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise Refusal(403, "pages of other sites may not use this service")
        if (wanted := headers.get("api-version", API)) != API:
            raise Refusal(406, f"this service speaks version {API}, not {wanted[:20]!r}")
        if rules.token and scope["path"] not in OPEN and not _is_let_in(rules.token, headers):
            raise Refusal(401, "send the token: `Authorization: Bearer TOKEN`", www_authenticate="Bearer")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(
                415, "send the content as it is, without Content-Encoding; files may be .gz or .zip"
            )
        length = _length(headers)
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "Content-Length is no number")
        if len(length) > 18 or int(length) > self._limits.request:
            raise Refusal(413, _too_large(self._limits))


_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'"),
]
_CLOSING = ((b"connection", b"close"),)


class _Body:
    """The content of a request as it comes, within its limits; `comes`: whether there is any."""

    def __init__(self, receive: Receive, limits: Limits, *, comes: bool) -> None:
        self._receive, self._limits = receive, limits
        self._count, self._began = 0, time.monotonic()
        self.ended = not comes

    async def __call__(self) -> Message:
        if self.ended:  # what comes now is that the client has gone
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.idle_s)
        except TimeoutError:
            raise Refusal(408, f"nothing came for {self._limits.idle_s:g} seconds") from None
        if message["type"] != "http.request":
            self.ended = True
            return message
        self._count += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        if self._count > self._limits.request:
            raise Refusal(413, _too_large(self._limits))
        seconds = time.monotonic() - self._began
        if not self.ended and seconds > self._limits.idle_s and self._count < seconds * self._limits.slowest:
            raise Refusal(408, f"fewer than {self._limits.slowest:,} bytes came in a second")
        return message


def _too_large(limits: Limits) -> str:
    return f"a request may have {bytes_text(limits.request)}; send fewer or smaller files"


def _length(headers: Headers) -> str:
    return headers.get("content-length", "0")


def _is_let_in(token: str, headers: Headers) -> bool:
    """Whether the right token was sent; that takes as long for any wrong one."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return same and scheme.lower() == "bearer"


async def refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps({"detail": str(refusal)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
