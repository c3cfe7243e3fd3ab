"""Losses on inner maps, from the pipeline file to the tensors that they get."""

import pytest
import torch

from medfuse.api import ImageInfo
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.plan import GraphPlan
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings


def plan(**losses) -> GraphPlan:
    settings = {
        "backbones": {
            "student": {"use": "unet_encoder", "base_channels": 4, "stages": 3, "convs": 1},
            "teacher": {"use": "unet_encoder", "base_channels": 6, "stages": 3, "convs": 1},
        },
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["student.*"], "convs": 1}},
        "head": {"input": "decoded"},
        "activation_losses": losses,
    }
    return plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (16, 16), (1.0, 1.0)), 2)


MATCH = {"use": "feature_matching", "maps": ["student.stages.2", "teacher.stages.1"], "weight": 0.5}


def test_a_backbone_that_only_a_loss_looks_at_is_used():
    made = plan(distilled=MATCH)
    assert [tap.name for tap in made.backbones[1].taps] == ["stages.1"]
    (row,) = (row for row in made.rows() if row["name"] == "teacher.stages.1")
    assert row["used_by"] == ["distilled"]


def test_maps_come_by_their_names_and_the_teacher_only_when_asked_for():
    made = plan(distilled=MATCH)
    model, x = build_segmenter(made), torch.randn(1, 1, 16, 16)
    logits, aux, maps = model(x, maps=("student.stages.2", "teacher.stages.1"))
    assert torch.equal(logits, model(x))
    assert aux == {}
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "student.stages.2": (1, 16, 4, 4),
        "teacher.stages.1": (1, 12, 8, 8),
    }
    model.backbones["teacher"].register_forward_hook(lambda *_: pytest.fail("the teacher ran"))
    model(x)


@pytest.mark.parametrize(
    ("loss", "path", "message"),
    [
        ({"maps": ["student.stages.9", "teacher.stages.1"]}, ("maps", 0), "has no feature map"),
        ({"maps": ["teacher.stages.1"]}, (), "takes two maps"),
    ],
)
def test_what_does_not_fit_is_refused_in_its_place(loss, path, message):
    with pytest.raises(PipelineError, match=message) as caught:
        plan(distilled=MATCH | loss)
    assert caught.value.problems[0].path == ("model", "activation_losses", "distilled", *path)
