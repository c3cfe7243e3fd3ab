"""`medfuse search`, from a file with a space to a verdict."""

import json
import sys
from pathlib import Path

import pytest
from phantoms import PIPELINE, write_dataset

from medfuse.core.errors import DataError, MedfuseError, PipelineError
from medfuse.core.reporter import Reporter
from medfuse.verbs.search import search_pipeline

SPACE = """\
  space:
    model.fusion.decoded.use: [unet_decoder, fpn, unet_plus_plus]
    model.aux.schedule: [{use: constant, weight: 0.5}, none]
    train.learning_rate: {log: [1e-4, 1e-1]}
"""


def write(home: Path, search: str = "  trials: 4\n  seeds: 1\n  rungs: 2\n", space: str = SPACE) -> Path:
    """Eight phantoms, two of them held out, and a pipeline of nine steps with a search."""
    data = write_dataset(home / "cubes", cases=8)
    names = [f"cube_{n:02d}" for n in range(8)]
    (data / "splits_final.json").write_text(json.dumps([{"train": names[:6], "val": names[6:]}]))
    text = PIPELINE.format(root=data).replace("steps: 4,", "steps: 6, deterministic: true,")
    (home / "cubes.yaml").write_text(f"{text}infer: {{runtime: torch}}\nsearch:\n{search}{space}")
    return home / "cubes.yaml"


def search(file, **options):
    options = {"runs": file.parent / "runs", "reporter": Reporter(quiet=True), **options}
    return search_pipeline(file, **options)


def trials(folder: Path) -> dict[str, object]:
    """What was asked and told, without what a clock says."""
    found = {}
    for path in sorted([*(folder / "asked").glob("*.json"), *(folder / "told").glob("*.json")]):
        record = json.loads(path.read_text())
        for of_the_clock in ("seconds", "seconds_per_case", "memory", "trained", "at"):
            record.pop(of_the_clock, None)
        found[f"{path.parent.name}/{path.name}"] = record
    return found


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    home = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medfuse.report.html.page", lambda content: "<html></html>")
        patch.setattr("medfuse.runs.viewing.write_viewer", lambda run, evaluation: ({}, ""))
        yield write(home), search(home / "cubes.yaml")


@pytest.mark.slow  # a search of some seconds is behind it
def test_the_file_as_written_is_trial_0_and_goes_through_all_rungs(searched):
    file, _ = searched
    found = trials(file.parent / "runs" / "cubes-search")
    assert found["asked/0000.json"]["values"] == {}
    assert {"told/0000.0.json", "told/0000.1.json"} <= {*found}
    assert sum(name.startswith("asked") for name in found) == 4


@pytest.mark.slow  # a search of some seconds is behind it
def test_cases_that_choose_and_cases_that_judge_never_meet(searched):
    folder = searched[0].parent / "runs" / "cubes-search"
    inner, outer = (json.loads((folder / f"{name}.json").read_text())[0] for name in ("inner", "outer"))
    assert {*inner["train"], *inner["val"]} == {*outer["train"]}
    assert not {*outer["val"]} & {*inner["train"], *inner["val"]}
    for trial in folder.glob("trials/*/data.json"):
        known = json.loads(trial.read_text())
        assert not {*outer["val"]} & {*known["train"], *known["validation"]}
    for last in folder.glob("final/*/summary.json"):
        judged = {case["name"] for case in json.loads(last.read_text())["metric_per_case"]}
        assert judged == {*outer["val"]}


@pytest.mark.slow  # a search of some seconds is behind it
def test_the_end_is_trained_with_seeds_that_no_trial_had(searched):
    folder = searched[0].parent / "runs" / "cubes-search"
    seeds = {json.loads(p.read_text())["seed"] for p in folder.glob("final/*/lock.json")}
    assert seeds == {2}
    assert {json.loads(p.read_text())["seed"] for p in folder.glob("trials/*/lock.json")} == {1}


@pytest.mark.slow  # a search of some seconds is behind it
def test_a_winner_is_what_unseen_cases_find_better_alone(searched):
    values = searched[1].values
    assert values["verdict"] in ("the file as written", "undecided")  # of two cases
    assert "no winner" in str(searched[1])
    assert (values["optimism"] == 0) == (values["chosen"] == 0)


@pytest.mark.slow  # a search of some seconds is behind it
def test_what_is_written_runs_and_the_page_loads_nothing(searched):
    from medfuse.verbs.check import check_pipeline

    folder = Path(searched[1].values["folder"])
    check_pipeline(folder / "chosen.yaml")
    assert json.loads((folder / "result.json").read_text()) == searched[1].values
    assert "http" not in (folder / "search.html").read_text()


@pytest.mark.slow  # a search of some seconds is behind it
def test_a_finished_search_is_not_repeated(searched):
    before = trials(searched[0].parent / "runs" / "cubes-search")
    assert search(searched[0]).values["chosen"] == searched[1].values["chosen"]
    assert trials(searched[0].parent / "runs" / "cubes-search") == before


@pytest.mark.slow  # a search of some seconds is behind it
def test_in_python_it_is_the_search_of_the_command(searched):
    import medfuse

    file, runs = searched[0], searched[0].parent / "runs"
    before = trials(runs / "cubes-search")
    found = medfuse.search(medfuse.Pipeline.load(file), runs=runs, quiet=True)
    assert trials(runs / "cubes-search") == before
    rows = found.found.table()
    assert [row["trial"] for row in rows] == [0, 1, 2, 3]
    assert {"dice", "seconds_per_case", "train.learning_rate", "model.aux.schedule"} <= {*rows[0]}
    page = found._repr_html_()
    assert page.count("&lt;svg") == 2
    assert "as written" in page
    with pytest.raises(DataError, match="another name"):
        medfuse.search(file, {"loss": ["tversky"]}, runs=runs, quiet=True)


@pytest.mark.slow  # a search of some seconds is behind it
def test_another_space_or_pipeline_is_refused_and_more_trials_are_not(searched, tmp_path):
    file = searched[0]
    for override, said in (
        ("search.space.loss=[dice_ce, tversky]", "search.space.loss"),
        ("sample.batch_size=1", "pipeline.sample.batch_size was 2, is 1"),
        ("train.steps=8", "budget.steps"),
        ("search.seed=2", "search.seed was 1, is 2"),
    ):
        with pytest.raises(DataError, match="another name") as refused:
            search(file, overrides=[override])
        assert said in str(refused.value)


@pytest.mark.slow  # a search of some seconds is behind it
def test_changed_data_are_refused(searched):
    from phantoms import write_case

    file = searched[0]
    changed = file.parent / "cubes" / "imagesTr" / "cube_03.nii.gz"
    before = changed.read_bytes()
    write_case(file.parent / "cubes", "cube_03", seed=77)
    try:
        with pytest.raises(DataError, match=r"data\.cube_03"):
            search(file)
    finally:
        changed.write_bytes(before)
        write_case(file.parent / "cubes", "cube_03", seed=3)


def refused(home, search_lines, space=SPACE, overrides=()):
    with pytest.raises(MedfuseError) as found:
        search(write(home, search_lines, space), overrides=overrides)
    return str(found.value)


LACKS = "  space:\n    train.learnin_rate: [1, 2]\n"


@pytest.mark.parametrize(
    ("lines", "space", "said"),
    [
        (
            "  trials: 4\n",
            LACKS,
            "cubes.yaml:18:5: search.space.train.learnin_rate: the pipeline has no such key",
        ),
        (
            "  trials: 4\n",
            "  space:\n    loss: [dice_ce, dicece]\n",
            "cubes.yaml:18:21: search.space.loss[1]: dicece",
        ),
        (
            "  trials: 4\n",
            "  space:\n    seed: [1, 2]\n",
            "cubes.yaml:18:5: search.space.seed: cannot be searched",
        ),
        ("  trials: 4\n  seeds: [3, 3]\n", SPACE, "cubes.yaml:17:"),
        (
            "  trials: 4\n  seeds: [3, 1]\n",
            SPACE,
            "cubes.yaml:17:14: search.seeds[1]: 1 is the seed that trials",
        ),
        ("", SPACE, "search: say when it ends"),
        ("  trials: 4\n  objectives: [parameters]\n", SPACE, "dice has to be among"),
    ],
)
def test_a_faulty_search_is_refused_at_its_place(tmp_path, lines, space, said):
    assert said in refused(tmp_path, lines, space)
    assert not (tmp_path / "runs").exists()


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    """Seeds, minutes, split and space, by the command and by `check`."""
    from medfuse.verbs.check import check_pipeline

    said = refused(
        tmp_path,
        "  minutes: 0.5\n  seeds: [2, 1]\n",
        "  space:\n    train.learnin_rate: [1, 2]\n    loss: [dice_ce, dicece]\n",
        overrides=["train={minutes: 3}", "split.fold=all"],
    ).splitlines()
    keys = (
        "search.minutes",
        "search.seeds[1]",
        "search.space.train.learnin_rate",
        "search.space.loss[1]",
        "split.fold",
    )
    assert len(said) == len(keys)
    assert all(any(key in line for line in said) for key in keys)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(PipelineError) as checked:
        check_pipeline(tmp_path / "cubes.yaml", ["train={minutes: 3}", "split.fold=all"])
    assert checked.value.lines == tuple(said)


def test_minutes_that_are_too_few_for_a_trial_are_refused(tmp_path):
    said = refused(tmp_path, "  minutes: 0.5\n", overrides=["train={minutes: 3}"])
    assert "cubes.yaml:16:12: search.minutes: 0.5 minutes leave 1.6 seconds for a training" in said


def test_a_pipeline_without_a_search_is_told_what_it_lacks(tmp_path):
    file = write(tmp_path)
    file.write_text(file.read_text().partition("search:")[0])
    with pytest.raises(MedfuseError, match="which says what may be tried"):
        search(file)


def test_a_search_may_stand_in_a_file_of_its_own(tmp_path):
    from medfuse.searching.begin import read_search

    file = write(tmp_path)
    text, _, own = file.read_text().partition("search:")
    file.write_text(text)
    other = tmp_path / "wide.yaml"
    other.write_text(f"pipeline: cubes.yaml\nsearch:{own}")
    asked = read_search(other, ["search.trials=7", "train.steps=12"])
    assert (asked.name, asked.settings.trials, asked.pipeline.train.steps) == ("wide", 7, 12)
    other.write_text(f"pipeline: cubes.yaml\nsearhc: 3\nsearch:{own}".replace("trials", "trails"))
    with pytest.raises(PipelineError) as found:
        read_search(other)
    assert "wide.yaml:2:1" in str(found.value)
    assert "wide.yaml:4:3" in str(found.value)


@pytest.mark.slow  # two workers import torch
def test_workers_share_the_trials_of_a_search(tmp_path):
    from medfuse.verbs.crews import Workers

    file = write(tmp_path)
    said = search(file, workers=Workers(count=2)).values
    folder = file.parent / "runs" / "cubes-search"
    names = [path.name for path in (folder / "told").glob("*.json")]
    assert {name[:4] for name in names} == {"0000", "0001", "0002", "0003"}
    trained = sum(p.read_text().count('"from_step"') for p in folder.glob("trials/*/lock.json"))
    assert trained == len(names), "each rung of a trial is trained once"
    assert said["trials"] == 4
    assert len([*folder.glob("final/*/summary.json")]) == (2 if said["chosen"] else 1)
    assert not (folder / ".fleet").exists()


@pytest.mark.slow  # a search of some seconds
def test_a_front_of_two_objectives_is_told(tmp_path):
    file = write(tmp_path, "  trials: 4\n  seeds: 1\n  rungs: 1\n  objectives: [dice, parameters]\n")
    values = search(file).values
    rows = {row["trial"]: (row["dice"], -row["parameters"]) for row in values["last_rung"]}
    for number, own in rows.items():
        beaten = any(a >= own[0] and b >= own[1] and (a, b) != own for a, b in rows.values())
        assert (number in values["front"]) == (not beaten)


@pytest.mark.slow  # a search of some seconds
def test_a_space_that_was_tried_ends_the_search_with_its_best_at_the_last_rung(tmp_path):
    file = write(
        tmp_path, "  trials: 9\n  seeds: 1\n  rungs: 2\n", "  space: {loss: [dice_ce, tversky, focal]}\n"
    )
    values = search(file).values
    folder = Path(values["folder"])
    assert values["trials"] == 3
    assert json.loads((folder / "exhausted.json").read_text()) == {"trials": 3}
    assert {row["trial"] for row in values["last_rung"]} > {0}
    before = trials(folder)
    assert search(file, overrides=["search.trials=20"]).values["trials"] == 3
    assert trials(folder) == before


def test_check_looks_at_the_space_too(tmp_path):
    from medfuse.verbs.check import check_pipeline

    file = write(tmp_path)
    assert "some combination admits every value" in str(check_pipeline(file))
    with pytest.raises(PipelineError, match=r"search\.space\.train\.step: the pipeline has no such key"):
        check_pipeline(write(tmp_path, space="  space: {train.step: [1, 2]}\n"))


def test_without_optuna_a_search_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MedfuseError, match=r"medfuse\[search\]"):
        search(write(tmp_path))


@pytest.mark.slow  # a training of some seconds
def test_minutes_that_trial_0_shows_to_be_too_few_are_refused(tmp_path):
    said = refused(tmp_path, "  minutes: 0.05\n  seeds: 2\n", overrides=["train.steps=3000"])
    assert "search.minutes: 0.05 minutes are too few: a training takes about" in said
