import json
from pathlib import Path

import numpy as np
import pytest

from medfuse.report.evaluate import EvaluatedCase, Evaluation
from medfuse.report.metrics import case_metrics
from medfuse.report.pairs import Pair
from medfuse.report.summary import summarise, write_summary

LABELS = {"liver": 1, "tumour": 2, "absent": 3}


def case(name: str, prediction: list[int], reference: list[int]) -> EvaluatedCase:
    arrays = (np.array(values, np.uint8).reshape(-1, 1, 1) for values in (prediction, reference))
    return EvaluatedCase(
        Pair(name, Path(f"p/{name}.nii"), Path(f"r/{name}.nii")), case_metrics(*arrays, LABELS, (1, 1, 1))
    )


@pytest.fixture
def evaluation() -> Evaluation:
    """liver: Dice 1 and 2/3; tumour: missed once, then absent in both; absent: nowhere."""
    cases = (case("a", [1, 1, 0, 0], [1, 1, 2, 0]), case("b", [1, 0, 0, 0], [1, 1, 0, 0]))
    return Evaluation(cases, LABELS, 2.0, errors=("c: broken",))


def test_foreground_mean_is_the_mean_of_the_shown_means(evaluation):
    summary = summarise(evaluation)
    shown = [row["Dice"] for row in summary["mean"].values() if row["Dice"] is not None]
    assert summary["foreground_mean"]["Dice"] == pytest.approx(sum(shown) / len(shown))
    assert summary["foreground_n"]["Dice"] == len(shown) == 2


def test_a_label_s_mean_is_that_of_its_shown_cases(evaluation):
    summary = summarise(evaluation)
    shown = [c["metrics"]["1"]["Dice"] for c in summary["metric_per_case"]]
    assert summary["mean"]["1"]["Dice"] == pytest.approx(sum(shown) / 2) == pytest.approx(5 / 6, abs=1e-6)


def test_every_mean_has_its_n(evaluation):
    summary = summarise(evaluation)
    assert (summary["n"]["1"]["Dice"], summary["n"]["2"]["Dice"], summary["n"]["3"]["Dice"]) == (2, 1, 0)
    assert (summary["mean"]["2"]["HD95"], summary["n"]["2"]["HD95"]) == (None, 0)


def test_outcomes_are_counted_per_label(evaluation):
    assert summarise(evaluation)["outcomes"]["2"] == {
        "found": 0, "missed": 1, "false alarm": 0, "absent in both": 1,
    }  # fmt: skip


def test_an_absent_label_is_null_in_the_file(evaluation, tmp_path):
    write_summary(tmp_path / "summary.json", evaluation)
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["mean"]["3"]["Dice"] is None


def test_nnunet_s_keys_are_there(evaluation):
    summary = summarise(evaluation)
    assert {"foreground_mean", "mean", "metric_per_case"} <= set(summary)
    first = summary["metric_per_case"][0]
    assert (first["prediction_file"], first["reference_file"]) == ("p/a.nii", "r/a.nii")
    assert {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"} <= set(first["metrics"]["1"])


def test_what_is_measured_is_said_in_words(evaluation):
    summary = summarise(evaluation)
    named = {*summary["definitions"]}
    assert {"Dice", "HD95", "NSD", *summary["outcomes"]["1"]} - {"found"} <= named
    assert "2 mm" in summary["definitions"]["NSD"]


def test_cases_that_could_not_be_judged_are_kept(evaluation):
    assert summarise(evaluation)["errors"] == ["c: broken"]


def test_a_summary_of_no_case_has_no_mean():
    summary = summarise(Evaluation((), {"liver": 1}, 2.0))
    assert (summary["foreground_mean"]["Dice"], summary["foreground_n"]["Dice"]) == (None, 0)


@pytest.mark.parametrize("cases", [1, 2, 6])
def test_where_all_label_maps_are_empty_nothing_has_a_mean(cases, tmp_path):
    nothing = Evaluation(tuple(case(f"c{n}", [0, 0], [0, 0]) for n in range(cases)), {}, 2.0)
    summary = write_summary(tmp_path / "summary.json", nothing)
    assert (summary["cases"], summary["mean"]) == (cases, {})
    assert summary["foreground_mean"]["Dice"] is None
    assert summary["intervals"] == {"foreground_mean": {}}
