"""`medfuse init`: the pipeline it writes."""

import json
import multiprocessing
import os
import re
import shlex
import tempfile
from math import prod
from pathlib import Path

import pytest
from phantoms import describe, write_case, write_dataset

from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import claimed
from medfuse.core.reporter import Reporter
from medfuse.data.split import choose_split
from medfuse.pipeline import load_pipeline
from medfuse.planning import bench, planner, trials
from medfuse.train import cost
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.init import init_pipeline
from medfuse.verbs.schema import LINE, SCHEMA

ROOT = Path(__file__).parents[2]
AGREES = "every declared shape agrees with the real one"


@pytest.fixture
def machine(monkeypatch):
    """One on which a step costs in proportion to its channels and voxels. Returns what was asked of it."""
    asked = []

    def measure(build, objective, settings, *, shape, **_):
        asked.append(shape)
        width = next(build().parameters()).shape[0]
        work = width * shape[0] * prod(shape[2:])
        return cost.StepCost(1e-7 * work, 40 * work)

    monkeypatch.setattr(cost, "measure_step", measure)
    monkeypatch.setattr(bench.Bench, "choose", lambda *_: None)
    return asked


def plain(file: Path) -> str:
    """Its comments and all in one line."""
    return " ".join(file.read_text().replace("#", "").split())


def planned(data: Path, output: Path, **options) -> str:
    budget, trials = options.pop("budget", 2**30), options.pop("trials", False)
    return init_pipeline(
        data,
        output=output,
        budget=budget,
        device="cpu",
        trials=trials,
        reporter=Reporter(quiet=True),
        **options,
    )


@pytest.mark.parametrize("dimensions", ["3", "2", "2.5"])
def test_what_it_writes_passes_check(machine, tmp_path, dimensions):
    data, file = write_dataset(tmp_path / "cubes"), tmp_path / "pipelines" / "cubes.yaml"
    planned(data, file, dimensions=dimensions)
    assert AGREES in check_pipeline(file)


@pytest.mark.parametrize("cases", [2, 3])
def test_a_few_cases_are_split_into_as_many_folds(machine, tmp_path, cases):
    data, file = write_dataset(tmp_path / "cubes", cases=cases), tmp_path / "cubes.yaml"
    (data / "splits_final.json").unlink()
    planned(data, file)
    split = load_pipeline(file)[0].split
    assert (split.fold, split.folds) == (0, cases)


def test_one_case_alone_is_refused_before_anything_is_measured(machine, tmp_path):
    data = write_dataset(tmp_path / "cubes", cases=1)
    (data / "splits_final.json").unlink()
    with pytest.raises(MedfuseError, match="has 1 labelled case; training needs two"):
        planned(data, tmp_path / "cubes.yaml")
    assert not machine


def test_every_planned_value_stands_below_its_reason(machine, tmp_path):
    file = tmp_path / "cubes.yaml"
    planned(write_dataset(tmp_path / "cubes"), file, minutes=5)
    lines = file.read_text().splitlines()
    for key in ("spacing_mm", "normalize", "patch_size", "batch_size", "channels", "strides", "minutes"):
        place = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
        assert lines[place - 1].strip().startswith("# "), key


def test_the_values_are_those_that_were_measured(machine, tmp_path):
    file = tmp_path / "cubes.yaml"
    planned(write_dataset(tmp_path / "cubes"), file)
    sample = load_pipeline(file)[0].sample
    assert machine[-1] == (sample.batch_size, 1, *sample.patch_size)


def test_a_path_is_relative_to_the_file(machine, tmp_path):
    file = tmp_path / "deep" / "pipelines" / "cubes.yaml"
    planned(write_dataset(tmp_path / "cubes"), file)
    assert "root: ../../cubes" in file.read_text()


def test_little_time_makes_a_narrower_network(machine, tmp_path):
    data = write_dataset(tmp_path / "cubes")
    for minutes, name in ((0.1, "short"), (100, "long")):
        planned(data, tmp_path / f"{name}.yaml", minutes=minutes)
    short, long = (load_pipeline(tmp_path / f"{n}.yaml")[0] for n in ("short", "long"))
    assert short.model.backbones["encoder"].channels[0] < long.model.backbones["encoder"].channels[0]
    assert 0.05 <= short.train.minutes <= 0.1
    assert 84 < long.train.minutes <= 100


def test_a_hopeless_plan_says_how_many_minutes_it_would_take(machine, tmp_path, monkeypatch):
    def slow(build, objective, settings, *, shape, **_):
        return cost.StepCost(30.0, 10**6)

    monkeypatch.setattr(cost, "measure_step", slow)
    said = planned(write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml", minutes=5)
    assert re.search("warning: about [89] steps fit 5 minutes", said)  # planning takes some
    assert "give --minutes 131 at the very least" in said


def test_without_minutes_it_trains_as_nnunet_does(machine, tmp_path):
    planned(write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml")
    train = load_pipeline(tmp_path / "cubes.yaml")[0].train
    assert (train.epochs, train.optimizer, train.decay) == (1000, "sgd", "poly")


def test_slices_with_neighbours_are_a_flat_network_on_thin_patches(machine, tmp_path):
    planned(write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml", dimensions="2.5")
    pipeline, _ = load_pipeline(tmp_path / "cubes.yaml")
    assert pipeline.sample.patch_size[2] == bench.SLICES
    assert {f.stride[2] for f in pipeline.model.backbones["encoder"].features(image(pipeline))} == {1}


def image(pipeline):
    from medfuse.api import ImageInfo

    return ImageInfo(1, pipeline.sample.patch_size, pipeline.preprocess.spacing_mm)


def test_a_file_is_never_overwritten(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("# mine")
    with pytest.raises(MedfuseError, match="is there already"):
        planned(tmp_path, file)
    assert file.read_text() == "# mine"


def test_a_budget_without_a_unit_is_a_line(medfuse, tmp_path):
    said = medfuse("init", tmp_path, "--budget", "8")
    assert said.code == 2
    assert "such as 4GiB" in said.err


def test_a_folder_per_case_is_planned(machine, real_data, tmp_path):
    planned(real_data / "ms_lesions", tmp_path / "lesions.yaml", minutes=30)
    assert AGREES in check_pipeline(tmp_path / "lesions.yaml")


def test_the_hippocampus_is_covered_by_its_patch(machine, real_data, tmp_path):
    said = planned(real_data / "hippocampus", tmp_path / "hippocampus.yaml", minutes=30)
    assert "covers the median case" in said
    assert load_pipeline(tmp_path / "hippocampus.yaml")[0].preprocess.spacing_mm == (1, 1, 1)


@pytest.mark.slow
def test_steps_are_really_measured(tmp_path, monkeypatch):
    from medfuse.planning import sizing

    monkeypatch.setattr(sizing, "PROBES", {3: (12**3, 16**3)})
    monkeypatch.setattr(sizing, "WIDTHS", (8, 4))
    planned(write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml", minutes=1)
    pipeline, _ = load_pipeline(tmp_path / "cubes.yaml")
    assert pipeline.model.backbones["encoder"].channels[0] in (8, 4)


@pytest.mark.slow
def test_the_sample_data_are_planned_by_the_command(machine, medfuse, tmp_path):
    said = medfuse("init", ROOT / "sample_data", "-o", tmp_path / "liver.yaml", "--minutes", "5", "-q")
    assert said.code == 0
    assert AGREES in medfuse("check", tmp_path / "liver.yaml").out


def test_editors_find_the_schema_beside_it(machine, tmp_path):
    output = tmp_path / "new" / "p.yaml"
    planned(write_dataset(tmp_path / "cubes"), output)
    assert output.read_text().count(LINE) == 1
    assert SCHEMA in {path.name for path in output.parent.iterdir()}


def test_candidates_are_trained_and_the_file_shows_what_they_came_to(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "FEWEST_SECONDS", 0.3)
    monkeypatch.setattr(trials, "SETTING_UP", 0.1)
    monkeypatch.setattr(planner, "PREPARING_SHARE", 1e6)  # however long that takes here
    monkeypatch.setattr(planner.Clock, "left", lambda self: 4.0)
    file = tmp_path / "cubes.yaml"
    said = planned(write_dataset(tmp_path / "cubes", cases=8), file, minutes=0.1, trials=True, compare=2)
    lines = [line.removeprefix("# ") for line in file.read_text().splitlines()]
    (told,) = (number for number, line in enumerate(lines) if line.startswith("Tried for "))
    table = lines[told + 1 : told + 3]
    assert [line[2:5] for line in table] == ["3-D", "2-D"]
    assert all(re.search(r"voxels of \S+ mm: \d\.\d{3} after \d+ steps", line) for line in table)
    (chosen,) = (line for line in table if line.startswith("→ "))
    assert chosen in said
    sides = len(load_pipeline(file)[0].sample.patch_size)
    assert chosen.startswith(f"→ {sides}-D")
    assert AGREES in check_pipeline(file)


def test_planning_counts_in_the_minutes(machine, tmp_path):
    file = tmp_path / "cubes.yaml"
    planned(write_dataset(tmp_path / "cubes"), file, minutes=1)
    assert re.search(r"of 1 minutes planning took \d+ seconds", plain(file))
    assert load_pipeline(file)[0].train.minutes < 1


def test_the_best_plans_are_written_with_the_command_that_compares_them(machine, tmp_path):
    data, file = write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml"
    said = planned(data, file, minutes=5, compare=3)
    files = [tmp_path / f"cubes{end}.yaml" for end in ("", "_2", "_3")]
    assert f"medfuse compare {' '.join(map(str, files))}" in said
    patches = {load_pipeline(path)[0].sample.patch_size for path in files}
    assert {len(patch) for patch in patches} == {2, 3}
    assert len(patches) == 3
    for path in files:
        assert AGREES in check_pipeline(path)


def test_none_of_several_files_is_overwritten(tmp_path):
    (tmp_path / "cubes_2.yaml").write_text("mine")
    with pytest.raises(MedfuseError, match=r"cubes_2\.yaml: is there already"):
        planned(write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml", minutes=5, compare=2)
    assert (tmp_path / "cubes_2.yaml").read_text() == "mine"


def test_a_network_that_fits_no_memory_is_left_out_and_where_none_fits_more_is_asked_for(machine, tmp_path):
    data, file = write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml"
    planned(data, file, minutes=5, budget=3 * 2**20)
    assert len(load_pipeline(file)[0].sample.patch_size) == 2
    with pytest.raises(MedfuseError, match=r"--budget: a step of 8 channels .* give \d+MiB or more"):
        planned(data, tmp_path / "none.yaml", minutes=5, budget=2**10)


def test_where_no_training_case_can_be_kept_apart_the_rules_decide(machine, tmp_path):
    data = write_dataset(tmp_path / "cubes", cases=2)
    (data / "splits_final.json").unlink()
    said = planned(data, tmp_path / "cubes.yaml", minutes=5, trials=True)
    assert "Tried" not in said


def test_of_very_many_cases_a_sample_is_looked_at_and_that_is_said(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("medfuse.data.sampled.sampled.__defaults__", (3,))
    data = write_dataset(tmp_path / "cubes", cases=6)
    init_pipeline(
        data, output=tmp_path / "a.yaml", budget=2**30, device="cpu", trials=False, reporter=Reporter()
    )
    assert "looked at 3 of 6 labelled cases" in "".join(capsys.readouterr())
    assert "planned by `medfuse init` for 3 of 6 cases" in (tmp_path / "a.yaml").read_text()


def test_a_network_of_three_axes_that_sees_whole_cases_as_they_are_needs_no_trial(machine, tmp_path):
    said = planned(
        write_dataset(tmp_path / "cubes", cases=8), tmp_path / "cubes.yaml", minutes=5, trials=True
    )
    assert "Tried" not in said
    assert "3-D: voxels are about as far apart along all axes" in said
    assert len(machine[-1]) == 5


def test_scans_of_one_patient_stay_on_one_side_where_their_names_tell(machine, tmp_path):
    names = [f"patient{p}_{end}" for p in range(6) for end in ("ed", "es")]
    for seed, name in enumerate(names):
        write_case(tmp_path / "hearts", name, seed=seed)
    describe(tmp_path / "hearts", names)
    (tmp_path / "hearts" / "splits_final.json").unlink()
    planned(tmp_path / "hearts", tmp_path / "hearts.yaml")
    pipeline, _ = load_pipeline(tmp_path / "hearts.yaml")
    split = choose_split(pipeline.data.read(), pipeline.split)
    sides = [{name.split("_")[0] for name in side} for side in (split.train, split.validation)]
    assert not sides[0] & sides[1]
    assert "cases of one patient, as their names tell" in (tmp_path / "hearts.yaml").read_text()


def test_where_planning_took_all_of_the_minutes_steps_are_still_counted_from_nothing(
    machine, tmp_path, monkeypatch
):
    monkeypatch.setattr(planner.Clock, "spent", lambda self: 90.0)
    file = tmp_path / "cubes.yaml"
    said = planned(write_dataset(tmp_path / "cubes"), file, minutes=1)
    texts = said + plain(file)
    assert load_pipeline(file)[0].train.minutes == 0.05
    assert re.search(r"about [\d,]+ steps fit; of 1 minutes planning took 90 seconds", texts)


def test_advice_counts_by_the_pace_that_trials_found(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(trials.Trials, "pace", lambda self, candidate: 30.0)
    said = planned(write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml", minutes=5)
    assert "give --minutes 131 at the very least" in said


def test_the_first_line_names_every_region(machine, tmp_path):
    data, file = write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml"
    described = json.loads((data / "dataset.json").read_text())
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    (data / "dataset.json").write_text(
        json.dumps({**described, "labels": labels, "regions_class_order": [1, 2]})
    )
    planned(data, file, minutes=5)
    assert file.read_text().startswith("# cubes: whole, core in MRI;")
    assert AGREES in check_pipeline(file)


def test_any_name_leaves_the_file_readable(machine, tmp_path):
    data, file = write_dataset(tmp_path / "Größe 1"), tmp_path / "my plan's 脳.yaml"
    described = json.loads((data / "dataset.json").read_text())
    described |= {
        "labels": {"0": "background", "1": "a\u0085b: 'c' #\u2028d"},
        "modality": {"0": "T1\u2028w"},
    }
    (data / "dataset.json").write_text(json.dumps(described))
    said = planned(data, file, minutes=5)
    assert "root: Größe 1" in file.read_text()
    assert f"medfuse check {shlex.quote(str(file))}" in said
    assert AGREES in check_pipeline(file)


def test_slices_that_need_no_minutes_are_not_told_as_the_only_plan(machine, tmp_path):
    said = planned(write_dataset(tmp_path / "cubes"), tmp_path / "cubes.yaml", compare=3)
    assert "give these, and others are thought of" in said


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(trials, "FEWEST_SECONDS", 0.3)
    monkeypatch.setattr(trials, "SETTING_UP", 0.1)
    monkeypatch.setattr(planner, "PLANNING_SHARE", 0.9)


@pytest.mark.parametrize("fault", [OutputError("/tmp/x: the disk is full"), OSError(28, "No space left")])
def test_where_cases_cannot_be_prepared_the_rules_decide(machine, hurried, tmp_path, monkeypatch, fault):
    def full(*_):
        raise fault

    monkeypatch.setattr(planner.Bed, "_store", full)
    file = tmp_path / "cubes.yaml"
    said = planned(write_dataset(tmp_path / "cubes", cases=8), file, minutes=0.1, trials=True, compare=2)
    assert "Tried" not in said
    assert AGREES in check_pipeline(file)


def test_folders_of_killed_plannings_are_removed_and_those_of_others_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, used = tmp_path / "medfuse-trials-left", tmp_path / "medfuse-trials-used"
    left.mkdir()
    (left / "prepared").write_text("much")
    used.mkdir()
    with claimed(used), planner._folder() as mine:
        assert {*tmp_path.iterdir()} == {used, mine}
    assert {*tmp_path.iterdir()} == {used}


def test_ctrl_c_while_candidates_are_trained_leaves_nothing(machine, hurried, tmp_path, monkeypatch):
    from medfuse.train.epoch import EpochEnd

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    name = f"medfuse-stopped-{os.getpid()}-"
    monkeypatch.setattr(planner, "FOLDER", name)
    monkeypatch.setattr(EpochEnd, "__call__", interrupted)
    file = tmp_path / "cubes.yaml"
    with pytest.raises(KeyboardInterrupt):
        planned(write_dataset(tmp_path / "cubes", cases=8), file, minutes=0.1, trials=True, compare=2)
    assert not file.exists()
    assert not [*Path(tempfile.gettempdir()).glob(f"{name}*")]
    assert not multiprocessing.active_children()


def test_where_no_kind_of_network_fits_each_says_what_it_takes(machine, tmp_path):
    data = write_dataset(tmp_path / "cubes")
    with pytest.raises(MedfuseError) as caught:
        planned(data, tmp_path / "cubes.yaml", minutes=5, budget=2**10)
    three, two = caught.value.lines
    assert "patches of 20×20×16 takes" in three
    assert "patches of 20×20 takes" in two
    more = int(re.search(r"give (\d+)MiB or more", two)[1])
    planned(data, tmp_path / "cubes.yaml", minutes=5, budget=more * 2**20)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [{"all": (1, 2)}, {"all": (1, 2), "core": 2}])
def test_a_step_on_regions_is_measured_with_a_loss_on_regions(tmp_path, labels):
    import torch

    from medfuse.data.plan import DataPlan

    order = tuple(range(1, 1 + len(labels)))
    plan = DataPlan((1.0, 1.0, 1.0), (8, 8, 8), 2, ("MR",), (), {"background": 0, **labels}, {}, order)
    measuring = bench.Bench(plan, "3", torch.device("cpu"), Reporter(quiet=True))
    assert measuring.measure(2, (8, 8, 8), 2).seconds > 0
