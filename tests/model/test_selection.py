"""Names and globs of maps, of those too that the graph does not tap."""

import pytest
import torch

from medfuse import MedfuseError
from medfuse.api import ImageInfo
from medfuse.model.graph import plan_graph
from medfuse.model.plan import GraphPlan
from medfuse.model.segmenter import build_segmenter
from medfuse.model.selection import select, selection_problems, tap_further
from medfuse.model.settings import ModelSettings


def graph(inputs=("encoder.stages.0", "encoder.stages.1")) -> GraphPlan:
    settings = {
        "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3, "convs": 2}},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": list(inputs), "convs": 1}},
        "head": {"input": "decoded"},
    }
    return plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (16, 16), (1.0, 1.0)), 2)


def names(found) -> list[str]:
    return [f.name for f in found]


def test_a_glob_stands_for_maps_of_the_graph_and_each_is_chosen_once():
    found = select(graph(), ["encoder.stages.1", "encoder.*", "image"])
    assert names(found) == ["encoder.stages.1", "encoder.stages.0", "image"]


def test_a_glob_does_not_mean_the_image():
    assert "image" not in names(select(graph(), ["*"]))


def test_a_mistyped_name_is_placed_with_what_it_is_near_to():
    (problem,) = selection_problems(graph(), ["decoded", "decodd"], ("report", "maps"))
    assert problem.path == ("report", "maps", 1)
    assert "no feature map is named 'decodd'; did you mean 'decoded'? (there are: image, " in problem.message


def test_a_layer_that_the_graph_does_not_tap_is_tapped_and_changes_nothing_else():
    plan = graph()
    wider = tap_further(plan, ["encoder.stages.2", "decoded"])
    torch.manual_seed(0)
    model = build_segmenter(plan).eval()
    more = build_segmenter(wider).eval()
    more.load_state_dict(model.state_dict())
    image = torch.randn(1, 1, 16, 16)
    logits, _, maps = more(image, (), ("encoder.stages.2",))
    assert torch.equal(logits, model(image))
    (feature,) = select(wider, ["encoder.stages.2"])
    assert maps[feature.name].shape == (1, feature.channels, *feature.size((16, 16)))


def test_a_glob_reaches_untapped_layers_only_where_it_matches_no_map():
    assert tap_further(graph(), ["encoder.stages.*"]) == graph()
    inner = set(names(select(tap_further(graph(), ["encoder.stages.2.*"]), ["encoder.stages.2.*"])))
    assert inner
    assert all(name.startswith("encoder.stages.2.") for name in inner)


def test_a_layer_that_there_is_not_is_refused_with_what_there_is():
    with pytest.raises(
        MedfuseError, match=r"'encoder.stages.7'; did you mean .* \(there are: image, encoder.s"
    ):
        tap_further(graph(), ["encoder.stages.7"])
