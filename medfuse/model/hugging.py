"""A file of huggingface.co, from the hub's own cache or the network, or a line that says why not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.core.errors import CheckpointError, reason
from medfuse.core.json_text import shortened
from medfuse.core.offline import import_offline

HUB = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Wanted:
    """A file of OWNER/REPOSITORY at a revision; without a `revision` that of its main branch."""

    repo: str
    file: str
    revision: str | None = None
    local_files_only: bool = False

    @property
    def page(self) -> str:
        return f"{HUB}/{self.repo}"


def fetch_file(wanted: Wanted, *, asked_as: str, elsewhere: str) -> Path | None:
    """Where it lies on this disk; None where the repository has no such file. Raises CheckpointError.

    asked_as: what the user wrote, the repository itself or a name in it. elsewhere: what to do without a hub.
    """
    try:
        hub: Any = import_offline("huggingface_hub")
        errors: Any = import_offline("huggingface_hub.errors")
    except ImportError as error:
        raise CheckpointError(
            f"{asked_as}: needs the package huggingface_hub, which cannot be imported ({reason(error)}); run "
            f'pip install "medfuse[hub]", or {elsewhere}'
        ) from error
    try:
        return _download(hub, errors, wanted)
    except Exception as error:  # the hub's, the network's, the disk's
        missing = isinstance(error, errors.EntryNotFoundError)
        if missing and not isinstance(error, errors.LocalEntryNotFoundError):
            return None
        why = _why(error, errors, wanted, asked_as, elsewhere)
        raise CheckpointError(f"{asked_as}: {why}") from error


def _download(hub: Any, errors: Any, wanted: Wanted) -> Path:
    """Raises what `hub`, huggingface_hub, raises.

    Where the network does not answer at once, what is in the cache counts: the package itself would try for
    half a minute, and say so each time.
    """

    def load(*, from_cache: bool) -> Path:
        return Path(hub.hf_hub_download(repo, file, revision=revision, local_files_only=from_cache))

    repo, file, revision = wanted.repo, wanted.file, wanted.revision
    if _is_offline(wanted):
        return load(from_cache=True)
    if revision and COMMIT.fullmatch(revision):
        known = hub.try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(known, str):
            return Path(known)
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repo, file, revision=revision))
    except (errors.HfHubHTTPError, errors.HFValidationError):
        pass  # the hub answers, and says below what is wrong
    except Exception as silent:
        try:
            return load(from_cache=True)
        except errors.LocalEntryNotFoundError as error:
            raise error from silent
    return load(from_cache=False)


def _is_offline(wanted: Wanted) -> bool:
    """Whether no network is to be asked, by the setting or by HF_HUB_OFFLINE."""
    constants: Any = import_offline("huggingface_hub.constants")
    return bool(wanted.local_files_only or constants.HF_HUB_OFFLINE)


def _why(error: Exception, errors: Any, wanted: Wanted, asked_as: str, elsewhere: str) -> str:
    """What is wrong, and what to do."""
    repo, page, whole = wanted.repo, wanted.page, asked_as == wanted.repo
    it, its_file = ("", f"its {wanted.file} ") if whole else (f"{repo} ", "")
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{it}is gated: its owner lets in who has asked; ask for access at {page}, then log in by "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return (
            f"{it}is {'no folder here, and ' if whole else ''}no repository of huggingface.co, or a private "
            "one; mend the name, or log in by `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{it}has no revision {wanted.revision}; give a branch, a tag or a whole commit of {page}/commits"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        absent = f"{its_file}is not in the hub's cache, and"
        if _is_offline(wanted):
            return (
                f"{absent} HF_HUB_OFFLINE or `local_files_only` asks for no more; leave that out once, or "
                f"{elsewhere}"
            )
        return f"{absent} huggingface.co does not answer ({first_reason(error)}); {elsewhere}"
    if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
        return (
            f"the hub refuses your token ({first_reason(error)}); log in by `hf auth login`, or mend HF_TOKEN"
        )
    if "Consistency check" in str(error) or "peer closed" in str(error):
        return f"{its_file}was cut off while it was fetched ({first_reason(error)}); run this again"
    return f"{its_file}cannot be fetched ({first_reason(error)}); try again, or {elsewhere}"


def first_reason(error: Exception) -> str:
    """What is at the bottom of it, in a few words."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return shortened(reason(error), 120)
