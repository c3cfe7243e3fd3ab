"""What a run of medfuse reached, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def reached(folder: Path) -> dict[str, Any]:
    """Dice of the held-out cases, what the training took, and what it foretold of a longer one."""
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "dice": summary["foreground_mean"]["Dice"],
        "labels": [summary["mean"][str(value)]["Dice"] for value in summary["labels"].values()],
        "steps": max(row["step"] for row in rows),
        "minutes": max(row["seconds"] for row in rows) / 60,
        "cases": summary["cases"],
        "outlook": next((note for note in summary["notes"] if note.startswith("outlook: ")), None),
    }
