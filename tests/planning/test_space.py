"""`medfuse init --search`: the space suits the data and the minutes, and all of it can be searched."""

import pytest
from phantoms import write_dataset

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.searching.admitted import Gate
from medfuse.searching.begin import read_search
from medfuse.searching.budget import plan_budget
from medfuse.searching.combination import Space
from medfuse.space.dimensions import read_dimension
from medfuse.train import cost
from medfuse.verbs.init import init_pipeline


@pytest.fixture
def spaces(monkeypatch, tmp_path):
    """Minutes → the search of a planned file; steps cost nothing."""
    from medfuse.planning import bench

    monkeypatch.setattr(cost, "measure_step", lambda *_, **__: cost.StepCost(0.01, 2**20))
    monkeypatch.setattr(bench.Bench, "choose", lambda *_: None)
    data = write_dataset(tmp_path / "cubes", cases=8)

    def planned(minutes):
        file = tmp_path / f"for_{minutes}.yaml"
        init_pipeline(
            data,
            output=file,
            budget=2**30,
            minutes=minutes,
            trials=False,
            search=True,
            reporter=Reporter(quiet=True),
        )
        return read_search(file)

    return planned


@pytest.mark.parametrize("minutes", [5, 30, 120])
def test_every_value_that_is_written_is_admitted(spaces, minutes):
    asked = spaces(minutes)
    dimensions = {key: read_dimension(value) for key, value in asked.settings.space.items()}
    document = asked.document.copy()
    document.data.pop("search")
    gate = Gate(Space(document, asked.name, dimensions), asked.pipeline.data.read())
    gate.refuse_hopeless()
    assert gate.space.as_written("model.backbones") is not None


def test_what_is_written_for_small_structures_is_admitted_too(spaces, monkeypatch):
    from medfuse.planning import space

    monkeypatch.setattr(space, "smallest_share", lambda *_: 0.001)
    asked = spaces(120)
    dimensions = {key: read_dimension(value) for key, value in asked.settings.space.items()}
    document = asked.document.copy()
    document.data.pop("search")
    Gate(Space(document, asked.name, dimensions), asked.pipeline.data.read()).refuse_hopeless()


def test_minutes_that_no_search_can_do_with_are_refused_before_anything_is_measured(spaces):
    with pytest.raises(MedfuseError, match=r"--minutes 2: .* give 3 at least"):
        spaces(2)
    asked = spaces(3)
    plan_budget(asked.settings, asked.pipeline)


def test_more_minutes_are_given_more_to_try(spaces):
    found = [{*spaces(minutes).settings.space} for minutes in (5, 30, 120)]
    assert found[0] < found[1] < found[2]


def test_minutes_are_those_of_the_search_and_each_training_has_its_share(spaces):
    asked = spaces(60)
    assert 58 < asked.settings.minutes <= 60
    assert asked.pipeline.train.minutes < 5


def test_a_search_without_minutes_or_with_several_plans_is_refused(medfuse, tmp_path):
    for words in (["--search"], ["--search", "--minutes", "9", "--compare", "2"]):
        said = medfuse("init", tmp_path, *words)
        assert said.code == 2
        assert "--search" in said.err
