"""Which cases are one patient's, where only their names tell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_TIMES = "ed|es|pre|post|baseline|followup|follow-up"
_WORDS = "frame|time|timepoint|tp|t|visit|v|scan|session|ses|s|series|study|acq|run|phase|ph|part|rep|day|d"
_ENDS = (f"(?:{_TIMES})", f"(?:{_WORDS})[_-]?\\d{{1,4}}", r"\d{1,3}", "[A-Za-z]")
"""What stands behind a patient's name, after _, - or a point: the likeliest first."""
FEWEST_PATIENTS = 5
"""As many as there are folds."""
MOST_CASES = 20
"""Of one patient: where more share the beginning of their names, it is a hospital's or the dataset's."""


def group_of(names: Sequence[str]) -> str | None:
    """A regular expression whose first group is the patient, for `split.group`; None where names tell none.

    All names have to fit it, half of them have to share a patient with another, and a patient has no more
    than MOST_CASES.
    """
    for end in _ENDS:
        expression = f"^(.+)[_.-]{end}$"
        found = [re.search(expression, name, re.IGNORECASE) for name in names]
        if not names or not all(found):
            continue
        cases = Counter(match[1] for match in found if match)
        shared = sum(count for count in cases.values() if count > 1)
        if len(cases) >= FEWEST_PATIENTS and 2 * shared >= len(names) and max(cases.values()) <= MOST_CASES:
            return f"(?i){expression}"
    return None
