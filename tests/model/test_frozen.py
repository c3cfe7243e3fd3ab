"""Maps that never change: which they are, and a network that starts from them."""

import pytest
import torch

from medfuse.api import ImageInfo
from medfuse.model.frozen import frozen_maps
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import Given, build_segmenter
from medfuse.model.settings import ModelSettings

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))


def graph(**model):
    values = {"backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3}}, **model}
    return plan_graph(ModelSettings.model_validate(values), IMAGE, 2)


def frozen(plan, *prefixes):
    names = [name for name, _ in build_segmenter(plan).named_parameters()]
    return frozen_maps(plan, names, lambda name: name.startswith(prefixes))


DECODER = {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}}
SUMMED = {
    "scores": {"use": "sum_of_logits", "inputs": ["encoder.stages.1", "encoder.stages.2"], "channels": 3}
}


def test_what_learns_is_given_the_taps_of_a_frozen_backbone():
    found = frozen(graph(fusion=DECODER, head={"input": "decoded"}), "backbones.encoder.")
    assert found.maps == ("encoder.stages.0", "encoder.stages.1", "encoder.stages.2")
    assert (found.parts, found.needs_image, dict(found.learning)) == (("encoder",), False, {})


def test_only_taps_that_the_graph_uses_are_kept():
    found = frozen(graph(fusion=SUMMED, head={"input": "scores"}), "backbones.encoder.")
    assert found.maps == ("encoder.stages.1", "encoder.stages.2")


def test_an_auxiliary_head_is_given_its_map_too():
    plan = graph(
        fusion=SUMMED, head={"input": "scores"}, aux={"heads": ["encoder.stages.0"], "weights": [1, 1]}
    )
    assert frozen(plan, "backbones.encoder.").maps == tuple(f"encoder.stages.{i}" for i in range(3))


def test_a_backbone_of_which_anything_learns_runs_as_usual():
    found = frozen(graph(fusion=DECODER, head={"input": "decoded"}), "backbones.encoder.backbone.stages.0.")
    assert (found.maps, found.needs_image) == ((), True)
    assert found.learning["encoder"]
    assert "encoder learns" in found.reason()


def test_of_a_frozen_decoder_its_output_is_kept_and_nothing_below_it():
    nodes = {**DECODER, "wider": {"use": "hypercolumn", "inputs": ["decoded", "image"], "channels": 4}}
    plan = graph(fusion=nodes, head={"input": "wider"})
    found = frozen(plan, "backbones.encoder.", "fusion.decoded.")
    assert (found.maps, found.needs_image) == (("decoded",), True)
    assert found.parts == ("encoder", "decoded")


def test_a_node_without_parameters_runs_at_each_step():
    two = {name: {"use": "unet_encoder", "base_channels": 4, "stages": 2} for name in ("one", "other")}
    nodes = {
        "summed": {"use": "add", "inputs": ["one.stages.1", "other.stages.1"]},
        "scores": {"use": "sum_of_logits", "inputs": ["summed"], "channels": 3},
    }
    plan = graph(backbones=two, fusion=nodes, head={"input": "scores"})
    assert frozen(plan, "backbones.").maps == ("one.stages.1", "other.stages.1")


def test_a_second_backbone_that_learns_sees_the_image():
    two = {name: {"use": "unet_encoder", "base_channels": 4, "stages": 2} for name in ("still", "moving")}
    nodes = {"decoded": {"use": "hypercolumn", "inputs": ["still.*", "moving.*"], "channels": 4}}
    found = frozen(graph(backbones=two, fusion=nodes, head={"input": "decoded"}), "backbones.still.")
    assert (found.maps, found.needs_image) == (("still.stages.0", "still.stages.1"), True)


def test_a_teacher_that_no_loss_teaches_is_kept_unasked():
    two = {name: {"use": "unet_encoder", "base_channels": 4, "stages": 2} for name in ("student", "teacher")}
    losses = {
        "alike": {"use": "feature_matching", "maps": ["student.stages.1", "teacher.stages.1"], "weight": 0.2}
    }
    nodes = {"decoded": {"use": "unet_decoder", "inputs": ["student.*"]}}
    plan = graph(backbones=two, fusion=nodes, head={"input": "decoded"}, activation_losses=losses)
    assert frozen(plan, "none").maps == ("teacher.stages.1",)


def test_from_given_maps_a_network_says_what_it_says_of_the_image():
    plan = graph(fusion=DECODER, head={"input": "decoded"}, aux={"heads": ["decoded.1"], "weights": [1, 1]})
    model, image = build_segmenter(plan), torch.randn(2, 1, 16, 16)
    names = frozen(plan, "backbones.encoder.").maps
    given = Given(model.maps_of(image, names))
    whole, inner = model(image, aux=("decoded.1",))
    blank, from_maps = torch.zeros(2, 1, 16, 16), model(torch.zeros(2, 1, 16, 16), ("decoded.1",), (), given)
    assert torch.equal(from_maps[0], whole)
    assert torch.equal(from_maps[1]["decoded.1"], inner["decoded.1"])
    assert not torch.equal(model(blank), whole)


def test_a_backbone_whose_maps_are_given_does_not_run():
    plan = graph(fusion=DECODER, head={"input": "decoded"})
    model, image = build_segmenter(plan), torch.randn(2, 1, 16, 16)
    given = Given(model.maps_of(image, frozen(plan, "backbones.encoder.").maps))
    model.backbones["encoder"].forward = lambda image: pytest.fail("it ran")
    assert model(image, given=given).shape == (2, 2, 16, 16)


def test_maps_that_are_shifted_are_given_as_they_are_used():
    taps = {"encoder": {"use": "forward_hook", "align": "start"}}
    plan = graph(taps=taps, fusion=DECODER, head={"input": "decoded"})
    model, image = build_segmenter(plan), torch.randn(2, 1, 16, 16)
    given = Given(model.maps_of(image, frozen(plan, "backbones.encoder.").maps))
    assert torch.equal(model(image, given=given), model(image))
