"""A trained model as exports take it, and the files that all of them have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import MedfuseError
from medfuse.sharing.card import page
from medfuse.sharing.clean import cleaned
from medfuse.sharing.described import describe
from medfuse.sharing.description import FILE, Description
from medfuse.sharing.label_table import LABELS, label_table
from medfuse.sharing.licenses import license_text
from medfuse.sharing.text import source_text
from medfuse.trained.loading import load_trained, read_weights

if TYPE_CHECKING:
    from medfuse.trained.trained import Trained

FINGERPRINT = "fingerprint.json"


@dataclass(frozen=True, eq=False)
class SharedModel:
    """weights: its file. facts: what that says, without a trace of where it was made."""

    weights: Path
    facts: Mapping[str, Any]
    description: Description
    trained: Trained

    @property
    def name(self) -> str:
        return self.description.name or "model"

    def write_weights(self, path: Path) -> None:
        """Tensors and facts as medfuse reads them; the very file where its facts tell of no place."""
        from medfuse.model.weights import save_tensors

        state, said = read_weights(self.weights)
        if said == self.facts and self.weights.suffix == ".safetensors":
            path.write_bytes(self.weights.read_bytes())
        else:
            save_tensors(path, state, self.facts)

    def write_about(
        self, folder: Path, run: Sequence[str], *, readme: str = "README.md", head: str = ""
    ) -> None:
        """What goes with every format: the page, the description, the labels, the licence."""
        said = self.description
        (folder / readme).parent.mkdir(parents=True, exist_ok=True)
        (folder / readme).write_text(head + page(said, run), encoding="utf-8")
        write_json(folder / FILE, said.model_dump(mode="json"))
        (folder / LABELS).write_text(label_table(said.labels), encoding="utf-8")
        sources = [f"- {source_text(source)}" for source in said.sources]
        (folder / "LICENSE").write_text(license_text(said.license, sources), encoding="utf-8")
        if said.seen is not None:
            write_json(folder / FINGERPRINT, said.seen.model_dump(mode="json"))


def shared_model(weights: Path, *, license: str = "", trust: str | Iterable[str] = ()) -> SharedModel:
    """The model of a weights file, under a licence by its SPDX name. Raises MedfuseError."""
    trained = load_trained([weights], device="cpu", trust=trust)
    if trained.before is not None:
        raise MedfuseError(
            f"{weights}: is one of the two stages of a cascade, which are run from their folder"
        )
    described = describe(weights)
    if license:
        described = described.model_copy(update={"license": license})
    facts = {**cleaned(read_weights(weights)[1]), **quality_of(trained)}
    return SharedModel(weights, facts, described, trained)


def quality_of(trained: Trained) -> dict[str, Any]:
    """What the facts of an exported network say of the quality of its label maps, if anything is known."""
    known = trained.calibration
    return {"quality": {**known.to_json(), "told": {}}} if known is not None else {}


def write_json(path: Path, value: Any) -> None:
    """In a folder that is not yet where it will be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
