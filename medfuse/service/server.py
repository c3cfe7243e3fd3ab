"""The service on a port: a socket that is there or not, connections within limits, and a tidy end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medfuse.core.errors import MedfuseError
from medfuse.service.desk import Desk
from medfuse.service.door import Door
from medfuse.service.limits import Limits

log = logging.getLogger(__name__)


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, not yet listening. Raises MedfuseError where that is taken, or is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise MedfuseError(
            f"--host {host}: is no address of this machine; choose 127.0.0.1 or 0.0.0.0"
        ) from None
    family, kind, number, _, address = found[0]
    made = socket.socket(family, kind, number)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(0)  # or two services could have bound it
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise MedfuseError(
                f"port {port} is in use; choose another by --port, or end what uses it"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise MedfuseError(f"port {port} is not for every user; choose one above 1023") from None
        raise MedfuseError(f"--host {host} --port {port}: {error.strerror}; choose another address") from None
    return made


def address_of(made: socket.socket) -> str:
    """`http://127.0.0.1:8000`."""
    host, port, *_ = made.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Door, desk: Desk, at: socket.socket) -> None:
    """Until SIGTERM or Ctrl-C: then requests are answered, jobs are cancelled, and nothing is left."""
    limits = desk.limits
    config = uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=max(1, int(limits.end_s)),
        backlog=limits.connections,
    )
    try:
        asyncio.run(_Server(config, desk).serve(sockets=[at]))
    finally:
        if not desk.queues.close(limits.end_s):
            log.warning("a job did not end in %g seconds; it is given up", limits.end_s)


class _Server(uvicorn.Server):
    """Ends well when it is told to, and lets no job hold it up."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._desk.queues.close, 0.0)  # who waits for a job is answered
        await super().shutdown(sockets)


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    class Protocol(H11Protocol):
        """A connection whose request comes in time, or is cut; no more of them than there may be."""

        _late: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_asked():
                self._unwatch()
            elif self._late is None:
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            self._unstick()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(limits.idle_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unstick()

        def _unstick(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None

        def _is_asked(self) -> bool:
            """Whether a request is here, and is being answered."""
            return self.cycle is not None and not self.cycle.response_complete

        def _watch(self) -> None:
            self._late = self.loop.call_later(limits.idle_s, self._cut)

        def _unwatch(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _cut(self) -> None:
            self._late = None
            if not self._is_asked() and not self.transport.is_closing():
                self.transport.abort()

    return Protocol
