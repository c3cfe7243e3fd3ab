"""Answers with files in them, sent from the disk, their length said before."""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

_BLOCK = 1 << 16
_TYPES = {
    ".nii.gz": "application/gzip",
    ".nii": "application/octet-stream",
    ".dcm": "application/dicom",
    ".png": "image/png",
    ".json": "application/json",
    ".csv": "text/csv",
    ".zip": "application/zip",
}


def type_of(path: Path) -> str:
    return next((kind for end, kind in _TYPES.items() if path.name.endswith(end)), "application/octet-stream")


def plain_name(name: str) -> str:
    """A file's name in the signs that any client can take."""
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name).lstrip(".") or "file"
    )


class Then(Response):
    """Another answer, and what is done once it was sent, or could not be."""

    def __init__(self, answer: Response, then: Callable[[], None]) -> None:
        self._answer, self._then = answer, then
        self.status_code, self.background = answer.status_code, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            self._then()


def file_answer(path: Path) -> FileResponse:
    return FileResponse(path, media_type=type_of(path), filename=path.name)


def form_answer(params: dict[str, Any], path: Path) -> Response:
    """`params` and `image` as a form, which is how MONAI Label's clients are answered."""
    boundary = secrets.token_hex(16)
    first = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n'
        f"Content-Type: application/json\r\n\r\n{json.dumps(params)}\r\n--{boundary}\r\n"
        f'Content-Disposition: form-data; name="image"; filename="{plain_name(path.name)}"\r\n'
        f"Content-Type: {type_of(path)}\r\n\r\n"
    ).encode()
    last = f"\r\n--{boundary}--\r\n".encode()
    size = path.stat().st_size

    async def parts() -> AsyncIterator[bytes]:
        yield first
        async with await anyio.open_file(path, "rb") as file:
            while block := await file.read(_BLOCK):
                yield block
        yield last

    length = str(len(first) + size + len(last))
    kind = f"multipart/form-data; boundary={boundary}"
    return StreamingResponse(parts(), media_type=kind, headers={"content-length": length})


def packed(paths: Sequence[Path], target: Path) -> Path:
    """The files in one zip file, as they are."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for path in paths:
            archive.write(path, path.name)
    return target
