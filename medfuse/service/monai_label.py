"""The part of MONAI Label's interface that its client and 3D Slicer use: /info, /infer, and so on."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

import medfuse
from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.files import atomic, reported
from medfuse.infer.formats import FORMATS
from medfuse.service.answers import Then, file_answer, form_answer
from medfuse.service.desk import Desk
from medfuse.service.jobs import Job, Order
from medfuse.service.kept import Kept
from medfuse.service.models import Model, chosen
from medfuse.service.refusals import Refusal, answers
from medfuse.service.uploads import Upload, disk_name, fields_of, inputs_of, receive
from medfuse.service.waiting import until_over
from medfuse.volumes.endings import SERIES, ending

Answer = Literal["image", "json", "all", "dicom_seg"]

_FORMS = {
    "file": {"type": "string", "format": "binary"},
    "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
    "params": {"type": "string", "default": "{}", "description": "an object in JSON"},
    "label": {"type": "string", "format": "binary"},
}
_LABEL_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
_SEPARATORS = r"[/\\:]"
_TAG = "[A-Za-z0-9_-]{1,40}"
Tag = Annotated[str, Query(pattern=f"^{_TAG}$")]


def form(*fields: str, needed: Sequence[str] = ()) -> dict[str, Any]:
    """How an operation's form is described."""
    schema = {"type": "object", "properties": {name: _FORMS[name] for name in fields}}
    if needed:
        schema["required"] = list(needed)
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}, "required": bool(needed)}}


def routes(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["MONAI Label"])
    _about(router, desk)
    _sessions(router, desk)
    _infer(router, desk)
    _datastore(router, desk)
    _not_offered(router, desk)
    return router


def _about(router: APIRouter, desk: Desk) -> None:
    @router.get("/info/", summary="What the service offers", responses=answers())
    def info() -> dict[str, Any]:
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
            "datastore": _stats(desk),
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
        responses=answers(413, 415, 507),
        openapi_extra=form("files", needed=["files"]),
    )
    async def create(request: Request, uncompress: bool = False, expiry: int = 0) -> dict[str, Any]:
        kept = desk.store.add("session", keep_s=expiry if expiry > 0 else None)
        await _sent(request, desk, kept, "files")
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


async def _sent(request: Request, desk: Desk, kept: Kept, *fields: str) -> Upload:
    """A form whose first kind of files is an image; what came of it is deleted where it is none."""
    try:
        with desk.store.held(kept):
            upload = await receive(request, kept.folder, desk.limits, fields)
            if not (files := upload.files.get(fields[0])):
                raise Refusal(422, f"send the image as {fields[0]!r}")
            kept.said["inputs"] = await run_in_threadpool(inputs_of, files, desk.limits)
            return upload
    except BaseException:
        desk.store.remove(kept)
        raise


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
    kept = desk.store.add("job")
    try:
        upload = Upload(kept.folder)
        if request.headers.get("content-type"):
            upload = await receive(request, kept.folder, desk.limits, ("file", "label"))
        if "label" in upload.files:
            raise Refusal(422, "a label map to begin with is not taken: no model here is interactive")
        params = upload.params()
        formats = ("dicom_seg",) if output == "dicom_seg" else _formats(params.get("result_extension"))
        order = Order(model.name, formats=formats, one=True)
        order, holds = await _with_image(order, desk, upload, image, session_id)
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
    order: Order, desk: Desk, upload: Upload, image: str, session_id: str
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
    with suppress(Refusal):
        kept = desk.store.get("image", image)
        return replace(order, inputs=kept.said["inputs"], sent=kept.folder), (kept,)
    return replace(order, cases=(await run_in_threadpool(_case, desk, image),)), ()


def _case(desk: Desk, image: str) -> Case:
    found = desk.images()
    if image not in found:
        raise Refusal(404, f"no image named {image[:80]!r}; /datastore/?output=all lists what there is")
    return found[image]


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


def _datastore(router: APIRouter, desk: Desk) -> None:
    @router.get("/datastore/", summary="Which images there are", responses=answers())
    def listed(output: Literal["all", "train", "stats"] = "stats") -> Any:
        if output == "train":
            return []
        return _all(desk) if output == "all" else _stats(desk)

    for path, shown in (("/datastore/", False), ("/datastore/image", True)):

        @router.put(
            path,
            summary="Send an image, to be named in /infer",
            responses=answers(413, 415, 507),
            openapi_extra=form("file", "params", needed=["file"]),
            include_in_schema=shown,
            operation_id=f"send_image_{'a' if shown else 'b'}",
        )
        async def send(request: Request, image: str = "") -> dict[str, str]:
            kept = desk.store.add("image", image[:200])
            await _sent(request, desk, kept, "file")
            return {"image": kept.id}

    @router.get("/datastore/image", summary="An image", responses=answers(404), response_class=Response)
    def image(image: str) -> Response:
        return file_answer(_file_of(desk, image))

    @router.head(
        "/datastore/image",
        summary="Whether there is an image",
        responses=answers(404),
        response_class=Response,
    )
    def image_is_there(image: str) -> Response:
        _file_of(desk, image)
        return Response()

    @router.get("/datastore/image/info", summary="What is known of an image", responses=answers(404))
    def image_info(image: str) -> dict[str, Any]:
        return {"name": _file_of(desk, image, only=False).name}

    @router.delete("/datastore/image", summary="Delete an image that was sent", responses=answers(404))
    def delete(id: str) -> dict[str, Any]:
        desk.store.remove(desk.store.get("image", id))
        return {}

    @router.put(
        "/datastore/label",
        summary="Send a label map that somebody has corrected",
        responses=answers(404, 413, 415, 507),
        openapi_extra=form("label", "params", needed=["label"]),
    )
    async def save(request: Request, image: str, tag: Tag = "final") -> dict[str, Any]:
        if desk.labels is None:
            raise Refusal(
                403, "this service keeps no label maps; start it with --labels FOLDER, or save in the viewer"
            )
        kept = desk.store.add("job")
        try:
            upload = await receive(request, kept.folder, desk.limits, ("label",))
            if len(files := upload.files.get("label", [])) != 1:
                raise Refusal(422, "send one label map, as 'label'")
            name = await run_in_threadpool(_save, desk.labels, image, tag, files[0])
        finally:
            desk.store.remove(kept)
        return {"image": image, "label": name}

    @router.get(
        "/datastore/label",
        summary="A label map that was sent",
        responses=answers(404),
        response_class=Response,
    )
    def label(label: str, tag: Tag = "final") -> Response:
        return file_answer(_saved(desk, label, tag))

    @router.head(
        "/datastore/label",
        summary="Whether there is a label map",
        responses=answers(404),
        response_class=Response,
    )
    def label_is_there(image: str, tag: Tag = "final") -> Response:
        _saved(desk, image, tag)
        return Response()


def _file_of(desk: Desk, image: str, *, only: bool = True) -> Path:
    """The file of an image; with `only` it is refused where there are several."""
    with suppress(Refusal):
        path: Path = desk.store.get("image", image).said["inputs"][0]
        if path.is_file() or not only:
            return path
    case = _case(desk, image)
    if only and (len(case.images) > 1 or ending(case.images[0]) == SERIES):
        raise Refusal(404, f"{image[:80]!r} has several files, which are not sent")
    return case.images[0]


def _stats(desk: Desk) -> dict[str, Any]:
    return {"total": len(_all(desk)["objects"]), "completed": 0, "label_tags": {}}


def _all(desk: Desk) -> dict[str, Any]:
    """What there is, as MONAI Label lists it."""
    found: dict[str, str] = {}
    with suppress(DataError):  # of a folder that cannot be read as a whole /infer tells
        found = {name: ending(case.images[0]) or "" for name, case in desk.images().items()}
    found |= {kept.id: ending(kept.said["inputs"][0]) or "" for kept in desk.store.all("image") if kept.said}
    labels = {name: _tags(desk, name) for name in found}
    objects = {
        name: {"image": {"ext": end, "info": {"name": f"{name}{end}"}}, "labels": labels[name]}
        for name, end in found.items()
    }
    return {
        "name": "medfuse",
        "description": "",
        "images_dir": ".",
        "labels_dir": "labels",
        "objects": objects,
    }


def _tags(desk: Desk, name: str) -> dict[str, Any]:
    if desk.labels is None or not desk.labels.is_dir():
        return {}
    folders = [
        path for path in sorted(desk.labels.iterdir()) if path.is_dir() and re.fullmatch(_TAG, path.name)
    ]
    found = {
        folder.name: [e for e in _LABEL_ENDINGS if _place(desk.labels, name, folder.name, e).is_file()]
        for folder in folders
    }
    return {tag: {"ext": ends[0], "info": {}} for tag, ends in found.items() if ends}


def _save(labels: Path, image: str, tag: str, sent: Path) -> str:
    """Put a label map in its place. One that stands there is kept beside it, with the time of this."""
    end = ending(sent)
    if end not in _LABEL_ENDINGS:
        raise Refusal(422, f"{sent.name}: is no label map; send one of {', '.join(_LABEL_ENDINGS)}")
    path = _place(labels, image, tag, end)
    with reported(labels):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.rename(
                path.with_name(f"{path.name[: -len(end)]}.before-{datetime.now():%Y%m%d-%H%M%S-%f}{end}")
            )
    with atomic(path) as temporary:
        shutil.copyfile(sent, temporary)
    return image


def _saved(desk: Desk, image: str, tag: str) -> Path:
    if desk.labels is not None:
        for end in _LABEL_ENDINGS:
            if (path := _place(desk.labels, image, tag, end)).is_file():
                return path
    raise Refusal(404, f"no label map of {image[:80]!r} with the tag {tag[:40]!r}")


def _place(labels: Path, image: str, tag: str, end: str) -> Path:
    """Where the label map of an image lies; of its name signs that paths are made of are left out."""
    return labels / tag / f"{disk_name(re.sub(_SEPARATORS, '_', image))}{end}"


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
