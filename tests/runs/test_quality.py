"""A cross-validation tells of the quality of label maps: what it writes, and what `infer` makes of it."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from phantoms import write_dataset, write_pipeline

from medfuse.core.errors import CheckpointError
from medfuse.core.reporter import Reporter
from medfuse.trained.predictor import Predictor


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cubes in three folds, of which each case is judged once."""
    from medfuse.verbs.folds import run_folds

    home = tmp_path_factory.mktemp("folds")
    data = write_dataset(home / "cubes", cases=12)
    (data / "splits_final.json").unlink()
    pipeline = write_pipeline(home / "cubes.yaml", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medfuse.report.html.page", lambda content: "")
        patch.setattr("medfuse.runs.viewing.write_viewer", lambda run, evaluation: ({}, ""))
        how = ["split.folds=3", "train.steps=30", "train.steps_per_epoch=30"]
        run_folds(pipeline, how, runs=home / "runs", reporter=Reporter(quiet=True))
    return home


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["cases"])


def inferred(home: Path, output: Path, *words: Any, medfuse: Any, run: str = "") -> Any:
    where = home / "runs" / "cubes" / run
    said = medfuse("infer", where, "-i", home / "cubes" / "imagesTr", "-o", output, "--device", "cpu", *words)
    assert said.code == 0, said.err
    return said


@pytest.mark.slow
def test_every_case_is_judged_once_and_its_scores_are_kept(folds: Path) -> None:
    run = folds / "runs" / "cubes"
    rows = [*csv.DictReader((run / "quality_out_of_fold.csv").read_text().splitlines())]
    assert sorted(row["case"] for row in rows) == [f"cube_{n:02d}" for n in range(12)]
    told = json.loads((run / "summary.json").read_text())["quality"]["cube"]
    assert told["cases"] == 12
    assert {*told["aurc"]} == {"expected", "entropy", "volume"}
    assert "<svg" not in (run / "quality.html").read_text()
    assert "risk against coverage of cube" in (run / "quality.html").read_text()


@pytest.mark.slow
def test_new_scans_are_held_against_it(folds: Path, medfuse: Any, tmp_path: Path) -> None:
    said = inferred(folds, tmp_path / "out", medfuse=medfuse)
    assert "of 12 scans" in said.out
    for entry in manifest(tmp_path / "out").values():
        own = entry["quality"]["cube"]
        assert 0 <= own["expected"] <= 1
        assert own["folds"] > 0
    rows = [*csv.DictReader((tmp_path / "out" / "quality.csv").read_text().splitlines())]
    assert len(rows) == 12
    assert rows == sorted(rows, key=lambda row: (row["look"] != "yes", float(row["expected"])))


@pytest.mark.slow
def test_one_of_its_folds_is_held_against_it_too(folds: Path, medfuse: Any, tmp_path: Path) -> None:
    inferred(folds, tmp_path / "out", medfuse=medfuse, run="fold_1")
    assert all("expected" in one["quality"]["cube"] for one in manifest(tmp_path / "out").values())


@pytest.mark.slow
def test_workers_say_the_same(folds: Path, medfuse: Any, tmp_path: Path) -> None:
    inferred(folds, tmp_path / "one", medfuse=medfuse)
    inferred(folds, tmp_path / "two", "--workers", 2, medfuse=medfuse)
    tables = [(tmp_path / name / "quality.csv").read_bytes() for name in ("one", "two")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_other_windows_leave_no_bound(folds: Path, medfuse: Any, tmp_path: Path) -> None:
    inferred(folds, tmp_path / "out", "--set", "overlap=0.25", medfuse=medfuse)
    for entry in manifest(tmp_path / "out").values():
        own = entry["quality"]["cube"]
        assert "lower" not in own
        assert "overlap 0.25 in place of 0.5" in own["reasons"]


@pytest.mark.slow
def test_other_weights_are_not_held_against_it(folds: Path, tmp_path: Path) -> None:
    shutil.copytree(folds / "runs" / "cubes", tmp_path / "cubes")
    content = json.loads((tmp_path / "cubes" / "quality.json").read_text())
    content["weights"] = ["0" * 64]
    (tmp_path / "cubes" / "quality.json").write_text(json.dumps(content))
    assert Predictor.load(tmp_path / "cubes" / "fold_0", device="cpu")._trained.calibration is None


@pytest.mark.slow
def test_one_that_is_damaged_is_a_line(folds: Path, tmp_path: Path) -> None:
    shutil.copytree(folds / "runs" / "cubes", tmp_path / "cubes")
    (tmp_path / "cubes" / "quality.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"quality\.json.*remove it"):
        Predictor.load(tmp_path / "cubes" / "fold_0", device="cpu")


@pytest.mark.slow
def test_a_table_that_somebody_changed_stays(
    folds: Path, medfuse: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inferred(folds, tmp_path / "out", medfuse=medfuse)
    table = tmp_path / "out" / "quality.csv"
    inferred(folds, tmp_path / "out", medfuse=medfuse)
    table.write_text(table.read_text() + "mine\n")
    inferred(folds, tmp_path / "out", medfuse=medfuse)
    assert table.read_text().endswith("mine\n")
    assert "so the table of scores is not written" in caplog.text
    inferred(folds, tmp_path / "out", "--overwrite", medfuse=medfuse)
    assert "mine" not in table.read_text()
