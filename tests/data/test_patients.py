"""Patients that DICOM says, or that only the names of their cases tell."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scanner

from medfuse.api import Case, DatasetInfo
from medfuse.data.patients import FEWEST_PATIENTS, group_of, with_patients
from medfuse.data.settings import SplitSettings
from medfuse.data.split import all_splits
from medfuse.data.split import patients as patients_of
from medfuse.planning.trials import inner_split
from medfuse.volumes.dicom.index import index_all, patient_of
from medfuse.volumes.dicom.series import Scans


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


def series(root, patients, hashed=False):
    """A labelled case for each PatientID, one after the other."""
    cases = []
    for n, patient in enumerate(patients):
        scanner.write(root / f"c{n}", scanner.voxels((4, 4, 3), seed=n), patient=patient, number=n)
        (image,) = index_all(root / f"c{n}", Scans(hashed=hashed))
        cases.append(Case(f"c{n}", (image,), root / "label.nii.gz"))
    return cases


def test_dicom_says_whose_a_scan_is(tmp_path):
    cases, notes = with_patients(series(tmp_path, ["A", "B", "A ", "", "C"]))
    assert [case.patient for case in cases] == ["A", "B", "A", None, "C"]
    assert notes == ()


def test_hashed_names_say_nobodys_patient_and_the_same_cases_are_together(tmp_path):
    ids = ["Meier 1950", "Meier 1950", "Huber 1960"]
    cases, _ = with_patients(series(tmp_path, ids, hashed=True))
    assert cases[0].patient == cases[1].patient != cases[2].patient
    assert not any(
        word in case.images[0].read_text() for case in cases for word in ("Meier", "1950", "Huber")
    )


def test_what_the_dataset_says_holds(tmp_path):
    cases = [replace(c, patient="own") for c in series(tmp_path, ["A", "B"])]
    assert [case.patient for case in with_patients(cases)[0]] == ["own", "own"]


@pytest.mark.parametrize("ids", [["ANON"] * 3, ["ANON"] * 23 + ["B", "B"]], ids=["all", "too many"])
def test_what_an_anonymiser_wrote_is_nobody(ids, monkeypatch):
    monkeypatch.setattr("medfuse.data.patients.patient_of", lambda path: path.name)
    cases, (note,) = with_patients([Case(f"c{n}", (Path(who),)) for n, who in enumerate(ids)])
    assert [case.patient for case in cases] == [None if who == "ANON" else who for who in ids]
    assert f"{ids.count('ANON')} of {len(ids)} cases say the same PatientID 'ANON'" in note


def test_images_of_different_patients_in_one_case_are_told(tmp_path):
    one, two = series(tmp_path, ["A", "B"])
    (case,), (note,) = with_patients([replace(one, images=(*one.images, *two.images))])
    assert case.patient == "A"
    assert "c0: its images say that they are of different patients (A, B)" in note


def test_series_found_by_an_earlier_version_are_read(tmp_path):
    (case,) = series(tmp_path, ["A"])
    index = json.loads(case.images[0].read_text())
    del index["patient"]
    case.images[0].write_text(json.dumps(index | {"format": "medfuse DICOM series 2"}))
    assert patient_of(case.images[0]) == ""


@pytest.mark.parametrize("seed", range(3))
def test_no_fold_parts_a_patient(monkeypatch, seed):
    monkeypatch.setattr("medfuse.data.patients.patient_of", lambda path: path.name)
    ids = [f"P{n}" for n in np.random.default_rng(seed).integers(0, 8, 24)]
    cases, _ = with_patients([Case(f"c{n}", (Path(w),), Path("l")) for n, w in enumerate(ids)])
    info = DatasetInfo(cases, {"background": 0, "a": 1}, ("CT",))
    whose = {case.name: case.patient for case in cases}
    folds = min(5, len({*ids}))
    _, splits = all_splits(info, SplitSettings(seed=seed, folds=folds), ())
    for split in splits:
        assert not {whose[n] for n in split.train} & {whose[n] for n in split.validation}
        inner = inner_split(split, patients_of(cases, SplitSettings()), seed)
        assert not {whose[n] for n in inner.train} & {whose[n] for n in inner.validation}
