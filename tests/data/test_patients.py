"""Patients that only the names of their cases tell."""

import re

import pytest

from medfuse.data.patients import FEWEST_PATIENTS, group_of


def patients(names) -> set[str]:
    expression = group_of(names)
    assert expression is not None
    return {re.search(expression, name)[1] for name in names}


@pytest.mark.parametrize(
    "ends",
    [
        ("ed", "es"),
        ("ED", "ES"),
        ("frame01", "frame12"),
        ("t1", "t2", "t3"),
        ("visit_1", "visit_2"),
        ("pre", "post"),
        ("1", "2"),
        ("01", "02", "03"),
        ("a", "b"),
    ],
)
@pytest.mark.parametrize("joint", ["_", "-"])
def test_scans_of_one_patient_are_known_by_the_end_of_their_names(ends, joint):
    names = [f"patient{p:03d}{joint}{end}" for p in range(12) for end in ends]
    assert patients(names) == {f"patient{p:03d}" for p in range(12)}


def test_some_patients_may_have_one_scan():
    names = [f"p{p:02d}_t{t}" for p in range(10) for t in range(1 if p % 3 == 0 else 2)]
    assert len(patients(names)) == 10


@pytest.mark.parametrize(
    "names",
    [
        [f"hippocampus_{n:03d}" for n in range(200)],
        [f"BRATS_{n:03d}" for n in range(40)],
        [f"patient{n:03d}" for n in range(40)],
        [f"site{s}_{n:03d}" for s in range(6) for n in range(40)],  # 40 of one hospital
        [f"{year}_{n:02d}" for year in range(2015, 2021) for n in range(30)],
        [f"case_{n}" for n in range(5)] + ["phantom"],
        [f"p{p}_{end}" for p in range(FEWEST_PATIENTS - 1) for end in ("ed", "es")],
        [],
    ],
    ids=lambda names: names[0] if names else "none",
)
def test_other_names_tell_of_no_patients(names):
    assert group_of(names) is None
