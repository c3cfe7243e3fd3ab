"""A combination of values becomes a pipeline: what has no meaning in it goes, and the file stays as it is."""

import copy
import random

import pytest
from spaces import gate

from medfuse.core.errors import MedfuseError, PipelineError
from medfuse.pipeline import resolved
from medfuse.space.dimensions import read_dimension

LOSSES = ["dice_ce", "tversky", {"use": "sum", "terms": ["dice_ce", "boundary"]}]
SPACE = {
    "model.fusion.decoded.use": ["unet_decoder", "fpn", "hypercolumn"],
    "model.fusion.decoded.channels": {"int": [4, 8]},
    "model.aux.schedule": [{"use": "constant", "weight": 0.5}, "none"],
    "loss": LOSSES,
    "loss.false_positives": {"range": [0.1, 0.9]},
    "train.learning_rate": {"log": [1e-4, 1e-2]},
}


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    return gate(tmp_path_factory.mktemp("space"), SPACE)


def test_no_values_are_the_file_as_it_is_written(cubes):
    from medfuse.pipeline import parse_pipeline

    made = cubes.space.combine({})
    assert made.values == {}
    assert resolved(made.pipeline) == resolved(parse_pipeline(cubes.space.document, default_name="cubes"))


def test_combining_leaves_file_and_space_as_they_were(cubes):
    before = copy.deepcopy((cubes.space.document.data, LOSSES))
    cubes.space.combine({"loss": LOSSES[2], "loss.false_positives": 0.3, "model.fusion.decoded.use": "fpn"})
    assert (cubes.space.document.data, LOSSES) == before


@pytest.mark.parametrize(("loss", "has"), [("dice_ce", False), ("tversky", True), (LOSSES[2], False)])
def test_a_parameter_counts_where_the_chosen_plugin_has_it(cubes, loss, has):
    made = cubes.space.combine({"loss.false_positives": 0.3, "loss": loss})
    assert ("loss.false_positives" in made.values) == has


def test_what_the_file_says_of_another_plugin_goes_with_it(tmp_path):
    cubes = gate(tmp_path, {"loss.use": ["tversky", "dice_ce"]}, "loss={use: tversky, false_positives: 0.4}")
    assert not hasattr(cubes.space.combine({"loss.use": "dice_ce"}).pipeline.loss, "false_positives")
    assert cubes.space.combine({"loss.use": "tversky"}).pipeline.loss.false_positives == 0.4


def test_none_takes_out_what_the_file_has(cubes):
    assert cubes.space.combine({"model.aux.schedule": "none"}).pipeline.model.aux is None


def test_none_stays_where_it_is_a_value(tmp_path):
    made = gate(tmp_path, {"train.decay": ["none", "poly"]}).space.combine({"train.decay": "none"})
    assert made.pipeline.train.decay == "none"


def test_what_stands_below_something_left_out_has_no_meaning(tmp_path):
    space = {"model.aux": [None, {"heads": ["decoded.*"]}], "model.aux.weights": [[0.5], [1.0]]}
    made = gate(tmp_path, space).space.combine({"model.aux": None, "model.aux.weights": [0.5]})
    assert made.values == {"model.aux": None}


@pytest.mark.parametrize("key", ["train.learnin_rate", "augment.plugins[3].use", "name.first"])
def test_a_key_that_is_none_is_refused(tmp_path, key):
    with pytest.raises(MedfuseError):
        gate(tmp_path, {}).space.combine({key: 1})


def test_a_value_that_is_none_is_refused_at_its_key(cubes):
    with pytest.raises(PipelineError) as refused:
        cubes.space.combine({"train.learning_rate": -1.0})
    assert refused.value.problems[0].path == ("train", "learning_rate")


def test_values_of_the_file_are_known_as_such(tmp_path):
    space = {"train.learning_rate": {"log": [1e-4, 1e-1]}, "loss": ["tversky", "dice_ce"]}
    made = gate(tmp_path, space, "train.learning_rate=0.01", "loss={use: tversky}").space
    assert made.prior() == {"train.learning_rate": 0.01, "loss": "tversky"}
    assert made.differing({"train.learning_rate": 0.01, "loss": "dice_ce"}) == {"loss": "dice_ce"}


def test_saying_a_default_says_nothing_of_other_plugins(tmp_path):
    """So the file and its `yaml`, which says every value, are one space."""
    from medfuse.core.document import Document
    from medfuse.pipeline import yaml_of
    from medfuse.searching.admitted import draw
    from medfuse.searching.combination import Space

    short = gate(tmp_path, {}, "loss={use: tversky, false_positives: 0.4}").space
    whole = Document.parse(yaml_of(short.combine({}).pipeline), source="whole", base=tmp_path)
    space = {**SPACE, "train.optimizer": ["adamw", "sgd"], "loss": ["tversky", "focal", "dice_ce"]}
    dimensions = {key: read_dimension(value) for key, value in space.items()}
    a, b = (Space(document, "cubes", dimensions) for document in (short.document, whole))
    assert a.prior() == b.prior()
    chance = random.Random(1)
    for _ in range(20):
        values = draw(dimensions, chance)
        assert a.identity(values) == b.identity(values)
        assert a.combine(values).values == b.combine(values).values


@pytest.mark.parametrize(
    ("space", "prior"),
    [
        ({"train.optimizer": ["adamw", "sgd"]}, "train.optimizer"),
        ({"loss": ["tversky", {"use": "dice_ce"}]}, "loss"),
        ({"loss.use": ["tversky", "dice_ce"]}, "loss.use"),
        ({"infer.overlap": [0.25, 0.5]}, "infer.overlap"),
        ({"sample.foreground": {"range": [0.0, 1.0]}}, "sample.foreground"),
    ],
)
def test_defaults_are_values_of_the_file(tmp_path, space, prior):
    made = gate(tmp_path, space).space
    assert [*made.prior()] == [prior]
    assert made.differing(made.prior()) == {}
    assert made.identity(made.prior()) == made.identity({})


def test_one_pipeline_in_other_words_is_the_same(cubes):
    one = cubes.space.identity({"loss": "tversky"})
    assert one == cubes.space.identity({"loss": {"use": "tversky"}})
    assert one != cubes.space.identity({"loss": {"use": "tversky", "false_positives": 0.9}})
