"""Folders and files in buckets and at servers, anywhere that fsspec reaches: listed, fetched, put whole."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medfuse.core.errors import DataError, StorageError, did_you_mean, lacks, reason
from medfuse.core.files import UNFINISHED
from medfuse.core.json_text import shortened
from medfuse.core.text import listed

TIMES = 5
_WAIT_S = 0.25
"""Before the second try; twice as long before each one after that."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_OTHERS = ("dicomweb", "hub")
_HERE = ("file", "local")
_USUAL = ("s3", "gs", "az", "https", "http", "abfs", "sftp", "memory")
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory", "oss", "r2")
"""Where an object is there once all of it is; elsewhere it is written beside its place, and then renamed."""
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "TokenRetrievalError",
    "DefaultCredentialsError",
)
_NEVER = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, NotImplementedError)
_NEVER_ELSE = (ValueError, TypeError, KeyError, AttributeError, ImportError)

T = TypeVar("T")


def is_remote(place: str | Path) -> bool:
    """Whether it is an address such as s3://bucket/folder, and no path or other kind of address."""
    found = _SCHEME.match(str(place))
    if not found or found[1].lower() in (*_OTHERS, *_HERE):
        return False
    return not os.path.lexists(str(place))


def local_path(place: str | Path) -> Path:
    """A path as it is, or that of file:///folder."""
    found = _SCHEME.match(text := str(place))
    if found and found[1].lower() in _HERE and not os.path.lexists(text):
        return Path(url2pathname("/" + text[found.end() :]))
    return Path(place)


@dataclass(frozen=True)
class Item:
    """An object: where it is, how large, and `stamp`, which is another once its content is (as far as the
    storage tells)."""

    url: str
    bytes: int
    stamp: str = ""

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rstrip("/").rpartition("/")[2] or self.url

    @property
    def shown(self) -> str:
        """Its address without what may be a signature."""
        return self.url.partition("?")[0]


class Storage:
    """A folder (or one file) of a bucket or server. Raises DataError for an address that is none, and where a
    package for it is missing; StorageError once it has not answered several times."""

    def __init__(self, url: str | Path) -> None:
        found = _SCHEME.match(str(url))
        assert found, url
        self._scheme = found[1].lower()
        self.url = f"{self._scheme}://{str(url)[found.end() :]}"
        self.shown = self.url.partition("?")[0]
        host = self.url.partition("://")[2].partition("/")[0]
        if "@" in host and self._scheme in ("http", "https", "s3", "sftp", "ftp"):
            plain = f"{self._scheme}://{self.url.partition('@')[2]}"
            raise DataError(f"{plain}: holds a user or a password; leave them out of the address")
        if not host and self._scheme != "memory":
            raise DataError(f"{self.shown}: names no bucket or server; write {self._scheme}://NAME/folder")
        self._fs = _file_system(self._scheme, self.url)
        self.root = str(self._fs._strip_protocol(self.url)).rstrip("/")

    def __truediv__(self, name: str) -> str:
        return f"{self.root}/{name}"

    def url_of(self, path: str) -> str:
        if self._scheme in ("http", "https"):
            return path
        return f"{self._scheme}://{path.lstrip('/')}"

    def items(self) -> list[Item]:
        """Every object in it and below, or the one that it is, in the order of names."""

        def look() -> list[Item]:
            self._fs.invalidate_cache()
            if self._scheme in ("http", "https") and not self.url.partition("?")[0].endswith("/"):
                found = {self.root: self._fs.info(self.url)}
                return [self._item(self.url, about) for about in found.values()]
            found = self._fs.find(self.root, detail=True)
            if not found and not self._fs.exists(self.root):
                raise FileNotFoundError(self.root)
            return [self._item(self.url_of(path), said) for path, said in sorted(found.items())]

        return self.patiently(look, self.shown)

    def names(self) -> dict[str, Item]:
        """What lies in it, by its path from there; nothing where it is not there yet."""
        try:
            found = self.items()
        except _Missing:
            return {}
        before = self.url_of(self.root).rstrip("/") + "/"
        return {item.url.removeprefix(before): item for item in found if item.url.startswith(before)}

    def _item(self, url: str, said: dict[str, Any]) -> Item:
        keys = (
            "ETag",
            "etag",
            "md5Hash",
            "content_md5",
            "LastModified",
            "last_modified",
            "updated",
            "mtime",
            "created",
        )
        stamp = next((str(said[key]) for key in keys if said.get(key)), "")
        return Item(url, int(said.get("size") or 0), stamp.strip('"'))

    def fetch(self, item: Item, target: Path) -> None:
        """Its content, whole, at `target`."""

        def get() -> None:
            self._fs.get_file(self._fs._strip_protocol(item.url), str(target))
            if item.bytes and (got := target.stat().st_size) != item.bytes:
                raise OSError(f"{got} of {item.bytes} bytes came")

        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.patiently(get, item.shown)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes | None:
        """The content of what is called so; None where there is nothing."""
        try:
            return self.patiently(lambda: bytes(self._fs.cat_file(self / name)), f"{self.shown}/{name}")
        except _Missing:
            return None

    def put(self, source: Path, name: str) -> Item:
        """A file as the object `name`, which is as it was or whole."""
        path = self / name

        def send() -> Item:
            if self._scheme in _WHOLE:
                self._fs.put_file(str(source), path)
            else:
                folder, _, last = path.rpartition("/")
                beside = f"{folder}/{UNFINISHED}{secrets.token_hex(4)}{last}"
                self._fs.makedirs(folder, exist_ok=True)
                self._fs.put_file(str(source), beside)
                self._fs.mv(beside, path)
            self._fs.invalidate_cache()
            item = self._item(self.url_of(path), self._fs.info(path))
            if item.bytes != source.stat().st_size:
                raise OSError(f"{item.bytes} of {source.stat().st_size} bytes arrived")
            return item

        return self.patiently(send, f"{self.shown.rstrip('/')}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """A small object."""
        self.patiently(lambda: self._fs.pipe_file(self / name, content), f"{self.shown}/{name}")

    def remove(self, names: Sequence[str]) -> None:
        """What of these is there. What cannot be removed stays."""
        for name in names:
            with suppress(DataError):
                self.patiently(partial(self._fs.rm_file, self / name), f"{self.shown}/{name}", times=2)

    def patiently(self, action: Callable[[], T], where: str, *, times: int = TIMES) -> T:
        """What `action` returns, tried again where a storage fails for a while. Raises DataError."""
        for attempt in range(1, times + 1):
            try:
                return action()
            except DataError:
                raise
            except _NEVER as error:
                raise _said(where, error) from error
            except Exception as error:
                if _is_refused(error):
                    raise _said(where, error) from error
                if isinstance(error, _NEVER_ELSE) and not isinstance(error, OSError):
                    raise DataError(f"{where}: cannot be used ({_reason(error)})") from error
                if attempt == times:
                    raise StorageError(
                        f"{where}: the storage does not answer as it should "
                        f"({_reason(error)}), after {times} tries; run the same command later"
                    ) from error
            time.sleep(_WAIT_S * 2 ** (attempt - 1))
        raise AssertionError("a last try returns or raises")


class _Missing(DataError):
    """Nothing is there."""


def _file_system(scheme: str, url: str) -> Any:
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        needs = lacks(error) or str(error)
        raise DataError(f"{url.partition('?')[0]}: {needs}") from error
    except ValueError as error:
        known = fsspec.available_protocols()
        raise DataError(
            f"{shortened(url.partition('?')[0])}: no storage is called {scheme!r}"
            f"{did_you_mean(scheme, [*_USUAL, *known], near=0.5)} ({listed(_USUAL)}, …)"
        ) from error
    try:
        return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(url))
    except ImportError as error:
        raise DataError(f"{url.partition('?')[0]}: {lacks(error) or error}") from error
    except Exception as error:
        raise _said(url.partition("?")[0], error) from error


def _reason(error: BaseException) -> str:
    """What an error says, without signatures in addresses."""
    return shortened(re.sub(r"\?[^\s'\")]*", "", reason(error)), 160)


def _is_refused(error: BaseException) -> bool:
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 425, 429)
    return refused or type(error).__name__ in _NO_CREDENTIALS


def _said(where: str, error: BaseException) -> DataError:
    """What a storage says, in a line that says what to do."""
    status = getattr(error, "status", None)
    if type(error).__name__ in _NO_CREDENTIALS:
        return DataError(
            f"{where}: there are no credentials for it; set those of its tools (such as AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or FSSPEC_S3_ANON=true for what is public"
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return _Missing(f"{where}: is not there, or its bucket is not; check the address")
    if isinstance(error, PermissionError) or status in (401, 403):
        return DataError(f"{where}: access is refused; check the credentials and what they allow")
    if isinstance(error, NotImplementedError):
        return DataError(f"{where}: cannot be written there; choose a bucket, or a folder")
    return DataError(f"{where}: cannot be used ({_reason(error)}); check the address")
