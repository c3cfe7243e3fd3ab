"""The part of MONAI Label's interface that its client and 3D Slicer use: /info, /infer, and so on."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

import medfuse
from medfuse.infer.formats import FORMATS
from medfuse.service import datastore
from medfuse.service.answers import Then, file_answer, form_answer
from medfuse.service.datastore import Owner, case_of, form, kept_upload, sent_image
from medfuse.service.desk import Desk
from medfuse.service.jobs import Job, Order
from medfuse.service.kept import Kept
from medfuse.service.models import Model, chosen
from medfuse.service.refusals import Refusal, answers
from medfuse.service.uploads import Upload, fields_of, inputs_of, receive
from medfuse.service.waiting import until_over

Answer = Literal["image", "json", "all", "dicom_seg"]


def routes(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["MONAI Label"])
    _about(router, desk)
    _sessions(router, desk)
    _infer(router, desk)
    datastore.add_routes(router, desk)
    _not_offered(router, desk)
    return router


def _about(router: APIRouter, desk: Desk) -> None:
    @router.get("/info/", summary="What the service offers", responses=answers())
    def info(request: Request) -> dict[str, Any]:
        labels = dict.fromkeys(name for model in desk.models.values() for name in model.labels)
        return {
            "name": "medfuse",
            "description": "trained models of medfuse",
            "version": medfuse.__version__,
            "labels": [*labels],
            "models": {name: _told(model) for name, model in desk.models.items()},
            "trainers": {},
            "strategies": {},
            "scoring": {},
            "train_stats": {},
            "datastore": datastore.stats(desk, request),
        }

    @router.get(
        "/logs/", summary="What was done lately", responses=answers(), response_class=PlainTextResponse
    )
    def logs(lines: int = 300) -> str:
        kept = list(desk.tally.lines)
        return "".join(f"{line}\n" for line in kept[-min(max(lines, 1), len(kept) or 1) :])

    if desk.token is not None:
        _token(router, desk.token)


def _token(router: APIRouter, token: str) -> None:
    """How 3D Slicer asks for a token: its password is the token."""
    import hmac

    @router.get("/auth/", summary="Whether a token is needed", responses=answers())
    def enabled() -> dict[str, Any]:
        return {"enabled": True}

    @router.get("/auth/token/valid", summary="Whether the token is right", responses=answers())
    def valid() -> dict[str, Any]:
        return {"username": "user"}

    schema = {
        "type": "object",
        "properties": {"username": {"type": "string"}, "password": {"type": "string"}},
    }
    body = {"content": {"application/x-www-form-urlencoded": {"schema": schema}}}

    @router.post(
        "/auth/token",
        summary="A token for a user whose password is the token",
        responses=answers(413),
        openapi_extra={"requestBody": body},
    )
    async def given(request: Request) -> dict[str, str]:
        said = (await fields_of(request)).get("password", "")
        if not hmac.compare_digest(said.encode("utf-8", "replace"), token.encode()):
            raise Refusal(401, "the password is the token that the service was started with")
        return {"access_token": token, "token_type": "bearer"}


def _told(model: Model) -> dict[str, Any]:
    """`config` is what the user of 3D Slicer may choose; the device is the service's to choose."""
    return {
        "type": "segmentation",
        "dimension": 3,
        "description": f"medfuse: {', '.join(model.labels)}",
        "config": {
            "device": [str(one.device) for one in model.trained[:1]],
            "result_extension": [".nii.gz", ".nrrd"],
        },
        **model.told,
    }


def _sessions(router: APIRouter, desk: Desk) -> None:
    @router.put(
        "/session/",
        summary="Send an image, to be labelled by several requests",
        responses=answers(413, 415, 429, 507),
        openapi_extra=form("files", needed=["files"]),
    )
    async def create(request: Request, uncompress: bool = False, expiry: int = 0) -> dict[str, Any]:
        kept, _ = await kept_upload(request, desk, "session", "files", keep_s=expiry if expiry > 0 else None)
        return {"session_id": kept.id, "session_info": _session(kept)}

    @router.get("/session/{session_id}", summary="What a session has", responses=answers(404))
    def read(session_id: str, update_ts: bool = False, image: bool = False) -> Any:
        kept = desk.store.get("session", session_id)
        if not image:
            return _session(kept)
        inputs = kept.said["inputs"]
        if not inputs[0].is_file():
            raise Refusal(404, "the session has several files, which are not sent back")
        return file_answer(inputs[0])

    @router.delete("/session/{session_id}", summary="Delete a session", responses=answers(404))
    def delete(session_id: str) -> dict[str, Any]:
        kept = desk.store.get("session", session_id)
        desk.store.remove(kept)
        return _session(kept)


def _session(kept: Kept) -> dict[str, Any]:
    now = time.time()
    return {
        "name": kept.id,
        "path": "",
        "image": kept.said["inputs"][0].name,
        "meta": {},
        "create_ts": int(kept.made),
        "last_access_ts": int(now),
        "expiry": int(kept.keep_s),
    }


def _infer(router: APIRouter, desk: Desk) -> None:
    result: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "the label map, and what there is to say of it",
            "content": {
                "multipart/form-data": {},
                "application/json": {},
                "application/gzip": {},
                "application/octet-stream": {},
                "application/dicom": {},
                "image/png": {},
            },
        }
    }

    @router.post(
        "/infer/{model}",
        summary="Label an image, and wait for it",
        responses={**answers(404, 409, 413, 415, 429, 507), **result},
        response_class=Response,
        openapi_extra=form("file", "label", "params"),
    )
    async def infer(
        request: Request, model: str, image: str = "", session_id: str = "", output: Answer = "all"
    ) -> Response:
        wanted = chosen(desk.models, model)
        with desk.queues.place():
            job = await _ordered(request, desk, wanted, image, session_id, output)
        try:
            await until_over(request, job, desk)
            return Then(_answer(job, wanted, output), lambda: desk.remove(job))
        except BaseException:
            desk.remove(job)
            raise


async def _ordered(
    request: Request, desk: Desk, model: Model, image: str, session_id: str, output: Answer
) -> Job:
    kept = await run_in_threadpool(desk.store.add, "job")
    try:
        upload = Upload(kept.folder)
        if request.headers.get("content-type"):
            upload = await receive(request, kept.folder, desk.limits, ("file", "label"))
        if "label" in upload.files:
            raise Refusal(422, "a label map to begin with is not taken: no model here is interactive")
        params = upload.params()
        formats = ("dicom_seg",) if output == "dicom_seg" else _formats(params.get("result_extension"))
        order = Order(model.name, formats=formats, one=True)
        owner = Owner.of(request, params)
        order, holds = await _with_image(order, desk, upload, owner, image, session_id)
        return desk.submit(order, kept, *holds)
    except BaseException:
        desk.store.remove(kept)
        raise


def _formats(given: Any) -> tuple[str, ...]:
    """The format whose files have a given ending; what has none of them is left to the image's own."""
    known = {"nrrd": "nrrd", "nii.gz": "nifti"}
    return tuple(
        known[e] for e in [str(given or "").lower().removeprefix(".").removeprefix("seg.")] if e in known
    )


async def _with_image(
    order: Order, desk: Desk, upload: Upload, owner: Owner, image: str, session_id: str
) -> tuple[Order, tuple[Kept, ...]]:
    """An order of an image that is in a session, was sent with it, or is named, and what holds the image."""
    if session_id:
        kept = desk.store.get("session", session_id)
        return replace(order, inputs=kept.said["inputs"], sent=kept.folder), (kept,)
    if files := upload.files.get("file"):
        inputs = await run_in_threadpool(inputs_of, files, desk.limits)
        return replace(order, inputs=inputs, sent=upload.folder), ()
    if not image:
        raise Refusal(422, "say which image: send it as 'file', or name it by ?image= or ?session_id=")
    if found := sent_image(desk, owner, image):
        return replace(order, inputs=found.said["inputs"], sent=found.folder), (found,)
    return replace(order, cases=(await run_in_threadpool(case_of, desk, image),)), ()


def _answer(job: Job, model: Model, output: Answer) -> Response:
    path = _label_map(job)
    said: dict[str, Any] = next(iter(job.cases.values()), {})
    stages = said.get("seconds_in", {})
    params: dict[str, Any] = {
        "label_names": model.numbered_labels,
        "label_colors": model.told["label_colors"],
        "latencies": {
            "pre": round(job.seconds.get("pre", 0) + stages.get("reading", 0), 3),
            "infer": round(stages.get("predicting", 0), 3),
            "write": round(stages.get("writing", 0), 3),
            "total": round(job.seconds.get("total", 0), 3),
        },
        "volumes_ml": said.get("volumes_ml", {}),
        "unlike_training": said.get("unlike_training", []),
    }
    if output == "json":
        return JSONResponse(params)
    return form_answer(params, path) if output == "all" else file_answer(path)


def _label_map(job: Job) -> Path:
    endings = {known.ending for known in FORMATS.values()}
    found = [path for path in job.files if any(path.name.endswith(end) for end in endings)]
    return (found or list(job.files))[0]


def _not_offered(router: APIRouter, desk: Desk) -> None:
    """Training and choosing the next image, which MONAI Label does and this does not."""
    no_training = "this service does not train; `medfuse run` does"
    no_strategy = "this service does not choose images; name one, or send it"

    def refuse(line: str) -> Any:
        async def refused() -> Response:
            raise Refusal(404, line)

        return refused

    for path, method, line in (
        ("/train/", "GET", no_training),
        ("/train/", "POST", no_training),
        ("/train/", "DELETE", no_training),
        ("/train/{model}", "POST", no_training),
        ("/activelearning/{strategy}", "POST", no_strategy),
        ("/scoring/", "GET", no_training),
        ("/batch/infer", "GET", "send images one by one, or as one job to /jobs"),
        ("/batch/infer/{model}", "POST", "send images one by one, or as one job to /jobs"),
    ):
        router.add_api_route(path, refuse(line), methods=[method], include_in_schema=False)
