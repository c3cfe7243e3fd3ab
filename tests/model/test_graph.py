"""The graph as arithmetic: what is planned, and what every mistake in a pipeline file gets."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from medfuse.api import FeatureInfo, FusionBlock, ImageInfo
from medfuse.core.errors import PipelineError, Problem, ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.plan import GraphPlan
from medfuse.model.settings import ModelSettings

IMAGE = ImageInfo(1, (32, 32), (1.0, 1.0))
UNET = {"use": "unet_encoder", "base_channels": 4, "stages": 3}
DECODER = {"use": "unet_decoder", "inputs": ["encoder.*"]}


class Refuses(FusionBlock):
    """Fits nothing."""

    def plan(self, inputs):
        raise ShapeError("too odd for me")


def plan(
    fusion=None, head="decoded", *, backbones=None, taps=None, aux=(), image=IMAGE, **weighed
) -> GraphPlan:
    settings = {
        "backbones": backbones or {"encoder": UNET},
        "taps": taps or {},
        "fusion": {"decoded": DECODER} if fusion is None else fusion,
        "head": {"input": head},
    }
    if aux:
        settings["aux"] = {"heads": list(aux), **(weighed or {"schedule": {"use": "constant"}})}
    return plan_graph(ModelSettings.model_validate(settings), image, 2)


def problems(*args, **kwargs) -> list[Problem]:
    with pytest.raises(PipelineError) as caught:
        plan(*args, **kwargs)
    return list(caught.value.problems)


def the_problem(*args, **kwargs) -> Problem:
    (problem,) = problems(*args, **kwargs)
    return problem


def test_planning_imports_no_torch():
    code = """if True:
        import sys
        from medfuse.api import ImageInfo
        from medfuse.model.graph import plan_graph
        from medfuse.model.settings import ModelSettings
        fusion = {"d": {"use": "unet_decoder", "inputs": ["e.*"]}}
        settings = {"backbones": {"e": "unet_encoder"}, "fusion": fusion, "head": {"input": "d"}}
        plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (32, 32), (1.0, 1.0)), 2)
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_star_means_every_feature_finest_first():
    assert [f.name for f in plan().nodes[0].inputs] == [f"encoder.stages.{i}" for i in range(3)]


def test_nodes_stand_in_the_order_of_computation():
    fusion = {
        "late": {"use": "concat", "inputs": ["early", "image"]},
        "early": {"use": "concat", "inputs": ["encoder.stages.1"]},
    }
    assert [node.name for node in plan(fusion, "late").nodes] == ["early", "late"]


def test_only_named_features_are_tapped():
    made = plan({"fused": {"use": "concat", "inputs": ["encoder.stages.1"]}}, "fused")
    assert [tap.name for tap in made.backbones[0].taps] == ["stages.1"]


SCORES = {"scores": {"use": "sum_of_logits", "inputs": ["encoder.*"], "channels": 4}}


@pytest.mark.parametrize("weights", [[0.3, 0.2, 0.1], [1, 0.3, 0.2, 0.1]])
def test_fixed_weights_are_those_of_the_heads_and_of_the_main_loss_in_front(weights):
    made = plan(SCORES, "scores", aux=["scores.*"], weights=weights)
    assert made.aux == ("scores.1", "scores.2", "scores.3")
    settings = ModelSettings.model_validate(
        {
            "backbones": {"encoder": UNET},
            "head": {"input": "image"},
            "aux": {"heads": ["a"], "weights": weights},
        }
    )
    assert settings.aux.fixed(3) == (1, 0.3, 0.2, 0.1)


@pytest.mark.parametrize("weights", [[1], [1, 0.3], [1, 0.3, 0.2, 0.1, 0.1]])
def test_fixed_weights_of_another_number_are_placed(weights):
    problem = the_problem(SCORES, "scores", aux=["scores.*"], weights=weights)
    assert problem.path == ("model", "aux", "weights")
    assert (
        f"{len(weights)} weights for 3 heads (scores.1, scores.2, scores.3); give 3, or 4" in problem.message
    )


def test_learned_weights_are_not_fixed():
    learned = {"use": "uncertainty"}
    problem = the_problem(SCORES, "scores", aux=["scores.*"], weights=[1, 1, 1], schedule=learned)
    assert problem.path == ("model", "aux", "weights")
    assert "learns the weights; remove `weights`" in problem.message


@pytest.mark.parametrize("aux", [{}, {"weights": [0, 0]}, {"weights": []}, {"weights": [1, -1]}])
def test_heads_that_weigh_nothing_are_refused(aux):
    settings = {"backbones": {"encoder": UNET}, "head": {"input": "image"}, "aux": {"heads": ["a"], **aux}}
    with pytest.raises(ValidationError, match=r"aux"):
        ModelSettings.model_validate(settings)


def test_only_the_sum_under_the_head_is_made_of_predictions():
    assert plan(SCORES, "scores").summed == {"scores.1", "scores.2", "scores.3"}
    above = {**SCORES, "fused": {"use": "concat", "inputs": ["scores", "image"]}}
    assert plan(above, "fused").summed == frozenset()
    assert plan().summed == frozenset()


def test_side_outputs_can_be_supervised_by_star():
    assert plan(aux=["decoded.*"]).aux == ("decoded.1",)


def test_two_backbones_meet_in_one_node():
    fusion = {"both": {"use": "concat", "inputs": ["a.stages.0", "b.stages.0"]}}
    assert plan(fusion, "both", backbones={"a": UNET, "b": UNET}).features["both"].channels == 8


@pytest.mark.parametrize(
    ("resample_to", "stride"), [("finest", (1, 1)), ("coarsest", (4, 4)), ("encoder.stages.1", (2, 2))]
)
def test_inputs_are_brought_to_the_grid_that_is_asked_for(resample_to, stride):
    inputs = ["encoder.stages.0", "encoder.stages.1", "encoder.stages.2"]
    made = plan({"fused": {"use": "concat", "inputs": inputs, "resample_to": resample_to}}, "fused")
    assert {f.stride for f in made.nodes[0].inputs} == {stride}


def test_the_finest_grid_is_chosen_per_axis():
    strides = {"a": [[1, 1], [1, 4]], "b": [[1, 1], [2, 2]]}
    backbones = {name: {**UNET, "stages": "auto", "strides": s} for name, s in strides.items()}
    fusion = {"both": {"use": "concat", "inputs": ["a.stages.1", "b.stages.1"]}}
    assert plan(fusion, "both", backbones=backbones).features["both"].stride == (1, 2)


def test_rows_say_who_makes_and_who_uses_each_map():
    row = next(r for r in plan(aux=["decoded.1"]).rows() if r["name"] == "decoded.1")
    assert (row["made_by"], row["channels"], row["size"], row["used_by"]) == (
        "unet_decoder",
        8,
        [16, 16],
        ["aux"],
    )


def test_every_box_of_the_picture_comes_after_its_inputs():
    seen = set()
    for view in plan(aux=["decoded.1", "encoder.stages.1"]).views():
        assert set(view.inputs) <= seen
        seen.add(view.name)


def test_the_table_has_a_line_per_map():
    made = plan()
    assert len(made.table().splitlines()) == 1 + len(made.features)


def test_an_unknown_layer_lists_what_there_is():
    problem = the_problem({"decoded": {"use": "unet_decoder", "inputs": ["encoder.*", "encoder.stage.1"]}})
    assert problem.path == ("model", "fusion", "decoded", "inputs", 1)
    assert "did you mean 'encoder.stages.1'? (it has: encoder.stages.0" in problem.message


def test_an_unknown_name_is_told_with_the_nearest():
    problem = the_problem(head="decodde")
    assert problem.path == ("model", "head", "input")
    assert "no feature map is named 'decodde'; did you mean 'decoded'?" in problem.message


def test_an_unknown_auxiliary_head_is_told_at_its_index():
    assert the_problem(aux=["decoded.1", "decoded.9"]).path == ("model", "aux", "heads", 1)


def test_a_backbone_is_not_a_map():
    assert "'encoder' is a backbone; name a feature of it" in the_problem(head="encoder").message


def test_the_head_takes_one_map():
    assert "the head takes one map" in the_problem(head="encoder.*").message


def test_a_circle_is_drawn():
    fusion = {"a": {"use": "concat", "inputs": ["b"]}, "b": {"use": "concat", "inputs": ["a"]}}
    problem = the_problem(fusion, "a")
    assert problem.path == ("model", "fusion", "b", "inputs", 0)
    assert "a → b → a" in problem.message


def test_a_node_that_needs_itself_is_a_circle():
    assert "a → a" in the_problem({"a": {"use": "concat", "inputs": ["image", "a"]}}, "a").message


def test_an_unused_node_is_refused():
    fusion = {"decoded": DECODER, "idle": {"use": "concat", "inputs": ["image"]}}
    problem = the_problem(fusion)
    assert problem.path == ("model", "fusion", "idle")


def test_an_unused_backbone_is_refused():
    problem = the_problem(backbones={"encoder": UNET, "idle": UNET})
    assert problem.path == ("model", "backbones", "idle")


def test_a_node_and_a_backbone_may_not_share_a_name():
    problem = the_problem({"encoder": {"use": "concat", "inputs": ["image"]}}, "encoder.stages.0")
    assert "a backbone has this name" in problem.message


@pytest.mark.parametrize("name", ["image", "a.b", "a b", "1a", ""])
def test_names_that_a_reference_could_not_tell_apart_are_refused(name):
    fusion = {name: {"use": "concat", "inputs": ["encoder.stages.0"]}}
    assert ("model", "fusion", name) in [p.path for p in problems(fusion, "encoder.stages.0")]


def test_only_listed_layers_may_be_named():
    taps = {"encoder": {"use": "forward_hook", "layers": ["stages.0", "stages.1"]}}
    problem = the_problem(head="encoder.stages.2", fusion={}, taps=taps)
    assert "as model.taps.encoder.layers limits it," in problem.message


def test_a_listed_layer_that_does_not_exist_is_told_at_its_index():
    taps = {"encoder": {"use": "forward_hook", "layers": ["stages.*", "stages.7"]}}
    assert the_problem(taps=taps).path == ("model", "taps", "encoder", "layers", 1)


def test_a_tap_that_nothing_uses_is_refused():
    taps = {"encoder": {"use": "forward_hook", "layers": ["stages.0", "stages.1"]}}
    problem = the_problem(head="encoder.stages.0", fusion={}, taps=taps)
    assert problem.path == ("model", "taps", "encoder", "layers", 1)


def test_taps_of_an_unknown_backbone_are_refused():
    assert "did you mean 'encoder'" in the_problem(taps={"encodr": {"use": "forward_hook"}}).message


def test_a_grid_that_is_no_input_is_refused():
    fusion = {"fused": {"use": "concat", "inputs": ["encoder.*"], "resample_to": "coarset"}}
    problem = the_problem(fusion, "fused")
    assert problem.path == ("model", "fusion", "fused", "resample_to")
    assert "did you mean 'coarsest'?" in problem.message


def test_resampling_means_nothing_to_a_decoder():
    problem = the_problem({"decoded": {**DECODER, "resample_to": "coarsest"}})
    assert "takes its inputs as they are; remove `resample_to`" in problem.message


def test_settings_written_out_in_full_plan_the_same_graph():
    settings = ModelSettings.model_validate(
        {"backbones": {"encoder": UNET}, "fusion": {"decoded": DECODER}, "head": {"input": "decoded"}}
    )
    again = ModelSettings.model_validate(settings.model_dump(mode="json", exclude_none=True))
    assert plan_graph(again, IMAGE, 2).rows() == plan_graph(settings, IMAGE, 2).rows()


def test_a_block_that_refuses_is_told_at_its_node():
    problem = the_problem({"odd": Refuses(inputs=("encoder.stages.0",))}, "odd")
    assert problem == Problem(("model", "fusion", "odd"), "too odd for me")


def test_a_block_of_another_dimension_is_blamed():
    class Flat(Refuses):
        def plan(self, inputs):
            return FeatureInfo("flat", 1, (1, 1, 1))

    problem = the_problem({"flat": Flat(inputs=("encoder.stages.0",))}, "flat")
    assert "fusion block 'Flat' declares 3-D strides for flat; the patch is 2-D" in problem.message


def test_all_problems_come_at_once():
    found = problems(
        {"decoded": {"use": "unet_decoder", "inputs": ["encodr.*"]}}, "imag", aux=["encoder.stages.9"]
    )
    assert [p.path[1] for p in found] == ["fusion", "head", "aux"]
