"""`medfuse info`: what a model is."""

from __future__ import annotations

import json
from pathlib import Path

from medfuse.sharing.described import describe
from medfuse.sharing.text import lines


def model_text(path: Path) -> str:
    """What is known of a model, for people. Raises CheckpointError for what is none."""
    return "\n".join(lines(describe(path)))


def model_json(path: Path) -> str:
    """The same as JSON, in the form of medfuse.json."""
    return json.dumps(describe(path).model_dump(mode="json"), indent=2)
