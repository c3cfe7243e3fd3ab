"""Weights from the network, once: by the hash that was asked for, or by a revision of a hub."""

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
from medfuse.model.hugging import Loaded, load

log = logging.getLogger("medfuse")

HUB = "https://huggingface.co"
NAME = r"^(?P<where>\S+)@(sha256:)?(?P<hash>[0-9a-f]{64})$"
COMMIT = r"@[0-9a-f]{40}$"
SECONDS = 30  # without an answer

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


def is_fixed(name: str) -> bool:
    """Whether it is the name of one file for good: by its hash, or by a commit."""
    return bool(re.match(NAME, name) or re.search(COMMIT, name))


def fetch(name: str, *, local_files_only: bool = False) -> Loaded:
    """The file of a name as TransferSettings.hub has it. Raises CheckpointError where it cannot be had."""
    found = re.match(NAME, name)
    if not found:
        return load(name, local_files_only=local_files_only)
    return Loaded(fetch_by_hash(name), name, found["hash"])


def fetch_by_hash(name: str, *, cache: Path | None = None, opener: Opener | None = None) -> Path:
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
