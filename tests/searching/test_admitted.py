"""What `check` refuses costs no training, and a value that nothing admits is refused at the beginning."""

import random
import re

import pytest
from spaces import gate

from medfuse.core.errors import MedfuseError, PipelineError
from medfuse.searching.admitted import draw
from medfuse.space.dimensions import Range, Subset


def hopeless(folder, space, *overrides):
    with pytest.raises(PipelineError) as refused:
        gate(folder, space, *overrides).refuse_hopeless()
    return {p.path[3:]: p.message for p in refused.value.problems}


def test_what_the_graph_does_not_admit_is_refused(tmp_path):
    cubes = gate(tmp_path, {"model.fusion.decoded.use": ["unet_decoder", "fpn"]})
    with pytest.raises(MedfuseError, match="no feature map 'decoded"):  # of the auxiliary heads
        cubes.admit({"model.fusion.decoded.use": "fpn"})


def test_a_value_that_only_another_choice_admits_is_fine(tmp_path):
    schedule = {"model.aux.schedule": [{"use": "constant"}, "none"]}
    gate(tmp_path, {"model.fusion.decoded.use": ["unet_decoder", "fpn"], **schedule}).refuse_hopeless()


def test_a_value_that_no_combination_admits_is_refused_at_its_place(tmp_path):
    found = hopeless(tmp_path, {"model.fusion.decoded.use": ["unet_decoder", "fpn"]})
    assert [*found] == [(1,)]
    assert "no combination of the space admits it" in found[(1,)]


@pytest.mark.parametrize("values", [{"log": [1e-4, 1e-2]}, [1, 2], {"subset_of": ["a", "b"]}])
@pytest.mark.parametrize("key", ["train.learnin_rate", "model.fusion.decoded.depths"])
def test_a_key_that_the_pipeline_lacks_is_refused_once(tmp_path, key, values):
    found = hopeless(tmp_path, {key: values})
    assert [*found] == [()]
    assert "has no such key" in found[()]


@pytest.mark.parametrize(
    "key", ["model.fusion.decode.use", "model.backbones.encodr.stages", "model.fusion.decode.inputs"]
)
def test_a_node_that_the_pipeline_lacks_is_refused_with_those_that_it_has(tmp_path, key):
    found = hopeless(tmp_path, {key: ["fpn", "unet_decoder"]})
    assert [*found] == [()]
    assert re.search(r"no such key; did you mean '(decoded|encoder)'\? \(known: ", found[()])


def test_a_parameter_of_no_choice_is_a_key_that_there_is_not(tmp_path):
    found = hopeless(tmp_path, {"loss": ["dice_ce", "tversky"], "loss.alpha": {"range": [0, 1]}})
    assert [*found] == [()]


def test_a_range_is_refused_at_the_end_that_is_none(tmp_path):
    assert [*hopeless(tmp_path, {"augment.noise": {"range": [0.5, 1.5]}})] == [("range", 1)]


def test_values_that_are_one_pipeline_in_other_words_are_refused(tmp_path):
    space = {"loss": ["dice_ce", "tversky", {"use": "tversky"}], "train.optimizer": ["sgd", "adamw"]}
    found = hopeless(tmp_path, space)
    assert found == {(2,): "{use: tversky}: is the same pipeline as tversky; keep one"}


@pytest.mark.parametrize(
    "space",
    [
        {"loss": ["dice_ce"]},
        {"loss": ["dice_ce"], "train.optimizer": ["sgd"]},
        {"model.fusion.decoded.inputs": {"subset_of": ["encoder.*"], "at_least": 1}},
    ],
)
def test_a_space_of_the_file_alone_is_refused(tmp_path, space):
    with pytest.raises(PipelineError) as refused:
        gate(tmp_path, space).refuse_hopeless()
    assert [p.path for p in refused.value.problems] == [("search", "space")]
    gate(tmp_path / "more", {**space, "train.clip": [3.0]}).refuse_hopeless()


def test_a_graph_is_verified_once_for_all_its_trials(tmp_path, monkeypatch):
    from medfuse.model import verify

    seen = []
    plain = verify.verify
    monkeypatch.setattr(verify, "verify", lambda plan, **how: seen.append(plan) or plain(plan, **how))
    cubes = gate(tmp_path, {"train.clip": [3.0, 4.0], "model.fusion.decoded.use": ["unet_plus_plus"]})
    cubes.verified = verify.Verified()
    for values in ({"train.clip": 3.0}, {"train.clip": 4.0}, {}):
        cubes.admit(values)
    assert len(seen) == 1
    cubes.admit({"model.fusion.decoded.use": "unet_plus_plus"})
    assert len(seen) == 2
    with pytest.raises(MedfuseError, match="no feature map"):
        cubes.admit({"model.fusion.decoded.use": "fpn"})


@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_lies_in_the_space(seed):
    dimensions = {"a": Range(1e-4, 1.0, log=True), "b": Range(2, 4, whole=True), "c": Subset((1, 2, 3), 2)}
    made = draw(dimensions, random.Random(seed))
    assert 1e-4 <= made["a"] <= 1
    assert made["b"] in (2, 3, 4)
    assert len(made["c"]) >= 2
    assert made["c"] == sorted(made["c"])
