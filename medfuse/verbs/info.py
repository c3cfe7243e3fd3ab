"""`medfuse info`: what a model is."""

from __future__ import annotations

from pathlib import Path

from medfuse.core.result import Result
from medfuse.sharing.described import describe
from medfuse.sharing.text import lines


def model_info(path: Path) -> Result:
    """What is known of a model; its values have the form of medfuse.json. Raises CheckpointError for what is
    none.
    """
    said = describe(path)
    return Result("\n".join(lines(said)), said.model_dump(mode="json"))
