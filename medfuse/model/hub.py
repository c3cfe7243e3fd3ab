"""Weights from the network, once, and only with the hash that was asked for."""

from __future__ import annotations

import logging
import re
import shutil
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from medfuse.core.errors import CheckpointError
from medfuse.core.files import atomic, file_hash
from medfuse.core.remembered import cache_folder

log = logging.getLogger("medfuse")

HUB = "https://huggingface.co"
NAME = r"^(?P<where>\S+)@(sha256:)?(?P<hash>[0-9a-f]{64})$"
SECONDS = 30  # without an answer

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


def fetch(name: str, *, cache: Path | None = None, opener: Opener | None = None) -> Path:
    """The file of `OWNER/REPO/FILE@SHA256`, or `https://…@SHA256`, from `cache` or the network.

    `cache`: medfuse's own where none is given (see core.remembered). Raises CheckpointError where it cannot
    be had, or is another file.
    """
    found = re.match(NAME, name)
    assert found, "validated by TransferSettings"
    url, wanted = _url(found["where"]), found["hash"]
    folder = cache or cache_folder()
    path = folder / f"{wanted}{Path(urlsplit(url).path).suffix}"
    if path.is_file() and file_hash(path) == wanted:
        return path
    log.info("fetching %s", url)
    try:
        with (opener or _open)(url) as source, atomic(path) as temporary:
            with open(temporary, "wb") as target:
                shutil.copyfileobj(source, target)
            _check(temporary, wanted, name)
    except (OSError, HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", error))
        raise CheckpointError(
            f"{name}: cannot be fetched ({reason}); without a network, copy {url} here and give its path as "
            "`weights`"
        ) from error
    return path


def _url(where: str) -> str:
    if "://" in where:
        return where
    owner, repo, *file = where.split("/")
    return f"{HUB}/{owner}/{repo}/resolve/main/{quote('/'.join(file))}"


def _open(url: str) -> AbstractContextManager[IO[bytes]]:
    opened: AbstractContextManager[IO[bytes]] = urllib.request.urlopen(url, timeout=SECONDS)
    return opened


def _check(path: Path, wanted: str, name: str) -> None:
    found = file_hash(path)
    if found != wanted:
        raise CheckpointError(
            f"{name}: is another file, of SHA-256 {found}; use it only if you trust it, by that hash"
        )
