"""The service as an ASGI application: routes, what they raise as answers, and the door before them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import medfuse
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.service import health, job_api, monai_label
from medfuse.service.desk import Desk
from medfuse.service.door import API, OPEN, Door, Rules
from medfuse.service.refusals import Refusal
from medfuse.service.waiting import Gone

log = logging.getLogger(__name__)

_SWEEP_S = 5.0
_HUNG_UP = 499  # what nginx notes for a client that has gone
_SAID = {
    404: "nothing is here; /info/, /jobs and /openapi.json tell what there is (version " + API + ")",
    405: "this cannot be done here; /openapi.json tells what can",
}


def make_app(desk: Desk, rules: Rules) -> Door:
    """The whole service. Whoever runs it closes the desk's queues in the end."""
    app = FastAPI(
        title="medfuse",
        version=medfuse.__version__,
        description="Trained models as a service: MONAI Label's interface for viewers, jobs for programs.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(desk),
        redirect_slashes=False,
    )
    app.include_router(monai_label.routes(desk))
    app.include_router(job_api.routes(desk))
    app.include_router(health.routes(desk))

    @app.get("/", include_in_schema=False, response_class=PlainTextResponse)
    def home() -> str:
        return "medfuse serves " + ", ".join(desk.models) + ": /info/, /jobs, /openapi.json\n"

    app.add_exception_handler(MedfuseError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Gone, _gone)
    app.add_exception_handler(Exception, _fault)
    _describe(app, rules)
    return Door(app, rules, desk.limits, _counter(desk))


def _lifespan(desk: Desk) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(desk))
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    return lifespan


async def _sweep(desk: Desk) -> None:
    while True:
        await asyncio.sleep(min(_SWEEP_S, desk.limits.keep_s))
        await asyncio.to_thread(desk.store.sweep)


def _counter(desk: Desk) -> Callable[[int, str, str], None]:
    def tell(status: int, method: str, path: str) -> None:
        desk.tally.requests[str(status or _HUNG_UP)] += 1

    return tell


def _answer(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


async def _told(request: Request, error: Exception) -> Response:
    """A user's mistake in one line, with the status that says whose it is."""
    assert isinstance(error, MedfuseError)
    if isinstance(error, Refusal):
        return _answer(error.status, str(error), error.headers)
    if isinstance(error, OutputError):
        log.error("%s", error)
        return _answer(507, "the service cannot write: its disk is full, or its folder has gone")
    return _answer(422, "; ".join(error.lines))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
    return _answer(422, "; ".join(said))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(
        error.status_code, _SAID.get(error.status_code, str(error.detail)), dict(error.headers or {})
    )


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_HUNG_UP)


async def _fault(request: Request, error: Exception) -> Response:
    log.error("%s %r failed unexpectedly", request.method, request.url.path, exc_info=error)
    return _answer(500, f"{type(error).__name__} (please report it)")


def _describe(app: FastAPI, rules: Rules) -> None:
    """The description says that a token is needed, and what is told of a mistake."""
    made = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            if rules.token:
                schema.setdefault("components", {})["securitySchemes"] = {
                    "token": {"type": "http", "scheme": "bearer"}
                }
                schema["security"] = [{"token": []}]
                for path in OPEN:
                    for how in schema["paths"].get(path, {}).values():
                        how["security"] = []
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI says to do it
