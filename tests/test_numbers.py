"""One name stands for one number, and every mean says over how many cases it is taken."""

import json
import re
from html import unescape
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medfuse.report.candidates import MEAN, Candidate
from medfuse.report.compare import compare
from medfuse.report.comparison_text import table
from medfuse.report.evaluate import evaluate_folders
from medfuse.report.html import ReportContent, page
from medfuse.report.summary import summarise
from medfuse.runs.folds import summarise_folds
from medfuse.verbs.compare import dice_of_cases
from medfuse.verbs.folds import CrossValidated
from medfuse.verbs.run import RunResult

LABELS = {"often": 1, "rare": 2}


def stored(path: Path, values: list[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    array = np.array(values, np.uint8).reshape(-1, 1, 1)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """`rare` is in one of three cases and missed there; `often` is missed once, so HD95 is of two."""
    maps = {
        "a": ([1, 1, 0, 0, 0], [1, 1, 0, 0, 0]),
        "b": ([1, 0, 0, 0, 0], [1, 1, 0, 2, 0]),
        "c": ([0, 0, 0, 0, 0], [1, 0, 0, 0, 0]),
    }
    for name, (prediction, reference) in maps.items():
        stored(tmp_path / "pred" / f"{name}.nii", prediction)
        stored(tmp_path / "ref" / f"{name}.nii", reference)
    return tmp_path / "pred", tmp_path / "ref"


def test_mean_foreground_dice_is_one_number_wherever_it_is_told(folders, medfuse):
    evaluation = evaluate_folders(*folders, LABELS)
    summary = summarise(evaluation)
    number = summary["foreground_mean"]["Dice"]
    assert number == pytest.approx(((1 + 2 / 3 + 0) / 3 + 0) / 2, abs=1e-6)

    low, high = (summary["intervals"]["foreground_mean"]["Dice"]["mean"][key] for key in ("low", "high"))
    told = f"mean foreground Dice: {number:.4f} [{low:.4f}, {high:.4f}] (95 %, 3 patients, 2 labels)"
    assert told in RunResult(Path("runs/x"), evaluation).text()
    assert told in CrossValidated(Path("runs/x"), summarise_folds({0: evaluation})).text()
    assert told in medfuse("evaluate", *folders, "--label", "often=1", "--label", "rare=2").out
    assert json.loads((folders[0] / "summary.json").read_text())["foreground_mean"]["Dice"] == number
    assert f"{number:.3f} <span>mean foreground Dice: 2 labels, 3 cases" in page(
        ReportContent("x", "today", evaluation)
    )

    one, two = (Candidate(name, dice_of_cases([summary]), 1) for name in ("one", "two"))
    head, row = (re.split(r"\s{2,}", line) for line in table(compare([one, two])).splitlines()[:2])
    assert head[1] == MEAN == told.partition(":")[0]
    assert row[1:3] == [f"{number:.4f}", f"[{low:.4f}, {high:.4f}]"]


def test_every_mean_tells_over_how_many_cases_it_is(folders, medfuse):
    said = medfuse("evaluate", *folders, "--label", "often=1", "--label", "rare=2").out
    rows = {line.split()[0]: line for line in said.splitlines()}
    assert re.findall(r"\(\d\)", rows["often"]) == ["(3)", "(2)", "(3)"]  # Dice, HD95, NSD
    assert re.findall(r"\(\d\)", rows["rare"]) == ["(1)", "(0)", "(1)"]

    evaluation = evaluate_folders(*folders, LABELS)
    assert summarise(evaluation)["n"]["1"] | {"HD95": 2, "Dice": 3} == summarise(evaluation)["n"]["1"]
    assert "(n 2)" in page(ReportContent("x", "today", evaluation))
    candidate = Candidate("one", dice_of_cases([summarise(evaluation)]), 1)
    assert [candidate.n(label) for label in (MEAN, "often", "rare")] == [3, 3, 1]


def test_cases_of_one_patient_are_one_draw(folders, medfuse):
    for name in ("p1_b", "p2_a"):
        for folder in folders:
            (folder / f"{name[3:]}.nii").rename(folder / f"{name}.nii")
    for folder in folders:
        (folder / "c.nii").rename(folder / "p1_c.nii")
    said = medfuse("evaluate", *folders, "--label", "often=1", "--patient", "^(p[0-9])_").out
    assert "(95 %, 2 patients, 3 cases, 1 label)" in said
    summary = json.loads((folders[0] / "summary.json").read_text())
    assert [case["patient"] for case in summary["metric_per_case"]] == ["p1", "p1", "p2"]
    assert summary["patients"] == 2


@pytest.mark.parametrize(
    ("pattern", "told"),
    [("(", "is no regular expression"), ("p", "has no group"), ("(z)", "finds no patient in a, b, c")],
)
def test_a_pattern_that_names_no_patient_is_told(folders, medfuse, pattern, told):
    said = medfuse("evaluate", *folders, "--patient", pattern)
    assert (said.code, told in said.err) == (2, True)
    assert not (folders[0] / "summary.json").exists()


def test_small_n_is_said_wherever_its_mean_is(folders, medfuse):
    said = medfuse("evaluate", *folders, "--label", "often=1").out
    evaluation = evaluate_folders(*folders, {"often": 1})
    run = RunResult(Path("runs/x"), evaluation)
    for text in (said, run.text(), page(ReportContent("x", "", evaluation))):
        assert "3 patients, n too small for a claim" in text
        assert "intervals: Student's t over patients" in unescape(text)
