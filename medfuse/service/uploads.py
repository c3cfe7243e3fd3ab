"""What a client sends, from the wire into a folder: names that are safe, nothing beyond the limits."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from medfuse.core.archives import unpack
from medfuse.core.errors import DataError
from medfuse.core.files import reported
from medfuse.core.json_text import parse_json
from medfuse.service.limits import FIELD_BYTES, FIELDS, NAME_BYTES, Limits
from medfuse.service.refusals import Refusal
from medfuse.volumes.endings import LABELS, SERIES, ending

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
_FORBIDDEN = set('/\\:*?"<>|')
_OURS = (SERIES, LABELS)
"""Files that say which files on this machine make a volume: nobody's but medfuse's."""


@dataclass
class Upload:
    """`files`: field → the files that were sent in it. `fields`: the others, as text."""

    folder: Path
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)

    def params(self, name: str = "params") -> dict[str, Any]:
        """A field that holds an object in JSON; an empty one where it is not there. Raises Refusal."""
        text = self.fields.get(name) or "{}"
        read = parse_json(text, name, raises=DataError, remedy="send an object, such as {}")
        if not isinstance(read, dict):
            raise Refusal(422, f"{name}: is no object in JSON; send {{}} for none")
        return read


def content_type(request: Request) -> tuple[str, Mapping[bytes, bytes]]:
    """`multipart/form-data` and what is said with it."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    return kind.decode("latin-1").lower(), options


async def receive(request: Request, folder: Path, limits: Limits, wanted: Iterable[str]) -> Upload:
    """The form of a request, its files in `folder`/FIELD. Files in other fields than `wanted` are refused.

    Raises Refusal. A client that hangs up raises ClientDisconnect; the folder is the caller's to delete.
    """
    kind, options = content_type(request)
    if kind == URLENCODED:
        return Upload(folder, await fields_of(request))
    if kind != MULTIPART or not options.get(b"boundary"):
        raise Refusal(415, f"send {MULTIPART}, as `curl -F` does")
    form = _Form(Upload(folder), limits, tuple(wanted))
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            if form.pending:
                await run_in_threadpool(form.write)
        parser.finalize()
        if not form.ended:
            raise Refusal(400, "the form ends before its last boundary; send it again")
    except FormParserError as error:
        raise Refusal(400, f"the form cannot be read ({error})") from error
    finally:
        form.close()
    return form.upload


async def body_of(request: Request) -> bytes:
    """The content of a request that has no files. Raises Refusal where it is large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FIELD_BYTES:
            raise Refusal(413, f"a request without files has no more than {FIELD_BYTES:,} bytes")
    return body


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form without files. Raises Refusal."""
    try:
        said = parse_qs((await body_of(request)).decode("utf-8", "replace"), max_num_fields=FIELDS)
    except ValueError as error:
        raise Refusal(413, f"the form has more than {FIELDS} fields") from error
    return {name: values[-1] for name, values in said.items()}


class _Form:
    """What the parser tells of, part by part. Bytes of files wait in `pending` until they are written."""

    def __init__(self, upload: Upload, limits: Limits, wanted: tuple[str, ...]) -> None:
        self.upload, self.pending, self.ended = upload, list[tuple[IO[bytes], bytes]](), False
        self._limits, self._wanted = limits, wanted
        self._open: list[IO[bytes]] = []
        self._taken: Counter[Path] = Counter()
        self._count = 0
        self._begin()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def write(self) -> None:
        with reported(self.upload.folder):
            for file, data in self.pending:
                file.write(data)
        self.pending.clear()
        for file in self._open[:-1]:
            file.close()
        del self._open[:-1]

    def close(self) -> None:
        for file in self._open:
            file.close()

    def _begin(self) -> None:
        self._said: dict[str, bytes] = {}
        self._key = self._value = b""
        self._name, self._text = "", bytearray()
        self._file: IO[bytes] | None = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._said[self._key.decode("latin-1").lower()] = self._value
        self._key = self._value = b""

    def _headers(self) -> None:
        _, options = parse_options_header(self._said.get("content-disposition", b""))
        if b"name" not in options:
            raise Refusal(400, "a part of the form has no name")
        self._name = _text(options[b"name"])
        if b"filename" not in options:
            if len(self.upload.fields) >= FIELDS:
                raise Refusal(413, f"the form has more than {FIELDS} fields")
            return
        if self._name not in self._wanted:
            raise Refusal(
                422, f"files are sent as {' or '.join(map(repr, self._wanted))}, not as {self._name[:40]!r}"
            )
        self._count += 1
        if self._count > self._limits.files:
            raise Refusal(
                413, f"more than {self._limits.files:,} files in one request; pack them into a zip file"
            )
        folder = self.upload.folder / self._name
        with reported(folder):
            folder.mkdir(exist_ok=True)
            path = self._place(folder, safe_name(_text(options[b"filename"])))
            file = open(path, "xb")  # noqa: SIM115  # closed by `write` and `close`
        self._file = file
        self._open.append(file)
        self.upload.files.setdefault(self._name, []).append(path)

    def _place(self, folder: Path, name: str) -> Path:
        """A path that no other file of the form has."""
        wanted = folder / name.lower()  # on some disks names of other capitals are one
        self._taken[wanted] += 1
        return _free(folder, name, self._taken[wanted])

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self.pending.append((self._file, data[start:end]))
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES:
            raise Refusal(413, f"the field {self._name[:40]!r} has more than {FIELD_BYTES:,} bytes")

    def _end(self) -> None:
        if self._file is None:
            self.upload.fields[self._name] = _text(bytes(self._text))

    def _finish(self) -> None:
        self.ended = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def safe_name(given: str) -> str:
    """As `disk_name`. Raises Refusal for one of medfuse's own small files."""
    name = disk_name(given)
    if name.lower().endswith(_OURS):
        raise Refusal(422, f"{name[:80]}: is a file of medfuse's own; send the images themselves")
    return name


def disk_name(given: str) -> str:
    """A name for a file on this disk that keeps what it can of a client's, its ending above all."""
    name = given.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if c.isprintable() and c not in _FORBIDDEN and not _half(c))
    name = name.strip(" .") or "image"
    end = ending(Path(name)) or Path(name).suffix
    end = end if len(end.encode()) <= 20 else ""
    stem = name[: len(name) - len(end)].encode()[: NAME_BYTES - len(end.encode())]
    return (stem.decode("utf-8", "ignore").strip(" .") or "image") + name[len(name) - len(end) :]


def _half(character: str) -> bool:
    return 0xD800 <= ord(character) <= 0xDFFF


def _free(folder: Path, name: str, number: int = 1) -> Path:
    """A path in a folder that is not taken, with a `number` of its own, or one above it, from 2 on."""
    end = ending(Path(name)) or Path(name).suffix
    stem = name[: len(name) - len(end)]
    path = folder / (name if number == 1 else f"{stem}-{number}{end}")
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{end}"
    return path


def inputs_of(paths: list[Path], limits: Limits) -> tuple[Path, ...]:
    """What `medfuse infer` is to be given of files that were sent: one of them, or the folder of several.

    Zip files become the folders that they hold. Raises DataError.
    """
    found = _unpacked(paths, limits)
    return tuple(found) if len(found) == 1 else (paths[0].parent,)


def _unpacked(paths: list[Path], limits: Limits) -> list[Path]:
    found = []
    for path in paths:
        if path.suffix.lower() != ".zip" and not _begins_as_zip(path):
            found.append(path)
            continue
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path.name}: is no zip file that can be read; pack it again")
        folder = path.with_name(f"{path.stem or 'scan'}.unpacked")
        folder.mkdir()
        how = {"most_files": limits.files, "most_bytes": limits.unpacked}
        unpack(path, folder, path.name, **how, named=safe_name)
        path.unlink()
        home = folder.rename(_free(path.parent, path.stem or "scan"))
        found.append(_inner(home))
    return found


def _inner(folder: Path) -> Path:
    """The folder that was packed: that of all files, where others hold it alone."""
    inside = list(folder.iterdir())
    return _inner(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


def _begins_as_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"
