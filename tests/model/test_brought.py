"""Weights that a backbone brings along reach its network, however it is wrapped and tapped."""

from collections.abc import Mapping

import hubbed
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medfuse.api import ImageInfo, Origin
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.testing import check_backbone

IMAGE = ImageInfo(1, (8, 8, 8), (1.0, 1.0, 1.0))


def built(backbone, *, taps="forward_hook", bring_weights=True) -> Segmenter:
    settings = {
        "backbones": {"encoder": backbone},
        "taps": {"encoder": {"use": taps}},
        "fusion": {"both": {"use": "concat", "inputs": ["encoder.*"], "channels": 2}},
        "head": {"input": "both"},
    }
    plan = plan_graph(ModelSettings.model_validate(settings), IMAGE, 2)
    return build_segmenter(plan, bring_weights=bring_weights)


def found(model: Segmenter, ending: str) -> Tensor:
    (name,) = (k for k in model.backbones.state_dict() if k.endswith(ending))
    return model.backbones.state_dict()[name]


def has(model: Segmenter, weights: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(found(model, name), tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("taps", ["forward_hook", "sequential_truncation", "fx_graph"])
def test_a_network_that_is_asked_for_them_begins_with_what_its_backbone_brings(tmp_path, taps):
    weights = hubbed.write_hub(tmp_path)
    plugin = hubbed.Hubbed(folder=str(tmp_path))
    assert has(built(plugin, taps=taps), weights)
    assert not has(built(plugin, taps=taps, bring_weights=False), weights)


def test_where_they_come_from_is_known_with_a_hash_of_their_own(tmp_path):
    hubbed.write_hub(tmp_path / "net")
    (one,) = built(hubbed.Hubbed(folder=str(tmp_path / "net"))).brought.values()
    assert one.origin == Origin("net@1", "cc-by-nc-4.0")
    assert (one.tensors, one.wanted, one.share) == (9, 9, 1.0)
    assert "net@1 (cc-by-nc-4.0)" in one.summary()
    weights = hubbed.write_hub(tmp_path / "other")
    assert built(hubbed.Hubbed(folder=str(tmp_path / "other"))).brought["encoder"].sha256 == one.sha256
    save_file({**weights, "deep.bias": weights["deep.bias"] + 1}, tmp_path / "other" / "model.safetensors")
    assert built(hubbed.Hubbed(folder=str(tmp_path / "other"))).brought["encoder"].sha256 != one.sha256


@pytest.mark.parametrize(
    ("around", "hub"),
    [
        ({"use": "view", "channels": [0]}, {}),
        ({"use": "view", "channels": {"a": [0], "b": [0]}, "crop": [4, 4, 4]}, {}),
        ({"use": "slices", "neighbours": 1}, {"channels": 3, "dims": 2}),
        ({"use": "slices", "neighbours": 1, "channels": "each"}, {"channels": 3, "dims": 2}),
        ({"use": "view", "channels": "each", "sees": 3}, {"channels": 3}),
        ({"use": "edited", "edits": [{"insert_after": "stem", "module": "torch.nn.SiLU"}]}, {}),
    ],
)
def test_a_wrapped_backbone_brings_what_the_inner_one_does(tmp_path, around, hub):
    weights = hubbed.write_hub(tmp_path, **hub)
    model = built({**around, "of": hubbed.Hubbed(folder=str(tmp_path))})
    assert has(model, weights)
    assert model.brought["encoder"].tensors == len(weights)


def test_a_layer_that_was_exchanged_gets_nothing_of_what_stood_there(tmp_path):
    weights = hubbed.write_hub(tmp_path)
    edit = {"replace": "norm", "by": "torch.nn.BatchNorm3d", "arguments": {"num_features": 4}}
    inner = hubbed.Hubbed(folder=str(tmp_path))
    model = built({"use": "edited", "of": inner, "edits": [edit]})
    assert has(model, {k: t for k, t in weights.items() if not k.startswith("norm")})
    assert not found(model, "norm.running_mean").any()


@pytest.mark.parametrize("use", ["view", "slices", "edited"])
def test_a_wrapped_backbone_is_pinned_inside(tmp_path, use):
    hubbed.write_hub(tmp_path)
    edits = {"edits": [{"remove": "deep"}]} if use == "edited" else {}
    wrapped = ModelSettings.model_validate(
        {
            "backbones": {"a": {"use": use, "of": hubbed.Hubbed(folder=str(tmp_path)), **edits}},
            "head": {"input": "a.norm"},
        }
    ).backbones["a"]
    assert wrapped.pinned().of.config == {"width": 4}
    assert wrapped.origin() == Origin(f"{tmp_path.name}@1", "cc-by-nc-4.0")


def test_what_starts_from_fresh_weights_stays_as_it_is():
    (plugin,) = ModelSettings.model_validate(
        {"backbones": {"a": {"use": "view", "of": "resnet"}}, "head": {"input": "a.act"}}
    ).backbones.values()
    assert plugin.origin() is None
    assert plugin.pinned() == plugin
    assert built({"use": "unet_encoder", "base_channels": 4, "stages": 2}).brought == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {**w, "head.weight": torch.zeros(2)}, r"another network: it has no head\.weight"),
        (lambda w: {**w, "stem.bias": torch.zeros(9)}, r"another network: stem\.bias is 9 and not 4"),
        (lambda w: {}, "names weights of .*@1 and brings none"),
    ],
)
def test_weights_of_another_network_are_one_line_at_the_backbone(tmp_path, change, words):
    weights = hubbed.write_hub(tmp_path)
    save_file(change(weights), tmp_path / "model.safetensors")
    with pytest.raises(PipelineError, match=words) as caught:
        built(hubbed.Hubbed(folder=str(tmp_path)))
    assert [problem.path for problem in caught.value.problems] == [("model", "backbones", "encoder")]


def test_the_laws_of_backbones_hold(tmp_path):
    hubbed.write_hub(tmp_path)
    check_backbone(hubbed.Hubbed(folder=str(tmp_path), config={"width": 4}), IMAGE)
