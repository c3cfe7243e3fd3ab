"""Which cases are one patient's: DICOM says it, or the names of cases tell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from medfuse.api import Case
from medfuse.core.text import listed
from medfuse.volumes.dicom.index import patient_of

_TIMES = "ed|es|pre|post|baseline|followup|follow-up"
_WORDS = "frame|time|timepoint|tp|t|visit|v|scan|session|ses|s|series|study|acq|run|phase|ph|part|rep|day|d"
_ENDS = (f"(?:{_TIMES})", f"(?:{_WORDS})[_-]?\\d{{1,4}}", r"\d{1,3}", "[A-Za-z]")
"""What stands behind a patient's name, after _, - or a point: the likeliest first."""
FEWEST_PATIENTS = 5
"""As many as there are folds."""
MOST_CASES = 20
"""Of one patient: where more share the beginning of their names, it is a hospital's or the dataset's; where
more share a PatientID, it is what an anonymiser wrote."""


def with_patients(cases: Sequence[Case]) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Cases with the patients that DICOM says they are of, and what to tell of it.

    What the dataset says itself holds. A PatientID that all cases share, or more than MOST_CASES of them, is
    nobody's, and these are patients of their own. Raises DataError.
    """
    said = [dict.fromkeys(filter(None, map(patient_of, case.images))) for case in cases]
    told = [
        f"case {case.name}: its images say that they are of different patients ({listed([*found], 4)}); it "
        f"counts as {next(iter(found))}'s"
        for case, found in zip(cases, said)
        if len(found) > 1 and case.patient is None
    ]
    whose = [case.patient or next(iter(found), None) for case, found in zip(cases, said)]
    shared = Counter(who for case, who in zip(cases, whose) if who and case.patient is None)
    nobodys = {who for who, n in shared.items() if n > MOST_CASES or 1 < n == len(cases)}
    told += [
        f"{shared[who]} of {len(cases)} cases say the same PatientID {who!r}, which is taken for an "
        "anonymiser's: each counts as a patient of its own; `split: {group: …}` or a CSV's column `patient` "
        "says who is who"
        for who in nobodys
    ]
    known = (
        case if case.patient or who in nobodys else replace(case, patient=who)
        for case, who in zip(cases, whose)
    )
    return tuple(known), tuple(sorted(told))


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
