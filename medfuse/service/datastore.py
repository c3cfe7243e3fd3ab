"""MONAI Label's /datastore: images that are named, and label maps that people correct and send back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.files import atomic, reported
from medfuse.service.answers import file_answer
from medfuse.service.desk import Desk
from medfuse.service.kept import Kept, Kind
from medfuse.service.refusals import Refusal, answers
from medfuse.service.uploads import Upload, disk_name, inputs_of, receive
from medfuse.volumes.endings import SERIES, ending

_FORMS: dict[str, Any] = {
    "file": {"type": "string", "format": "binary"},
    "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
    "params": {"type": "object", "description": "in JSON"},
    "label": {"type": "string", "format": "binary"},
}
_LABEL_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
_SEPARATORS = r"[/\\:]"
_TAG = "[A-Za-z0-9_-]{1,40}"
Tag = Annotated[str, Query(pattern=f"^{_TAG}$")]


@dataclass(frozen=True)
class Owner:
    """Whose an image is: 3D Slicer names all of them after their scans, and two people may have the same."""

    host: str
    client: str

    @classmethod
    def of(cls, request: Request, params: Mapping[str, Any]) -> Owner:
        return cls(request.client.host if request.client else "", str(params.get("client_id") or ""))

    def key(self, image: str) -> str:
        return repr((self.host, self.client, image))


def form(*fields: str, needed: Sequence[str] = ()) -> dict[str, Any]:
    """How an operation's form is described."""
    schema: dict[str, Any] = {"type": "object", "properties": {name: _FORMS[name] for name in fields}}
    if needed:
        schema["required"] = list(needed)
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}, "required": bool(needed)}}


async def kept_upload(
    request: Request, desk: Desk, kind: Kind, field: str, *, keep_s: float | None = None
) -> tuple[Kept, Upload]:
    """A form with an image, in a folder of its own; it has a place in the queue while it comes."""
    with desk.queues.place():
        kept = await run_in_threadpool(desk.store.add, kind, keep_s=keep_s)
        try:
            with desk.store.held(kept):
                upload = await receive(request, kept.folder, desk.limits, (field,))
                if not (files := upload.files.get(field)):
                    raise Refusal(422, f"send the image as {field!r}")
                kept.said["inputs"] = await run_in_threadpool(inputs_of, files, desk.limits)
            return kept, upload
        except BaseException:
            desk.store.remove(kept)
            raise


def sent_image(desk: Desk, owner: Owner, image: str) -> Kept | None:
    """What a client has sent under this name."""
    with suppress(Refusal):
        return desk.store.get("image", owner.key(image))
    return None


def case_of(desk: Desk, image: str) -> Case:
    """An image of the data folder. Raises Refusal where there is none of this name."""
    found = desk.images()
    if image not in found:
        raise Refusal(404, f"no image named {image[:80]!r}; /datastore/?output=all lists what there is")
    return found[image]


def stats(desk: Desk, request: Request) -> dict[str, Any]:
    return {"total": len(_images(desk, request)), "completed": 0, "label_tags": {}}


def add_routes(router: APIRouter, desk: Desk) -> None:
    _images_of(router, desk)
    _labels_of(router, desk)


def _images_of(router: APIRouter, desk: Desk) -> None:
    @router.get("/datastore/", summary="Which images there are", responses=answers())
    def listed(request: Request, output: Literal["all", "train", "stats"] = "stats") -> Any:
        if output == "train":
            return []
        return _listing(desk, request) if output == "all" else stats(desk, request)

    async def send(request: Request, image: str = "") -> dict[str, str]:
        kept, upload = await kept_upload(request, desk, "image", "file")
        try:
            owner = Owner.of(request, upload.params())
            name = image or kept.said["inputs"][0].name
            kept.said |= {"host": owner.host, "name": name}
            await run_in_threadpool(desk.store.rename, kept, owner.key(name))
        except BaseException:
            desk.store.remove(kept)
            raise
        return {"image": name}

    how: dict[str, Any] = {"responses": answers(413, 415, 429, 507), "methods": ["PUT"]}
    how |= {"openapi_extra": form("file", "params", needed=["file"])}
    router.add_api_route("/datastore/image", send, summary="Send an image, to be named in /infer", **how)
    router.add_api_route("/datastore/", send, include_in_schema=False, **how)

    @router.get("/datastore/image", summary="An image", responses=answers(404), response_class=Response)
    def image(request: Request, image: str) -> Response:
        return file_answer(_file_of(desk, request, image))

    @router.head(
        "/datastore/image",
        summary="Whether there is an image",
        responses=answers(404),
        response_class=Response,
    )
    def image_is_there(request: Request, image: str) -> Response:
        _file_of(desk, request, image)
        return Response()

    @router.get("/datastore/image/info", summary="What is known of an image", responses=answers(404))
    def image_info(request: Request, image: str) -> dict[str, Any]:
        return {"name": _file_of(desk, request, image, only=False).name}

    @router.delete("/datastore/image", summary="Delete an image that was sent", responses=answers(404))
    def delete(request: Request, id: str) -> dict[str, Any]:
        if not (kept := _sent_from(desk, request).get(id)):
            raise Refusal(404, f"no image named {id[:80]!r} was sent")
        desk.store.remove(kept)
        return {}


def _sent_from(desk: Desk, request: Request) -> dict[str, Kept]:
    """What a client's machine has sent, by name; the latest of each."""
    host = Owner.of(request, {}).host
    found = [kept for kept in desk.store.all("image") if kept.said.get("host") == host]
    return {kept.said["name"]: kept for kept in sorted(found, key=lambda kept: kept.made)}


def _file_of(desk: Desk, request: Request, image: str, *, only: bool = True) -> Path:
    """The file of an image; with `only` it is refused where there are several."""
    if kept := _sent_from(desk, request).get(image):
        path: Path = kept.said["inputs"][0]
        if path.is_file() or not only:
            return path
    case = case_of(desk, image)
    if only and (len(case.images) > 1 or ending(case.images[0]) == SERIES):
        raise Refusal(404, f"{image[:80]!r} has several files, which are not sent")
    return case.images[0]


def _images(desk: Desk, request: Request) -> dict[str, str]:
    """The names that a client may give, and the endings of their files."""
    found: dict[str, str] = {}
    with suppress(DataError):  # of a folder that cannot be read as a whole /infer tells
        found = {name: ending(case.images[0]) or "" for name, case in desk.images().items()}
    sent = _sent_from(desk, request)
    return found | {name: ending(kept.said["inputs"][0]) or "" for name, kept in sent.items()}


def _listing(desk: Desk, request: Request) -> dict[str, Any]:
    """What there is, as MONAI Label lists it."""
    objects = {
        name: {"image": {"ext": end, "info": {"name": f"{name}{end}"}}, "labels": _tags(desk, name)}
        for name, end in _images(desk, request).items()
    }
    folders = {"images_dir": ".", "labels_dir": "labels"}
    return {"name": "medfuse", "description": "", **folders, "objects": objects}


def _labels_of(router: APIRouter, desk: Desk) -> None:
    @router.put(
        "/datastore/label",
        summary="Send a label map that somebody has corrected",
        responses=answers(404, 413, 415, 429, 507),
        openapi_extra=form("label", "params", needed=["label"]),
    )
    async def save(request: Request, image: str, tag: Tag = "final") -> dict[str, Any]:
        if desk.labels is None:
            raise Refusal(
                403, "this service keeps no label maps; start it with --labels FOLDER, or save in the viewer"
            )
        kept, upload = await kept_upload(request, desk, "job", "label")
        try:
            await run_in_threadpool(_save, desk.labels, image, tag, upload.files["label"])
        finally:
            desk.store.remove(kept)
        return {"image": image, "label": image}

    how: dict[str, Any] = {"responses": answers(404), "response_class": Response}

    @router.get("/datastore/label", summary="A label map that was sent", **how)
    def label(label: str, tag: Tag = "final") -> Response:
        return file_answer(_saved(desk, label, tag))

    @router.head("/datastore/label", summary="Whether there is a label map", **how)
    def label_is_there(image: str, tag: Tag = "final") -> Response:
        _saved(desk, image, tag)
        return Response()


def _tags(desk: Desk, name: str) -> dict[str, Any]:
    """The label maps of an image, by their tags."""
    if desk.labels is None or not desk.labels.is_dir():
        return {}
    made = {}
    for folder in sorted(desk.labels.iterdir()):
        if folder.is_dir() and re.fullmatch(_TAG, folder.name):
            places = {end: _place(desk.labels, name, folder.name, end) for end in _LABEL_ENDINGS}
            if ends := [end for end, path in places.items() if path.is_file()]:
                made[folder.name] = {"ext": ends[0], "info": {}}
    return made


def _save(labels: Path, image: str, tag: str, sent: Sequence[Path]) -> None:
    """Put a label map in its place. One that stands there is kept beside it, with the time of this."""
    end = ending(sent[0])
    if len(sent) != 1 or end not in _LABEL_ENDINGS:
        raise Refusal(422, f"{sent[0].name}: send one label map, of {', '.join(_LABEL_ENDINGS)}")
    path = _place(labels, image, tag, end)
    with reported(labels):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            stem = path.name[: -len(end)]
            path.rename(path.with_name(f"{stem}.before-{datetime.now():%Y%m%d-%H%M%S-%f}{end}"))
    with atomic(path) as temporary:
        shutil.copyfile(sent[0], temporary)


def _saved(desk: Desk, image: str, tag: str) -> Path:
    if desk.labels is not None:
        for end in _LABEL_ENDINGS:
            if (path := _place(desk.labels, image, tag, end)).is_file():
                return path
    raise Refusal(404, f"no label map of {image[:80]!r} with the tag {tag[:40]!r}")


def _place(labels: Path, image: str, tag: str, end: str) -> Path:
    """Where the label map of an image lies; of its name signs that paths are made of are left out."""
    return labels / tag / f"{disk_name(re.sub(_SEPARATORS, '_', image))}{end}"
