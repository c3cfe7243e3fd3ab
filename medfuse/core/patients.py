"""Which cases are of one patient, where their names tell it."""

from __future__ import annotations

import re
from collections.abc import Iterable


def patient_pattern(text: str) -> str:
    """`text`, a regular expression whose first group is the patient. Raises ValueError."""
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression ({error}); mend it") from None
    if groups < 1:
        raise ValueError(f"{text!r} has no group; put brackets around the part that names the patient")
    return text


def patients_in(names: Iterable[str], pattern: str) -> dict[str, str]:
    """Name → patient. Raises ValueError with the names in which there is none."""
    found = {name: re.search(pattern, name) for name in names}
    if unfit := sorted(name for name, match in found.items() if match is None or match[1] is None):
        raise ValueError(f"{pattern!r} finds no patient in {', '.join(unfit[:5])}; widen the expression")
    return {name: match[1] for name, match in found.items() if match}
