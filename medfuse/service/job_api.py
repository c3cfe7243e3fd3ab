"""/jobs: an order, where it stands, what happens to it, its result, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from medfuse.core.errors import DataError
from medfuse.core.json_text import parse_json, validated
from medfuse.infer.formats import FORMATS, formats_of
from medfuse.service.answers import file_answer, packed
from medfuse.service.desk import Desk
from medfuse.service.jobs import Job, Order
from medfuse.service.limits import FIELD_BYTES
from medfuse.service.models import chosen
from medfuse.service.refusals import Refusal, answers
from medfuse.service.uploads import content_type, inputs_of, receive
from medfuse.volumes.dicom.series import Scans

_HEARTBEAT_S = 15.0
_FORMATS = f"of the label maps: {', '.join(FORMATS)}; several between commas; the image's own if not given"


_ONE = f"({'|'.join(FORMATS)})"
_SEVERAL: dict[str, Any] = {"pattern": f"^({_ONE}(,{_ONE})*)?$"}


class Wish(BaseModel):
    """What is to be labelled, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "", description="its name in /info/; may be left out where there is one", max_length=200
    )
    path: str = Field("", description="in the data folder of the service", max_length=4096)
    formats: str = Field("", description=_FORMATS, max_length=200, json_schema_extra=_SEVERAL)
    seg_type: Literal["labelmap", "binary"] = Field("labelmap", description="of DICOM segmentations")
    series: tuple[str, ...] = Field((), description="which DICOM series, such as Modality=CT", max_length=20)
    uneven: Literal["refuse", "resample"] = Field("refuse", description="DICOM slices that are not even")
    strict: bool = Field(False, description="refuse images that are unlike those of training")
    statistics: bool = Field(False, description="also statistics.json and statistics.csv")


class State(BaseModel):
    """A job as it stands. `ahead`: jobs before it. `progress`: from 0 to 1. `cases`: what there is to say of
    each. `kept_s`: seconds until it goes, if nobody asks."""

    id: str
    model: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    ahead: int
    progress: float
    made: str
    began: str | None
    ended: str | None
    errors: list[str]
    cases: dict[str, dict[str, Any]]
    files: list[str]
    labels: dict[str, int]
    kept_s: int


def _state(desk: Desk, job: Job) -> State:
    return State(
        id=job.id,
        model=job.order.model,
        status=job.status,
        ahead=desk.queues.ahead_of(job),
        progress=job.progress,
        made=_time(job.kept.made) or "",
        began=_time(job.began),
        ended=_time(job.ended),
        errors=list(job.errors),
        cases=dict(job.cases) if job.is_over else {},
        files=[path.name for path in job.files],
        labels=desk.models[job.order.model].labels,
        kept_s=max(0, round(job.kept.left_s)),
    )


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else None


def _described() -> dict[str, Any]:
    """The two ways in which a job is sent."""
    schema = Wish.model_json_schema()
    schema["properties"]["path"] |= {"minLength": 1}
    schema["required"] = ["path"]
    fields = {name: value for name, value in schema["properties"].items() if name not in ("path", "series")}
    fields["series"] = {"type": "string", "description": "as in JSON, between commas"}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    form: dict[str, Any] = {"type": "object", "properties": {"file": files, **fields}, "required": ["file"]}
    form["additionalProperties"] = False
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def routes(desk: Desk) -> APIRouter:
    router = APIRouter(prefix="/jobs", tags=["jobs"])

    @router.post(
        "",
        summary="Label what is sent, or what lies in the data folder",
        status_code=202,
        response_model=State,
        responses=answers(404, 413, 415, 429, 507),
        openapi_extra=_described(),
    )
    async def create(request: Request) -> JSONResponse:
        kind, _ = content_type(request)
        with desk.queues.place():
            job = await (_of_json if kind == "application/json" else _of_form)(request, desk)
        state = _state(desk, job)
        return JSONResponse(state.model_dump(), 202, {"location": f"/jobs/{job.id}"})

    @router.get("/{id}", summary="Where a job stands", responses=answers(404))
    def read(id: str) -> State:
        return _state(desk, desk.job(id))

    @router.get(
        "/{id}/events",
        summary="The same as server-sent events, until the job is over",
        responses={**answers(404), 200: {"content": {"text/event-stream": {}}}},
        response_class=StreamingResponse,
    )
    async def events(id: str) -> StreamingResponse:
        job = desk.job(id)
        return StreamingResponse(_events(desk, job), media_type="text/event-stream")

    files: dict[str, Any] = {"application/octet-stream": {}, "application/gzip": {}, "application/zip": {}}
    files |= {"application/dicom": {}, "application/json": {}, "text/csv": {}, "image/png": {}}

    @router.get(
        "/{id}/result",
        summary="The label maps: a file, or several as a zip file",
        responses={**answers(404, 409), 200: {"content": files}},
        response_class=Response,
    )
    async def result(id: str, file: str = "") -> Response:
        job = _finished(desk, id)
        if file or len(job.files) == 1:
            return file_answer(_named(job, file) if file else job.files[0])
        with desk.store.held(job.kept):
            target = job.kept.folder / f"{plain(job)}.zip"
            if not target.exists():
                await run_in_threadpool(_pack, job, target)
        return file_answer(target)

    @router.delete(
        "/{id}", summary="Cancel a job, and delete all of it", status_code=204, responses=answers(404)
    )
    def delete(id: str) -> Response:
        desk.remove(desk.job(id))
        return Response(status_code=204)

    return router


def plain(job: Job) -> str:
    return f"labels-{job.id[:8]}".replace("_", "-")


def _pack(job: Job, target: Path) -> None:
    packed(job.files, part := target.with_suffix(".part")).replace(target)
    part.unlink(missing_ok=True)


def _finished(desk: Desk, id: str) -> Job:
    job = desk.job(id)
    if job.status in ("queued", "running"):
        raise Refusal(
            409, f"the job is {job.status}; ask again, or follow /jobs/{id}/events", retry_after="1"
        )
    if job.status != "done":
        raise Refusal(409, "; ".join([f"the job has {'failed' if job.errors else 'ended'}", *job.errors]))
    return job


def _named(job: Job, name: str) -> Path:
    for path in job.files:
        if path.name == name:
            return path
    raise Refusal(
        404, f"the result has no file {name[:80]!r}, but {', '.join(p.name for p in job.files[:5])}"
    )


async def _events(desk: Desk, job: Job) -> AsyncIterator[str]:
    while True:
        version = job.version
        yield f"event: {job.status}\ndata: {_state(desk, job).model_dump_json()}\n\n"
        if job.is_over:
            return
        waiting = asyncio.create_task(job.wait(version))
        try:
            while not (await asyncio.wait({waiting}, timeout=_HEARTBEAT_S))[0]:
                yield ": still there\n\n"
        finally:
            waiting.cancel()


async def _of_json(request: Request, desk: Desk) -> Job:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FIELD_BYTES:
            raise Refusal(413, f"a request in JSON has no more than {FIELD_BYTES:,} bytes")
    wish = _wish(parse_json(body, "the request", raises=DataError, remedy="send an object in JSON"))
    if not wish.path:
        raise Refusal(422, "path: name what lies in the data folder, or send files as a form")
    order = _order(desk, wish)
    path = await run_in_threadpool(desk.inside, wish.path)
    kept = await run_in_threadpool(desk.store.add, "job")
    return _submitted(desk, Order(**{**order, "inputs": (path,)}), kept)


async def _of_form(request: Request, desk: Desk) -> Job:
    kept = await run_in_threadpool(desk.store.add, "job")
    try:
        with desk.store.held(kept):
            upload = await receive(request, kept.folder, desk.limits, ("file",))
            order = _order(desk, _of_fields(upload.fields))
            if not (files := upload.files.get("file")):
                raise Refusal(422, "send the image as 'file'")
            inputs = await run_in_threadpool(inputs_of, files, desk.limits)
        return _submitted(desk, Order(**{**order, "inputs": inputs, "sent": upload.folder}), kept)
    except BaseException:
        desk.store.remove(kept)
        raise


def _submitted(desk: Desk, order: Order, kept: Any) -> Job:
    try:
        return desk.submit(order, kept)
    except BaseException:
        desk.store.remove(kept)
        raise


def _of_fields(fields: Mapping[str, str]) -> Wish:
    said: dict[str, Any] = dict(fields)
    if "series" in said:
        said["series"] = [word.strip() for word in said["series"].split(",") if word.strip()]
    for name in ("strict", "statistics"):
        if name in said:
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
            if said[name].lower() not in words:
                raise Refusal(422, f"{name}: write true or false")
            said[name] = words[said[name].lower()]
    if "path" in said:
        raise Refusal(422, "path: is of a request in JSON; send files, or a path")
    return _wish(said)


def _wish(said: Any) -> Wish:
    return validated(Wish, said, "the request", raises=DataError, remedy="see /openapi.json")


def _order(desk: Desk, wish: Wish) -> dict[str, Any]:
    return {
        "model": chosen(desk.models, wish.model).name,
        "formats": formats_of(wish.formats) if wish.formats else (),
        "seg_type": wish.seg_type,
        "scans": Scans(wish.series, uneven=wish.uneven == "resample"),
        "strict": wish.strict,
        "statistics": wish.statistics,
    }
