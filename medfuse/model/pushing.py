"""A folder onto huggingface.co, or a line that says why not. The token is the one that you logged in with."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.core.errors import MedfuseError, reason
from medfuse.core.json_text import shortened
from medfuse.core.offline import import_offline
from medfuse.model.hugging import first_reason

PREFIX = "hub:"
_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})")
_REVISION = re.compile(r"[\w./-]{1,200}")


@dataclass(frozen=True)
class Target:
    """OWNER/NAME, and the branch that is written; `main` where none is given."""

    name: str
    revision: str = ""
    public: bool = False

    @classmethod
    def of(cls, text: str, *, revision: str = "", public: bool = False) -> Target:
        """From `hub:OWNER/NAME`. Raises MedfuseError."""
        found = _NAME.fullmatch(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
        if not found or ".." in text or "--" in text:
            raise MedfuseError(
                f"{shortened(text)}: is no name of a repository; write hub:OWNER/NAME, such as hub:ann/liver"
            )
        if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise MedfuseError(
                f"--revision {shortened(revision)}: is no name of a branch; write one, such as v1"
            )
        return cls(found["name"], revision, public)


def push(folder: Path, target: Target, message: str) -> str:
    """Where the commit can be looked at. A repository that is not there is made, private unless `public`.

    Files that are there and not in the folder stay. Raises MedfuseError.
    """
    try:
        hub: Any = import_offline("huggingface_hub")
        errors: Any = import_offline("huggingface_hub.errors")
        constants: Any = import_offline("huggingface_hub.constants")
    except ImportError as error:
        raise MedfuseError(
            f"hub:{target.name}: needs the package huggingface_hub, which cannot be imported "
            f"({reason(error)}); "
            'run pip install "medfuse[hub]"'
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise MedfuseError(f"hub:{target.name}: HF_HUB_OFFLINE asks for no network; unset it to push")
    api = hub.HfApi(endpoint=constants.ENDPOINT, library_name="medfuse")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that it sends by
            return _sent(hub, api, folder, target, message)
    except MedfuseError:
        raise
    except Exception as error:  # the hub's, the network's, the disk's
        raise MedfuseError(f"hub:{target.name}: {_why(error, errors, target)}") from error


def _sent(hub: Any, api: Any, folder: Path, target: Target, message: str) -> str:
    api.create_repo(target.name, private=not target.public, exist_ok=True)
    if not target.public and api.model_info(target.name).private is False:
        raise MedfuseError(
            f"hub:{target.name}: is there already, and everybody can read it; give --public where that is "
            "meant, or another name"
        )
    if target.revision:
        api.create_branch(target.name, branch=target.revision, exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    done = api.create_commit(  # one for all, so that a reader sees the whole model or none of it
        target.name,
        [hub.CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files],
        commit_message=message,
        revision=target.revision or None,
    )
    return str(done.commit_url)


def _why(error: Exception, errors: Any, target: Target) -> str:
    said = first_reason(error)
    code = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, errors.LocalTokenNotFoundError) or code == 401:
        return f"the hub does not know you ({said}); log in by `hf auth login`, or set HF_TOKEN"
    if code == 403:
        owner = target.name.partition("/")[0]
        return f"your token may not write there ({said}); use one with write access for {owner}"
    if code == 404:
        return (
            f"there is no such repository or branch ({said}); see the name, and whether your token may see it"
        )
    if code in (409, 412):
        return f"it has changed meanwhile ({said}); push again"
    if code == 429:
        return f"the hub asks to wait ({said}); push again later"
    if code:
        return f"the hub refuses it ({said})"
    return f"cannot be pushed ({said}); look at the network, and push again"
