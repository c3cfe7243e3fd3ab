"""`medfuse init --seconds-per-case`: plans whose inference keeps to a time, and what that costs."""

import numpy as np
import pytest
from phantoms import write_dataset

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.pipeline import load_pipeline
from medfuse.planning import bench, loss, meter, planner, trials
from medfuse.planning.scans import Around
from medfuse.train import cost as steps
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.init import init_pipeline

AROUND = 0.1
RATE = 1e-6
"""Seconds of a voxel of a window, for each channel."""


@pytest.fixture
def machine(monkeypatch):
    """One whose steps and windows cost in proportion to channels and voxels."""

    def measure(build, objective, settings, *, shape, **_):
        work = next(build().parameters()).shape[0] * shape[0] * np.prod(shape[2:])
        return steps.StepCost(1e-7 * work, int(40 * work))

    class Measured(meter.Meter):
        def window(self, bench, width, patch_size):
            return RATE * width * float(np.prod(patch_size))

        def around(self, bench, patch_size, overlap):
            return Around(AROUND, self._voxels)

    monkeypatch.setattr(steps, "measure_step", measure)
    monkeypatch.setattr(bench.Bench, "choose", lambda *_: None)
    monkeypatch.setattr("medfuse.verbs.init.Meter", Measured)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "cubes", cases=8)


def planned(data, file, limit=None, **how):
    how = {"budget": 2**30, "device": "cpu", "trials": False, "minutes": 5.0, **how}
    return init_pipeline(data, output=file, seconds_per_case=limit, reporter=Reporter(quiet=True), **how)


def comments(file):
    return " ".join(line.removeprefix("# ") for line in file.read_text().splitlines() if line.startswith("#"))


def seconds(found):
    return found.values["seconds_per_case"]


@pytest.mark.parametrize("dimensions", ["auto", "3", "2", "2.5"])
@pytest.mark.parametrize("minutes", [5.0, None])
def test_the_file_keeps_to_the_time_says_so_and_passes_check(machine, cubes, tmp_path, dimensions, minutes):
    how = {"dimensions": dimensions, "minutes": minutes}
    whole = seconds(planned(cubes, tmp_path / "whole.yaml", 1000.0, **how))["median"]
    limit = round(AROUND + 0.9 * (whole - AROUND), 4)
    file = tmp_path / "cubes.yaml"
    found = planned(cubes, file, limit, **how)
    told = seconds(found)
    assert told["median"] <= limit < whole
    assert told["binds"]
    pipeline, _ = load_pipeline(file)
    assert pipeline.infer.overlap == told["overlap"]
    assert [*pipeline.preprocess.spacing_mm] == [*told["spacing_mm"]]
    assert f"Planned for {limit:g} s a scan: about " in comments(file)
    assert "Nothing was measured of the Dice that it costs." in comments(file)
    assert "every declared shape agrees" in check_pipeline(file)


def test_a_time_that_does_not_bind_leaves_the_plan_as_it_is(machine, cubes, tmp_path):
    planned(cubes, tmp_path / "a" / "cubes.yaml")
    found = planned(cubes, tmp_path / "b" / "cubes.yaml", 1000.0)
    plain, limited = (load_pipeline(tmp_path / name / "cubes.yaml")[0] for name in "ab")
    assert not seconds(found)["binds"]
    assert "1000 s a scan do not bind" in comments(tmp_path / "b" / "cubes.yaml")
    same = {"data", "train"}  # another folder, and minutes that planning left
    assert plain.model_dump(exclude=same) == limited.model_dump(exclude=same)


def test_a_time_that_nothing_keeps_to_is_a_line_and_nothing_is_written(machine, cubes, tmp_path, medfuse):
    file = tmp_path / "cubes.yaml"
    said = medfuse("init", cubes, "-o", file, "--minutes", "5", "--seconds-per-case", "0.01", "-q")
    assert said.code == 2
    assert "the fastest plan takes about" in said.err
    assert "Traceback" not in said.err
    assert not file.exists()


@pytest.mark.parametrize("given", ["0", "-1", "fast", "1e9", "inf", "nan", "", "1s", "0.0000001"])
def test_what_is_no_time_is_refused_in_a_line(cubes, tmp_path, medfuse, given):
    said = medfuse("init", cubes, "-o", tmp_path / "x.yaml", f"--seconds-per-case={given}")
    assert said.code == 2
    assert "--seconds-per-case" in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize("more", [("--search", "--minutes", "60"), ("--from", "runs/none")])
def test_what_it_does_not_go_with_is_refused_before_anything_is_read(tmp_path, medfuse, more):
    said = medfuse("init", tmp_path, "-o", tmp_path / "x.yaml", "--seconds-per-case", "5", *more)
    assert said.code == 2
    assert "--seconds-per-case" in said.err


def test_the_best_of_those_within_the_time_are_written(machine, cubes, tmp_path):
    whole = seconds(planned(cubes, tmp_path / "whole.yaml", 1000.0))["median"]
    limit = AROUND + 0.9 * (whole - AROUND)
    found = planned(cubes, tmp_path / "cubes.yaml", limit, compare=2)
    for file in found.values["files"]:
        assert "s a scan: about" in comments(file)
        assert "every declared shape agrees" in check_pipeline(file)


def test_trials_tell_what_the_time_costs_beside_the_plan_without_it(machine, cubes, tmp_path, monkeypatch):
    def tried(self, candidates, texts, info, split, base, *, compared, most_judging):
        assert compared == 1
        assert len(split.validation) <= most_judging
        last = len(candidates) - 1
        return trials.Trials(
            tuple(
                trials.Rung(number, 9.0, 100 + number, dice, {n: dice + 0.01 * int(n) for n in "012345"})
                for number, dice in ((0, 0.7), (last, 0.75))
            ),
            seconds=20.0,
        )

    whole = seconds(planned(cubes, tmp_path / "whole.yaml", 1000.0, dimensions="3"))["median"]
    limit = AROUND + 0.9 * (whole - AROUND)
    monkeypatch.setattr(planner.Planner, "tried", tried)
    file = tmp_path / "cubes.yaml"
    found = planned(cubes, file, limit, trials=True, dimensions="3")
    cost = seconds(found)["loss"]
    assert cost["dice"] == pytest.approx(0.05)
    assert cost["low"] <= cost["dice"] <= cost["high"]
    assert cost["cases"] == 6
    assert "Expected to cost 0.050 Dice [" in comments(file)
    assert "against the plan without the limit (3-D, " in comments(file)
    assert "by one short training of each, of 100 and " in comments(file)


@pytest.mark.slow
def test_plans_are_really_tried_beside_the_one_without_a_limit(machine, cubes, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "FEWEST_SECONDS", 0.3)
    monkeypatch.setattr(trials, "SETTING_UP", 0.1)
    monkeypatch.setattr(loss, "LEARNED", 0.0)
    monkeypatch.setattr(planner, "PREPARING_SHARE", 1e6)  # however long that takes here
    monkeypatch.setattr(planner.Clock, "left", lambda self: 5.0)
    how = {"minutes": 0.2, "dimensions": "3"}
    whole = seconds(planned(cubes, tmp_path / "whole.yaml", 1000.0, **how))["median"]
    limit = AROUND + 0.9 * (whole - AROUND)
    told = seconds(planned(cubes, tmp_path / "cubes.yaml", limit, trials=True, **how))
    assert told["median"] <= limit
    assert -1 <= told["loss"]["dice"] <= 1


def test_without_a_limit_nothing_is_said_of_scans(machine, cubes, tmp_path):
    found = planned(cubes, tmp_path / "cubes.yaml")
    assert "seconds_per_case" not in found.values
    assert "a scan" not in comments(tmp_path / "cubes.yaml")


@pytest.mark.slow
def test_it_is_really_measured(cubes, tmp_path):
    with pytest.raises(MedfuseError, match="the fastest plan takes about"):
        planned(cubes, tmp_path / "cubes.yaml", 0.001, minutes=1.0)
