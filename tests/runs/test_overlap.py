"""`overlap: auto`: what held-out cases choose, and where that counts."""

import json
import shutil

import numpy as np
import pytest

from medfuse import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.infer.settings import InferSettings
from medfuse.infer.windows import plan_grid
from medfuse.runs.models import load_model
from medfuse.runs.overlap import FILE, SMALLER, choose, choose_together, overlap_for, read_choice
from medfuse.verbs.run import run_pipeline

COUNTS = {"0.5": 100, "0.375": 60, "0.25": 40, "0.125": 20}


def scores(drops, cases=20, label="liver"):
    """drops: overlap → by how much Dice falls there, in each of the cases."""
    random = np.random.default_rng(0)
    made = {}
    for number in range(cases):
        dice = 0.9 + random.normal(0, 0.02)
        made[f"case_{number}"] = {
            key: {label: dice - drops.get(float(key), 0) - random.normal(0, 1e-5) * (key != "0.5")}
            for key in COUNTS
        }
    return made


def chosen(of, patients=None, **how):
    return choose(of, COUNTS, patients or {}, **how)


def test_the_smallest_that_costs_nothing_is_taken():
    made = chosen(scores({}))
    assert (made.overlap, made.windows) == (0.125, 0.2)
    assert "0.125 in place of 0.5, 20% of the windows" in made.said()


@pytest.mark.parametrize(("costly", "taken"), [(0.375, 0.5), (0.25, 0.375), (0.125, 0.25)])
def test_one_that_costs_more_than_the_bound_ends_the_search(costly, taken):
    made = chosen(scores({costly: 0.002}))
    assert made.overlap == taken
    assert [row.overlap for row in made.rows][-1] == costly
    assert f"at {costly:g} that of liver falls by up to 0.002" in made.said()


def test_every_label_must_bear_it():
    one, other = scores({}), scores({0.25: 0.01}, label="tumour")
    both = {name: {key: {**one[name][key], **other[name][key]} for key in COUNTS} for name in one}
    assert chosen(both).overlap == 0.375


def test_the_upper_end_counts_and_not_the_mean():
    of = scores({})
    for number, case in enumerate(of.values()):
        case["0.375"]["liver"] += 0.01 * (-1) ** number
    made = chosen(of)
    assert abs(made.rows[0].drop) < 0.0001
    assert made.overlap == 0.5


def test_a_label_of_one_patient_says_too_little():
    of = scores({}, cases=3)
    assert chosen(of, dict.fromkeys(of, "one")).overlap == 0.5
    assert "1 patient has liver, too few to say" in chosen(of, dict.fromkeys(of, "one")).said()


def test_cases_without_a_label_say_nothing_of_it():
    of = scores({})
    for name in [*of][:10]:
        of[name] = {key: {"liver": None} for key in COUNTS}
    made = chosen(of)
    assert made.rows[0].patients == 10


def test_folds_choose_together():
    one, other = chosen(scores({})), chosen(scores({0.125: 0.002}))
    renamed = {f"{name}_b": case for name, case in other.scores.items()}
    other = other.model_copy(update={"scores": renamed, "patients": {name: name for name in renamed}})
    together = choose_together([one, other])
    assert len(together.scores) == 40
    assert together.overlap == 0.25


def test_settings_take_auto_and_nothing_else_in_words():
    assert InferSettings(overlap="auto").windows_overlap == 0.5
    assert InferSettings(overlap=0.3).windows_overlap == 0.3
    assert InferSettings().overlap == 0.5
    with pytest.raises(ValueError, match="adaptive_overlap needs a number for overlap"):
        InferSettings(overlap="auto", adaptive_overlap=0.1)
    for wrong in ("Auto", "half", 1, -0.1, True):
        with pytest.raises(ValueError, match="overlap"):
            InferSettings(overlap=wrong)


@pytest.fixture(scope="module")
def left_open(finished_run, plain_report, tmp_path_factory):
    """A run whose overlap two held-out cases choose."""
    folder = tmp_path_factory.mktemp("overlap")
    shutil.copytree(finished_run.data, folder / "data")
    names = sorted(
        path.name.removesuffix(".nii.gz") for path in (folder / "data" / "imagesTr").glob("*.nii.gz")
    )
    split = json.dumps([{"train": names[:-2], "val": names[-2:]}])
    (folder / "data" / "splits_final.json").write_text(split)
    overrides = [
        f"data.root={folder / 'data'}",
        "infer={overlap: auto, runtime: {use: torch, precision: fp32}}",
    ]
    return run_pipeline(finished_run.pipeline, overrides, runs=folder, reporter=Reporter(quiet=True)).folder


def test_a_run_chooses_says_and_stores(left_open):
    choice = read_choice(left_open)
    assert choice.overlap in (0.5, *SMALLER)
    assert [*choice.scores] == json.loads((left_open / "data.json").read_text())["validation"]
    assert choice.said() in json.loads((left_open / "summary.json").read_text())["notes"]
    windows = {key: len(plan_grid((20, 18, 16), (16, 16, 16), float(key))) for key in choice.counts}
    assert choice.counts == {key: 2 * count for key, count in windows.items()}


def test_new_scans_are_seen_with_what_was_chosen(left_open, tmp_path):
    shutil.copytree(left_open, tmp_path / "run")
    path = tmp_path / "run" / FILE
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "overlap": 0.25}))
    quiet = Reporter(quiet=True)
    assert load_model([tmp_path / "run"], device="cpu", reporter=quiet).settings.overlap == 0.25
    weights = tmp_path / "run" / "weights_last.safetensors"
    assert load_model([weights], device="cpu", reporter=quiet).settings.overlap == 0.25
    given = load_model([weights], overrides=["overlap=0.75"], device="cpu", reporter=quiet)
    assert given.settings.overlap == 0.75
    path.unlink()
    assert load_model([weights], device="cpu", reporter=quiet).settings.overlap == 0.5


def test_a_record_that_is_damaged_is_told(left_open, tmp_path):
    (tmp_path / FILE).write_text('{"overlap": 2}')
    with pytest.raises(MedfuseError, match=r"overlap\.json"):
        overlap_for([tmp_path])
