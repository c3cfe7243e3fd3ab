"""Planted faults are found and named, and sound cases beside them are not."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from anatomy import dataset

from medfuse.data.detect import detect
from medfuse.data.doctor.doctor import diagnose
from medfuse.data.doctor.exam import Exam

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CASES = 24
EVERYWHERE = (
    "shift",
    "flip",
    "scale",
    "orientation",
    "permuted",
    "cut",
    "gap",
    "copy",
    "spacing",
    "grid",
    "empty",
    "inverted",
    "modality",
    "value",
)


@pytest.fixture(scope="module")
def planting() -> ModuleType:
    """The benchmark, which is no part of the package, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("doctor")


@pytest.fixture(scope="module", params=["mr", "ct"])
def sound(request, tmp_path_factory, planting):
    """What the dataset is, and its sound cases, examined."""
    info = detect(dataset(tmp_path_factory.mktemp(request.param), CASES, ct=request.param == "ct")).info
    return info, planting.examined(info.cases, info)


def planted(planting, sound, kind: str, folder: Path, number: int = 5, seed: int = 2) -> list[Exam]:
    info, exams = sound
    random = np.random.default_rng(seed)
    others = [planting.Files.of(exams[n].case) for n in (1, 9, 17)]
    faulty = getattr(planting, kind)(planting.Files.of(exams[number].case), others, random)
    case = faulty.write(folder, exams[number].case)
    return [*exams[:number], *planting.examined([case], info), *exams[number + 1 :]]


def test_sound_cases_are_no_matter(sound):
    info, exams = sound
    assert diagnose(exams, info).findings == ()
    assert diagnose(exams, info).notes == ()


@pytest.mark.parametrize("kind", EVERYWHERE)
def test_a_fault_is_named_and_nothing_else_is(planting, sound, kind, tmp_path):
    exams = planted(planting, sound, kind, tmp_path)
    found = diagnose(exams, sound[0]).findings
    wanted = planting.KINDS[getattr(planting, kind)]
    named = [f for f in found if f.kind in wanted]
    assert named
    assert {f.case for f in found} == {named[0].case}
    if kind != "copy":  # of two that are one, either
        assert named[0].case == exams[5].name


@pytest.mark.parametrize("seed", range(4))
def test_ct_in_other_units_is_named(planting, tmp_path, tmp_path_factory, seed):
    info = detect(dataset(tmp_path_factory.mktemp("ct"), 12, ct=True)).info
    exams = planted(planting, (info, planting.examined(info.cases, info) * 2), "not_hu", tmp_path, 5, seed)[
        :12
    ]
    (finding,) = diagnose(exams, info).findings
    assert finding.kind == "not_hu"


def test_few_cases_are_not_held_against_each_other_and_that_is_said(planting, sound, tmp_path):
    info, exams = sound
    for kind in ("shift", "flip", "cut", "inverted"):
        few = planted(planting, sound, kind, tmp_path)[3:7]
        found = diagnose(few, info)
        assert found.findings == ()
        assert "4 labelled cases can be held against each other, and 8 are needed" in found.notes[0]
    (alone,) = exams[:1]
    assert diagnose([alone], info).findings == ()


@pytest.mark.parametrize("kind", ["grid", "empty", "gap", "copy", "value"])
def test_what_a_case_shows_by_itself_is_told_of_few_as_well(planting, sound, kind, tmp_path):
    few = [*planted(planting, sound, kind, tmp_path)[4:6], *sound[1][8:10], sound[1][1]]
    assert [f.kind for f in diagnose(few, sound[0]).findings][:1] == [kind] or kind == "copy"


def test_several_faults_of_several_kinds_are_told_apart(planting, sound, tmp_path):
    exams = sound[1]
    for number, kind in ((3, "shift"), (8, "inverted"), (12, "empty")):
        (tmp_path / kind).mkdir()
        exams = planted(planting, (sound[0], exams), kind, tmp_path / kind, number)
    assert {(f.case, f.kind) for f in diagnose(exams, sound[0]).findings} == {
        (exams[3].name, "shift"),
        (exams[8].name, "inverted"),
        (exams[12].name, "empty"),
    }


def test_a_damaged_file_is_told_and_the_others_are_examined(planting, sound, tmp_path):
    info, exams = sound
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(exams[0].case.images[0].read_bytes()[:2000])
    broken = planting.examined([replace(exams[0].case, images=(path,))], info)
    (finding,) = diagnose([*broken, *exams[1:]], info).findings
    assert finding.kind == "unreadable"
    assert str(path) == finding.file


def test_a_label_that_lacks_is_told_beside_one_whose_value_is_another(planting, sound, tmp_path):
    info, exams = sound
    highest = max(np.unique(planting.Files.of(exams[0].case).label))
    for number, value in ((3, 0), (8, 77)):
        files = planting.Files.of(exams[number].case)
        (folder := tmp_path / str(number)).mkdir()
        label = np.where(files.label == highest, value, files.label)
        case = replace(files, label=label).write(folder, exams[number].case)
        exams = [*exams[:number], *planting.examined([case], info), *exams[number + 1 :]]
    found = {(f.case, f.kind) for f in diagnose(exams, info).findings}
    assert found == {(exams[3].name, "missing"), (exams[8].name, "value")}


def test_a_patient_that_is_there_many_times_is_a_line_each_time(planting, sound):
    info, exams = sound
    again = planting.examined([replace(exams[0].case, name=f"again{n}") for n in range(3)], info)
    few = [exams[0], *(replace(exam, case=replace(exam.case, images=(*exam.case.images, n)))
           for n, exam in enumerate(again))]  # fmt: skip
    copies = [f for f in diagnose(few, info).findings if f.kind == "copy"]
    assert [f.case for f in copies] == ["again0", "again1", "again2"]
    assert all(f"is the image of {exams[0].name} " in f.what for f in copies)
