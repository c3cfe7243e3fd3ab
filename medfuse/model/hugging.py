"""Files of huggingface.co by name and revision: what was loaded first is what counts ever after."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medfuse.core.errors import CheckpointError, reason
from medfuse.core.files import file_hash
from medfuse.core.json_text import shortened
from medfuse.core.offline import import_offline
from medfuse.core.remembered import recall, remember

FORM = r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^\s@]+?)(@(?P<revision>[^\s@:]+))?"
_HELD = "hub_files.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Loaded:
    """A file of weights on this disk: the name that it has for good, its SHA-256, and its licence if told."""

    path: Path
    name: str
    sha256: str
    license: str = ""


def load(name: str, *, local_files_only: bool = False) -> Loaded:
    """The file of `OWNER/REPO/FILE[@REVISION]`, from the hub's own cache or the network.

    Raises CheckpointError where it cannot be had, and where it is another one than it was before.
    """
    found = re.fullmatch(FORM, name)
    assert found, "validated by TransferSettings"
    repo, file = found["repo"], found["file"]
    path = _download(name, repo, file, found["revision"], local_files_only)
    commit = path.parts[-1 - len(Path(file).parts)]
    loaded = Loaded(path, f"{repo}/{file}@{commit}", file_hash(path))
    _hold(name, loaded)
    return replace(loaded, license=_licence(repo, commit, local_files_only))


def _licence(repo: str, commit: str, local_files_only: bool) -> str:
    """As the head of the repository's README says it; empty where it says nothing, or there is none."""
    try:
        text = _download("", repo, "README.md", commit, local_files_only).read_text("utf-8")
    except (CheckpointError, OSError, ValueError):
        return ""
    _, _, rest = text.partition("---\n")
    head = rest.partition("\n---")[0]
    told = dict(re.findall(r"^(license|license_name): *(\S[^\n]*)$", head, re.MULTILINE))
    return str(told.get("license_name") or told.get("license", "")).strip().strip("\"'")[:100]


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


def _download(name: str, repo: str, file: str, revision: str | None, local_files_only: bool) -> Path:
    try:
        hub: Any = import_offline("huggingface_hub")
        errors: Any = import_offline("huggingface_hub.errors")
    except ImportError as error:
        raise CheckpointError(
            f"{name}: needs the package huggingface_hub, which is not installed; run pip install "
            '"medfuse[hub]", or give the file\'s SHA-256 in place of a revision'
        ) from error
    try:
        return download(hub, repo, file, revision, local_files_only)
    except Exception as error:  # the hub's, the network's, the disk's
        offline = local_files_only or is_offline()
        raise CheckpointError(f"{name}: {_why(error, errors, repo, file, revision, offline)}") from error


def is_offline() -> bool:
    """Whether its package is told to ask no network, by HF_HUB_OFFLINE."""
    constants: Any = import_offline("huggingface_hub.constants")
    return bool(constants.HF_HUB_OFFLINE)


def download(hub: Any, repo: str, file: str, revision: str | None, local_files_only: bool) -> Path:
    """A file of a hub, or of its cache; raises what `hub`, huggingface_hub, raises.

    Where the network does not answer at once, what is in the cache counts: the package itself would try for
    half a minute, and say so each time.
    """
    errors: Any = import_offline("huggingface_hub.errors")
    if local_files_only or is_offline():
        return Path(hub.hf_hub_download(repo, file, revision=revision, local_files_only=True))
    if revision and _COMMIT.fullmatch(revision):
        known = hub.try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(known, str):
            return Path(known)
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repo, file, revision=revision))
    except (errors.HfHubHTTPError, errors.HFValidationError):
        pass  # the hub answers, and says below what is wrong
    except Exception as silent:
        try:
            return Path(hub.hf_hub_download(repo, file, revision=revision, local_files_only=True))
        except errors.LocalEntryNotFoundError as error:
            raise error from silent
    return Path(hub.hf_hub_download(repo, file, revision=revision, local_files_only=False))


def _why(error: Exception, errors: Any, repo: str, file: str, revision: str | None, offline: bool) -> str:
    """What is wrong, and what to do."""
    page = f"https://huggingface.co/{repo}"
    elsewhere = f"copy {file} of {page} here and give its path as `weights`"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: its owner lets in whom they know; ask for access at {page}, then log in by "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no repository {repo} on the hub, or it is private; mend the name, or log in by "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision}; give a branch, a tag or a whole commit of {page}/commits"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if offline:
            return (
                "is not in the hub's cache here, and HF_HUB_OFFLINE or `local_files_only` asks for no more; "
                f"leave that out once, or {elsewhere}"
            )
        return f"the hub does not answer ({_first(error)}); without a network, {elsewhere}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repo} has no file {file}; {page}/tree/{revision or 'main'} lists those that it has"
    if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
        return f"the hub refuses your token ({_first(error)}); log in by `hf auth login`, or mend HF_TOKEN"
    if "Consistency check" in str(error) or "peer closed" in str(error):
        return f"was cut off while it was fetched ({_first(error)}); run this again"
    return f"cannot be fetched ({_first(error)}); run this again, or {elsewhere}"


def _first(error: Exception) -> str:
    """What is at the bottom of it, in a few words."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return shortened(reason(error), 120)
