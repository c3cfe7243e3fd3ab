"""The files of a network: in a folder, or in a repository of huggingface.co and the hub's cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import read_json, read_text, shortened
from medfuse.model.hugging import COMMIT, Wanted, fetch_file

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
LARGEST_CARD = 4 * 2**20  # bytes
_ALWAYS = ".gitattributes"  # which every repository has
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_REMEDY = "fetch or save the network again"


@dataclass(frozen=True)
class Repository:
    """A folder, or OWNER/REPOSITORY at a revision. What is asked of it raises CheckpointError in one line."""

    name: str
    revision: str | None = None
    local_files_only: bool = False
    given_as: str = "name"  # the parameter that names it

    @property
    def is_folder(self) -> bool:
        return os.path.isabs(self.name)

    def source(self) -> str:
        """`facebook/dinov2-small@COMMIT`, or the folder."""
        return self.name if self.is_folder else f"{self.name}@{self.commit()}"

    def commit(self) -> str | None:
        """The commit that its configuration is of, which all other files are taken from as well."""
        if self.is_folder:
            return self.revision
        path = self.find(CONFIG) or self.file(_ALWAYS)
        return path.parent.name

    def config(self) -> Mapping[str, Any]:
        path = self.file(CONFIG)
        said = read_json(path, raises=CheckpointError, remedy=_REMEDY)
        if not isinstance(said, dict):
            raise CheckpointError(f"{path}: is no mapping; {_REMEDY}")
        return said

    def file(self, name: str) -> Path:
        found = self.find(name)
        if found is None:
            raise CheckpointError(
                f"{self.name}: has no file {name}; give a repository of a whole network, or a folder that "
                "one was saved to, as save_pretrained writes it"
            )
        return found

    def find(self, name: str) -> Path | None:
        """A file on this disk, fetched if need be; None where the repository has no such file."""
        if not self.is_folder:
            return self._fetched(name)
        folder = Path(self.name)
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: no such folder; mend `{self.given_as}`, a folder or OWNER/REPOSITORY of the hub"
            )
        return folder / name if (folder / name).exists() else None

    def license(self) -> str:
        """What the model card's head says, "" where it says nothing, cannot be read or is not there."""
        card = self._if_there("README.md")
        said = _front_matter(card) if card else {}
        words = said.get("license_name") if said.get("license") in ("other", None) else None
        words = words or said.get("license") or ""
        return shortened(", ".join(map(str, words)) if isinstance(words, list) else str(words), 100)

    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std that images were brought to after [0, 1]; None where nothing is said of them."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = self._if_there(name)
            said = read_json(path, raises=CheckpointError, remedy="fetch or save it again") if path else None
            said = said.get("image_processor", said) if isinstance(said, dict) else {}
            if said.get("do_normalize", True) and said.get("image_mean") and said.get("image_std"):
                return _numbers(path, said["image_mean"]), _numbers(path, said["image_std"], above=0)
        return None

    def _if_there(self, name: str) -> Path | None:
        """A file that can be done without, as where the network that it would come from does not answer."""
        return self.find(name) if self.is_folder else _fetch_if_there(self, name)

    def _fetched(self, name: str) -> Path | None:
        is_fixed = self.revision is not None and COMMIT.fullmatch(self.revision)
        revision = self.revision if is_fixed or name in (CONFIG, _ALWAYS) else self.commit()
        return _fetch(self, name, revision)

    def elsewhere(self) -> str:
        """What to do where there is no network."""
        return (
            f"where there is a network, run `hf download {self.name} --local-dir FOLDER`, and give "
            f"{'that folder' if self.given_as == 'name' else 'its file of weights'} as `{self.given_as}`"
        )


@cache
def _fetch(repository: Repository, name: str, revision: str | None) -> Path | None:
    """A file of the hub's cache, fetched if need be; None where there is none. Asked once a process."""
    wanted = Wanted(repository.name, name, revision, repository.local_files_only)
    return fetch_file(wanted, asked_as=repository.name, elsewhere=repository.elsewhere())


@cache
def _fetch_if_there(repository: Repository, name: str) -> Path | None:
    """Asked once a process, as a network that does not answer takes its time."""
    try:
        return repository.find(name)
    except CheckpointError:
        return None


def asked_anew() -> None:
    """Forget what a hub has answered."""
    _fetch.cache_clear()
    _fetch_if_there.cache_clear()


def read_tensors(files: Repository, *names: str) -> tuple[Path, dict[str, Tensor]]:
    """The weights of a network by name, and the file to blame: of one file, or of all that an index lists.

    names: how the file may be called, where it is not as usual.
    """
    from medfuse.model.checkpoints import read_plain

    for name in names or _WEIGHTS:
        if path := files.find(name):
            return path, read_plain(path)
        if index := files.find(f"{name}.index.json"):
            said = read_json(index, raises=CheckpointError, remedy=_REMEDY)
            parts = said.get("weight_map") if isinstance(said, dict) else None
            each = {*parts.values()} if isinstance(parts, dict) else set()
            if not each or not all(isinstance(part, str) and "/" not in part for part in each):
                raise CheckpointError(f"{index}: does not say which file has which tensor; {_REMEDY}")
            whole: dict[str, Tensor] = {}
            for part in sorted(each):
                whole |= read_plain(files.file(part))
            return index, whole
    raise CheckpointError(
        f"{files.name}: has no {' and no '.join(names or _WEIGHTS)}; give one that has weights for torch"
    )


def _front_matter(card: Path) -> Mapping[str, Any]:
    """The mapping between two lines of --- at the head of a model card; an empty one where there is none."""
    import yaml

    try:
        text = read_text(card, raises=CheckpointError, most_bytes=LARGEST_CARD)
        head = text.lstrip().split("\n---", 1)[0]
        said = yaml.safe_load(head[3:]) if head.startswith("---") else {}
    except (CheckpointError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _numbers(path: Path | None, said: Any, above: float | None = None) -> tuple[float, ...]:
    numbers = said if isinstance(said, list) else [said]
    if not all(isinstance(n, int | float) and (above is None or n > above) for n in numbers) or not numbers:
        raise CheckpointError(f"{path}: image_mean and image_std are no numbers for each channel; mend it")
    return tuple(float(n) for n in numbers)
