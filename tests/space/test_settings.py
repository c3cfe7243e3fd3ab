"""What a `search:` section may say: every problem at once, at its place."""

import pytest
from pydantic import ValidationError

from medfuse.pipeline import problems_of
from medfuse.space.settings import FIXED, SearchSettings

SPACE = {"loss": ["dice_ce", "tversky"]}


def problems(**section):
    section = {"trials": 4, "space": SPACE, **section}
    try:
        SearchSettings.model_validate(section)
    except ValidationError as error:
        return {p.path: p.message for p in problems_of(error, SearchSettings, section)}
    return {}


def test_every_key_that_is_wrong_is_told():
    space = {
        "seed": [1, 2],
        "train.learning_rate": {"log": [0, 1]},
        "loss": [],
        "sample.foreground": [0.1, 0.5],
    }
    found = problems(space=space)
    assert [*found] == [("space", key) for key in ("seed", "train.learning_rate", "loss")]


@pytest.mark.parametrize("name", FIXED)
def test_what_makes_trials_incomparable_is_refused_however_it_is_spelled(name):
    spelled = {name, f"{name}.inner", f"{name}[inner]", name.replace(".", "[", 1) + "]" * name.count(".")}
    for key in spelled:
        assert "cannot be searched" in problems(space={key: [1, 2]})["space", key]
    around = name.rpartition(".")[0]
    assert not around or "as a whole" in problems(space={around: [{"a": 1}, {"a": 2}]})["space", around]


@pytest.mark.parametrize(
    ("first", "second"), [("loss", "loss.use"), ("loss.use", "loss"), ("train.optimizer", "train[optimizer]")]
)
def test_two_keys_that_decide_one_thing_are_refused(first, second):
    found = problems(space={first: ["a", "b"], second: ["c", "d"], "loss.alpha": [1, 2]})
    assert found == {("space", second): f"decides what {first} decides; keep one of them"}


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"space": {}}, [("space",)]),
        ({"objectives": ["dice", "speed"]}, [("objectives", 1)]),
        ({"objectives": ["parameters"]}, [("objectives",)]),
        ({"objectives": []}, [("objectives",)]),
        ({"seeds": [3, 3]}, [("seeds",)]),
        ({"seeds": [-1, 5]}, [("seeds", 0)]),
        ({"seeds": 0}, [("seeds",)]),
        ({"seeds": "three"}, [("seeds",)]),
        ({"minutes": 0, "trials": 1}, [("minutes",), ("trials",)]),
        ({"minutes": float("nan")}, [("minutes",)]),
        ({"trials": None}, [("trials",)]),
        ({"method": "bayes", "rungs": 0}, [("method",), ("rungs",)]),
    ],
)
def test_each_mistake_has_one_line(section, where):
    assert sorted(problems(**section)) == sorted(where)
