"""Weights from the network, once: by the hash that was asked for, or by a revision of a hub."""

from __future__ import annotations

import logging
import re
import shutil
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from medfuse.core.errors import CheckpointError
from medfuse.core.files import atomic, file_hash
from medfuse.core.json_text import shortened
from medfuse.core.remembered import cache_folder, recall, remember
from medfuse.model.hugging import COMMIT, HUB, Wanted, fetch_file
from medfuse.model.repository import Repository

log = logging.getLogger("medfuse")

NAME = r"^(?P<where>\S+)@(sha256:)?(?P<hash>[0-9a-f]{64})$"
FORM = r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^\s@]+?)(@(?P<revision>[^\s@:]+))?"
SECONDS = 30  # without an answer
_HELD = "hub_files.json"

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True)
class Loaded:
    """A file of weights on this disk: the name that it has for good, its SHA-256, and its licence if told."""

    path: Path
    name: str
    sha256: str
    license: str = ""


def is_fixed(name: str) -> bool:
    """Whether it is the name of one file for good: by its hash, or by a commit."""
    return bool(re.match(NAME, name) or COMMIT.fullmatch(name.rpartition("@")[2]))


def fetch(name: str, *, local_files_only: bool = False) -> Loaded:
    """The file of a name as TransferSettings.hub has it. Raises CheckpointError where it cannot be had."""
    if found := re.match(NAME, name):
        return Loaded(fetch_by_hash(name), name, found["hash"])
    return fetch_by_revision(name, local_files_only=local_files_only)


def fetch_by_revision(name: str, *, local_files_only: bool = False) -> Loaded:
    """The file of `OWNER/REPO/FILE[@REVISION]`: what was loaded first is what counts ever after.

    Raises CheckpointError where it cannot be had, and where it is another one than it was before.
    """
    found = re.fullmatch(FORM, name)
    assert found, "validated by TransferSettings"
    repo, file = found["repo"], found["file"]
    wanted = Wanted(repo, file, found["revision"], local_files_only)
    elsewhere = f"copy {file} of {wanted.page} here and give its path as `weights`"
    path = fetch_file(wanted, asked_as=name, elsewhere=elsewhere)
    if path is None:
        tree = f"{wanted.page}/tree/{wanted.revision or 'main'}"
        raise CheckpointError(f"{name}: {repo} has no file {file}; {tree} lists those that it has")
    commit = path.parts[-1 - len(Path(file).parts)]
    loaded = Loaded(path, f"{repo}/{file}@{commit}", file_hash(path))
    _hold(name, loaded)
    return replace(loaded, license=Repository(repo, commit, local_files_only).license())


def _hold(name: str, loaded: Loaded) -> None:
    """Keep in mind which file it is. Raises CheckpointError where it was another one."""
    before = recall(_HELD, loaded.name)
    if before and before != loaded.sha256:
        raise CheckpointError(
            f"{name}: {loaded.path} is damaged: its SHA-256 is {loaded.sha256[:12]}… and was "
            f"{str(before)[:12]}…; delete that file and what it links to, so that it is loaded again"
        )
    if not before:
        remember(_HELD, loaded.name, loaded.sha256)
    if name == loaded.name:
        return
    earlier = recall(_HELD, name)
    if earlier and earlier != loaded.name and recall(_HELD, earlier) != loaded.sha256:
        raise CheckpointError(
            f"{name}: is another file now (SHA-256 {loaded.sha256[:12]}…) than when it was first loaded; "
            f"write {earlier} to keep to that one, or {loaded.name} to take the new one"
        )
    if not earlier:
        remember(_HELD, name, loaded.name)


PREFIX = "hub:"
SHARED_WEIGHTS, DESCRIPTION = "model.safetensors", "medfuse.json"
BUNDLED, BUNDLED_FACTS = "models/model.pt", "configs/medfuse_model.json"
"""What there is in a folder that was exported: in a repository of the hub, and in a MONAI bundle."""
_SHARED = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^\s@]+))?")


def shared_repository(name: str) -> Repository:
    """The repository of `hub:OWNER/NAME[@REVISION]`, as `medfuse push` makes them. Raises CheckpointError."""
    found = _SHARED.fullmatch(name)
    if not found:
        raise CheckpointError(
            f"{shortened(name)}: is no model of the hub; write hub:OWNER/NAME, or hub:OWNER/NAME@REVISION"
        )
    return Repository(found["name"], found["revision"])


def fetch_shared(name: str, file: str = SHARED_WEIGHTS) -> Path:
    """A file of `hub:OWNER/NAME[@REVISION]` on this disk. Nothing of it is run. Raises CheckpointError."""
    repository = shared_repository(name)
    path = repository.find(file)
    if path and file == SHARED_WEIGHTS:
        repository.find(DESCRIPTION)  # beside it, for whoever asks what the weights are
    if path is None:
        raise CheckpointError(
            f"{name}: has no {file}, as `medfuse push` writes it; `medfuse init DATA --from "
            f"{repository.name}` may start from it, where it is a network of transformers"
        )
    return path


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
