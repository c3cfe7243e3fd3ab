"""Plans made by hand beside those of `medfuse init`: a grid on a dataset, and the table of results."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from phantoms import write_dataset

from medfuse.pipeline import load_pipeline

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHAPE, SPACING = (216, 256, 9), (1.5, 1.5, 8.0)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("plans")


@pytest.fixture
def grid(plans: ModuleType) -> ModuleType:
    return importlib.import_module("plan_grid")


def row(
    set_: str, plan: str, dice: float | None, minutes: float = 5, seed: int = 1, **more: Any
) -> dict[str, Any]:
    where = {"machine": "a processor", "cores": 2, "torch": "2", "load": 0.5, "date": "2026-01-02"}
    command = {"command": "python benchmarks/plans.py a b"}
    return {
        "set": set_,
        "plan": plan,
        "minutes": minutes,
        "seed": seed,
        "dice": dice,
        **where,
        **command,
        **more,
    }


def lines(text: str, begin: str) -> list[list[str]]:
    """The cells of the lines of a table that begin so."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(begin)
    ]


def test_the_table_sets_init_beside_the_best_of_the_grid(plans: ModuleType) -> None:
    rows = [
        row("a", "init", 0.80, foretold=1200, steps=1000, planning_seconds=30),
        row("a", "2d-whole-w16-b4-strong", 0.82),
        row("a", "3d-whole-w8-b2-mild", 0.70),
        row("a", "nnU-Net 3d_fullres", 0.50),
    ]
    (line,) = lines(plans.table(rows), "| 5 |")
    assert line[1:7] == ["a", "0.8000", "0.8200", "-0.0200", "2d-whole-w16-b4-strong", "0.5000"]
    assert line[7:] == ["1,200, 1,000", "10%"]


def test_means_are_over_the_sets_that_have_both(plans: ModuleType) -> None:
    rows = [
        row("a", "init", 0.8),
        row("a", "x", 0.9),
        row("b", "init", 0.7),
        row("b", "x", 0.6),
        row("c", "init", 0.1),
    ]
    mean = lines(plans.table(rows), "| 5 |")[-1]
    assert mean[1:5] == ["mean of 2", "0.7500", "0.7500", "+0.0000, least -0.1000"]


def test_seeds_are_averaged_and_minutes_kept_apart(plans: ModuleType) -> None:
    rows = [row("a", "init", 0.8), row("a", "init", 0.9, seed=2), row("a", "init", 0.95, minutes=10)]
    text = plans.table(rows)
    assert lines(text, "| 5 |")[0][2] == "0.8500"
    assert lines(text, "| 10 |")[0][2] == "0.9500"
    assert "2 seeds" in text


def test_what_failed_is_said_and_counts_for_nothing(plans: ModuleType) -> None:
    rows = [row("a", "init", None, failed="no"), row("a", "x", 0.5), row("a", "y", None, failed="no")]
    text = plans.table(rows)
    assert lines(text, "| 5 |")[0][2:6] == ["failed", "0.5000", "–", "x"]
    assert lines(text, "| y |") == [["y", "failed", "–"]]


def test_a_table_ranks_plans_that_have_every_set(plans: ModuleType) -> None:
    rows = [
        row("a", "x", 0.5),
        row("b", "x", 0.5),
        row("a", "y", 0.6),
        row("b", "y", 0.6),
        row("a", "z", 0.99),
    ]
    below = plans.table(rows).split("| plan |")[1]
    ranked = [line.split("|")[1].strip() for line in below.splitlines()[2:]]
    assert ranked == ["y", "x", "z"]


def test_a_table_of_nothing_says_so(plans: ModuleType, tmp_path: Path) -> None:
    assert plans.table(plans.read_rows(tmp_path / "absent.jsonl")) == "nothing is measured yet"


def test_cells_that_have_a_line_are_not_measured_again(plans: ModuleType) -> None:
    cells = list(plans.all_cells(["a", "b"], [5, 10], [1], ["init", "x"]))
    assert len(cells) == 8
    rows = [row("a", "init", 0.8), row("a", "x", None, failed="no")]
    left = plans.missing(cells, rows)
    assert len(left) == 6
    assert plans.Cell("a", 5, 1, "init") not in left
    assert plans.Cell("a", 10, 1, "init") in left


def test_sets_of_one_name_are_refused(plans: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["plans.py", "one/hearts", "other/hearts"])
    with pytest.raises(SystemExit):
        plans.main()
    assert "rename one" in capsys.readouterr().err


def test_a_line_that_was_cut_short_is_measured_again(plans: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(row("a", "init", 0.8)) + '\n{"set": "b", "pl')
    assert [r["set"] for r in plans.read_rows(file)] == ["a"]
    assert file.read_text().endswith("}\n")


def test_cells_have_names_of_their_own(plans: ModuleType) -> None:
    words = [
        (minutes, seed, plan)
        for minutes in (0.5, 5)
        for seed in (1, 2)
        for plan in ("init", "2.5d-x", "25d-x")
    ]
    assert len({plans.Cell("a", *word).name for word in words}) == len(words)


def test_the_default_grid_has_24_plans(grid: ModuleType) -> None:
    assert len({plan.name for plan in grid.DEFAULT}) == len(grid.DEFAULT) == 24


def test_whole_covers_the_slice_or_the_case(grid: ModuleType) -> None:
    for dimensions in ("2", "2.5", "3"):
        patch = grid.patch_of(grid.Plan(dimensions, "whole", 8, 2, "mild"), SHAPE, SPACING)
        covered = len(patch) if dimensions == "3" else 2
        assert all(p >= n for p, n in zip(patch[:covered], SHAPE))


def test_half_has_at_most_half_the_voxels(grid: ModuleType) -> None:
    for dimensions in ("2", "2.5", "3"):
        whole, half = (
            grid.patch_of(grid.Plan(dimensions, word, 8, 2, "mild"), SHAPE, SPACING)
            for word in ("whole", "half")
        )
        assert len(half) == len(whole)
        sides = 3 if dimensions == "3" else 2
        product = [a * b * (c if sides == 3 else 1) for a, b, c in ((*p, 1)[:3] for p in (whole, half))]
        assert product[1] <= product[0] / 2


def test_every_plan_of_the_grid_is_a_pipeline(grid: ModuleType, tmp_path: Path) -> None:
    facts = grid.look_at(write_dataset(tmp_path / "cubes", cases=5))
    for plan in grid.DEFAULT:
        file = tmp_path / f"{plan.name}.yaml"
        file.write_text(yaml.safe_dump({"name": "x", **grid.pipeline(plan, facts, minutes=1)}))
        loaded, _ = load_pipeline(file, ())
        assert loaded.sample.patch_size == grid.patch_of(plan, facts.shape, facts.spacing_mm)


def test_small_patches_come_in_larger_batches(grid: ModuleType) -> None:
    plan = grid.Plan("2", "whole", 8, 4, "mild")
    assert grid.batch_of(plan, (256, 256)) == 4
    assert grid.batch_of(plan, (64, 64)) == 16


def test_a_grid_of_ones_own_is_read(grid: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("- {dimensions: 2.5, patch: [64, 64, 4], width: 8, batch: 2, scale: mild}\n")
    (plan,) = grid.read_grid(str(file))
    assert plan == grid.Plan("2.5", (64, 64, 4), 8, 2, "mild")
    file.write_text("- {dimensions: 4, patch: whole, width: 8, batch: 2, scale: mild}\n")
    with pytest.raises(ValueError, match="dimensions is 4"):
        grid.read_grid(str(file))
