"""The network that a plan describes."""

import copy
import pickle

import pytest
import torch
from torch import nn

from medfuse.api import Backbone, FeatureInfo, ImageInfo
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.resample import resize
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify

AUX = ("decoded.1", "encoder.stages.2")
UNET = {"use": "unet_encoder", "base_channels": 4, "stages": 3, "convs": 1}


def segmenter(dims: int = 2, *, fusion=None, head="decoded", aux=AUX, taps="forward_hook") -> Segmenter:
    settings = {
        "backbones": {"encoder": UNET},
        "taps": {"encoder": {"use": taps}},
        "fusion": fusion or {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"], "convs": 1}},
        "head": {"input": head},
    }
    if aux:
        settings["aux"] = {"heads": list(aux), "schedule": {"use": "constant"}}
    image = ImageInfo(1, (16,) * dims, (1.0,) * dims)
    torch.manual_seed(0)
    return build_segmenter(plan_graph(ModelSettings.model_validate(settings), image, 3))


@pytest.mark.parametrize("size", [(16, 16), (17, 19), (16, 16, 16), (13, 17, 22)])
def test_logits_have_the_size_of_the_image(size):
    model = segmenter(len(size))
    assert model(torch.randn(2, 1, *size)).shape == (2, 3, *size)


def test_auxiliary_logits_stay_on_their_own_grid():
    _, aux = segmenter()(torch.randn(1, 1, 17, 19), aux=AUX)
    assert {name: tuple(x.shape) for name, x in aux.items()} == {
        "decoded.1": (1, 3, 9, 10),
        "encoder.stages.2": (1, 3, 5, 5),
    }


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_the_predictions_that_are_summed_are_those_of_the_auxiliary_heads(channels):
    """Up to the head's bias, which each of them has and their sum once."""
    heads = ("scores.1", "scores.2", "scores.3")
    fusion = {"scores": {"use": "sum_of_logits", "inputs": ["encoder.*"], "channels": channels}}
    model = segmenter(fusion=fusion, head="scores", aux=heads)
    logits, levels = model(torch.randn(2, 1, 16, 16), aux=heads)
    bias = model.head.bias[:, None, None]
    summed = sum(resize(level - bias, (16, 16)) for level in levels.values()) + bias
    torch.testing.assert_close(summed, logits)
    assert [tuple(level.shape[1:]) for level in levels.values()] == [(3, 16, 16), (3, 8, 8), (3, 4, 4)]
    assert not [name for name in model.state_dict() if name.startswith("aux")]


def test_scores_that_the_head_does_not_sum_have_heads_of_their_own():
    fusion = {
        "scores": {"use": "sum_of_logits", "inputs": ["encoder.*"], "channels": 4},
        "fused": {"use": "concat", "inputs": ["scores", "image"]},
    }
    model = segmenter(fusion=fusion, head="fused", aux=("scores.1",))
    assert [name for name in model.state_dict() if name.startswith("aux")] == [
        "aux.scores__1.weight",
        "aux.scores__1.bias",
    ]


def test_the_main_logits_do_not_depend_on_auxiliary_heads():
    model, x = segmenter(), torch.randn(1, 1, 16, 16)
    assert torch.equal(model(x), model(x, aux=AUX)[0])


def test_what_no_head_needs_is_not_computed():
    fusion = {
        "main": {"use": "concat", "inputs": ["encoder.stages.0"]},
        "side": {"use": "concat", "inputs": ["encoder.stages.1"]},
    }
    model = segmenter(fusion=fusion, head="main", aux=["side"])
    ran = []
    model.fusion["side"].register_forward_hook(lambda *_: ran.append("side"))
    model(torch.randn(1, 1, 16, 16))
    assert ran == []


def test_a_coarse_head_is_brought_to_the_image():
    model = segmenter(
        fusion={"coarse": {"use": "concat", "inputs": ["encoder.stages.2"]}}, head="coarse", aux=()
    )
    assert model(torch.randn(1, 1, 18, 16)).shape == (1, 3, 18, 16)


def test_inputs_of_different_stride_meet_on_an_odd_grid():
    fusion = {"fused": {"use": "concat", "inputs": ["encoder.stages.1", "encoder.stages.2"]}}
    model = segmenter(fusion=fusion, head="fused", aux=())
    assert model(torch.randn(1, 1, 19, 23)).shape == (1, 3, 19, 23)


def test_gradients_reach_every_parameter():
    model = segmenter()
    logits, aux = model(torch.randn(2, 1, 16, 16), aux=AUX)
    (logits.square().mean() + sum(x.square().mean() for x in aux.values())).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("taps", ["forward_hook", "sequential_truncation"])
def test_a_copy_is_independent_and_the_same(copied, taps):
    model, x = segmenter(taps=taps), torch.randn(1, 1, 16, 16)
    twin, before = copied(model), model(x)
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert torch.equal(twin(x), before)


@pytest.mark.parametrize("taps", ["forward_hook", "sequential_truncation"])
def test_it_can_be_traced_in_one_graph(taps):
    model, x = segmenter(taps=taps), torch.randn(1, 1, 16, 16)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, aux=AUX), model(x, aux=AUX))


def test_it_runs_under_bfloat16_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = segmenter(3)(torch.randn(1, 1, 16, 16, 16), aux=AUX)
    assert torch.isfinite(logits.float()).all()


def test_memory_format_does_not_change_the_result():
    model, x = segmenter(3), torch.randn(1, 1, 16, 16, 16)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)


def test_names_in_the_state_are_those_of_the_pipeline():
    parts = {".".join(name.split(".")[:2]) for name in segmenter().state_dict()}
    assert parts == {
        "backbones.encoder",
        "fusion.decoded",
        "head.weight",
        "head.bias",
        "aux.decoded__1",
        "aux.encoder__stages__2",
    }


@pytest.mark.parametrize("name", ["type", "keys", "forward", "training"])
def test_a_node_may_be_called_anything(name):
    model = segmenter(fusion={name: {"use": "concat", "inputs": ["encoder.stages.0"]}}, head=name, aux=())
    assert not any(module.training for module in model.eval().modules())
    assert model(torch.randn(1, 1, 16, 16)).shape == (1, 3, 16, 16)


class Odd(Backbone):
    """A network that hides weights, computes in its own precision, or has lazy layers."""

    kind: str = "hidden"

    def features(self, image):
        return [FeatureInfo("a", 4, (1, 1))]

    def build(self, image):
        return {"hidden": Hidden, "bf16": InBf16, "lazy": Lazy}[self.kind]()


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.more = nn.Conv2d(1, 4, 3, padding=1), [nn.Conv2d(4, 4, 1)]

    def forward(self, x):
        return self.more[0](self.a(x))


class InBf16(Hidden):
    def __init__(self) -> None:
        super().__init__()
        self.more = []

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.a(x)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LazyConv2d(4, 3, padding=1)

    def forward(self, x):
        return self.a(x)


def odd(kind: str):
    settings = {"backbones": {"odd": Odd(kind=kind)}, "head": {"input": "odd.a"}}
    return plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (8, 8), (1.0, 1.0)), 2)


def test_weights_that_would_not_be_saved_are_refused():
    with pytest.raises(
        PipelineError, match=r"model.backbones.odd: the network keeps more\[0\] in a plain list"
    ):
        verify(odd("hidden"))


@pytest.mark.parametrize("kind", ["bf16", "lazy"])
def test_networks_of_a_precision_of_their_own_and_lazy_ones_learn(kind):
    verify(odd(kind))
    model = build_segmenter(odd(kind))
    made = model(torch.randn(2, 1, 8, 8))
    assert made.dtype == torch.float32
    made.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
