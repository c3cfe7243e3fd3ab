"""A network in a MONAI bundle that medfuse wrote: its tensors in model.pt, its facts beside, both checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import read_json
from medfuse.model.checkpoints import read_plain
from medfuse.model.hub import BUNDLED, BUNDLED_FACTS
from medfuse.model.weights import content_hash

MODEL, FACTS = BUNDLED, BUNDLED_FACTS
_HASH, _CONSTANTS = "sha256", "constants"
_REMEDY = "export the bundle again"


def facts_of_bundle(state: Mapping[str, Tensor], facts: Mapping[str, Any], constants: str) -> dict[str, Any]:
    """What stands beside model.pt. constants: below which name tensors lie that the network has not."""
    own = {name: tensor for name, tensor in state.items() if not name.startswith(f"{constants}.")}
    return {"facts": dict(facts), _CONSTANTS: constants, _HASH: content_hash(own, facts)}


def is_bundled(path: Path) -> bool:
    """Whether it is the model.pt of such a bundle."""
    return path.name == Path(MODEL).name and (path.parents[1] / FACTS).is_file()


def load_bundled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts of a bundle's model.pt; nothing in it is run. Raises CheckpointError."""
    beside = path.parents[1] / FACTS
    said = read_json(beside, raises=CheckpointError, remedy=_REMEDY)
    facts = said.get("facts") if isinstance(said, Mapping) else None
    if not isinstance(facts, dict) or not isinstance(said.get(_CONSTANTS), str):
        raise CheckpointError(f"{beside}: does not say which model this is; {_REMEDY}")
    own = read_plain(path)
    state = {name: tensor for name, tensor in own.items() if not name.startswith(f"{said[_CONSTANTS]}.")}
    if said.get(_HASH) != content_hash(state, facts):
        raise CheckpointError(
            f"{path}: is damaged, or another than {beside.name} tells of (its hash is not that of its "
            f"content); {_REMEDY}"
        )
    return state, facts
