"""A pipeline of phantoms with a space around it."""

from pathlib import Path
from typing import Any

from phantoms import write_dataset, write_pipeline

from medfuse.core.document import Document
from medfuse.searching.admitted import Gate
from medfuse.searching.combination import Space
from medfuse.space.dimensions import read_dimension


def gate(folder: Path, space: dict[str, Any], *overrides: str) -> Gate:
    document = Document.load(
        write_pipeline(folder / "cubes.yaml", write_dataset(folder / "cubes")), overrides
    )
    made = Space(document, "cubes", {key: read_dimension(value) for key, value in space.items()})
    return Gate(made, made.combine({}).pipeline.data.read())
