"""What models were given that differs, so that a difference of their Dice may be one of budgets."""

from __future__ import annotations

from collections.abc import Sequence

from medfuse.core.text import number
from medfuse.report.candidates import Candidate

_ALIKE = 1.1  # clocks differ by so much on one machine
_TOLD = (
    ("minutes of training", "minutes", 1),
    ("cases that it learned from", "cases", 0),
    ("seeds", "seeds", 0),
)


def unequal(candidates: Sequence[Candidate]) -> list[str]:
    """A line for each budget that is not the same for all."""
    lines = []
    for what, key, digits in _TOLD:
        found = {c.name: value for c in candidates if (value := _given(c, key))}
        if len(found) < 2:
            continue
        most, least = max(found.values()), min(found.values())
        if most > least * (_ALIKE if key == "minutes" else 1):
            while number(most, digits) == number(least, digits):
                digits += 1
            each = ", ".join(f"{name} {number(value, digits)}" for name, value in found.items())
            lines.append(f"unequal budgets: {what}: {each}; a difference in Dice may be one of these")
    steps = {c.name: c.steps for c in candidates if c.steps}
    if len(steps) > 1 and max(steps.values()) > min(steps.values()) * _ALIKE:
        each = ", ".join(f"{name} {number(value, 0)}" for name, value in steps.items())
        lines.append(f"unequal steps: {each}")
    return lines


def _given(candidate: Candidate, key: str) -> float | None:
    if key == "minutes":
        return None if candidate.seconds is None else candidate.seconds / 60
    return float(candidate.seeds()) if key == "seeds" else candidate.cases
