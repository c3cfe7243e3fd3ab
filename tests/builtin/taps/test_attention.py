"""What blocks attend to, as a map: by their own weights, of each head or of their mean."""

import copy
import pickle

import pytest
import torch
from torch import nn
from vits import Attention, Block, ViT

from medfuse import registry
from medfuse.api import ImageInfo, TapStrategy
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.selection import select, selection_problems, tap_further
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify

IMAGE = ImageInfo(1, (32, 48), (1.0, 1.0))
NAME = "encoder.blocks.2[attention]"


def planned(attention: str | None, inputs=("encoder.*", NAME), target="vits:ViT", **parameters):
    settings = {
        "backbones": {"encoder": {"use": "module", "target": target, "parameters": parameters}},
        "taps": {"encoder": {"use": "tokens", "layers": [2, 3], "attention": attention}},
        "fusion": {"all": {"use": "concat", "inputs": [*inputs], "channels": 4}},
        "head": {"input": "all"},
    }
    return plan_graph(ModelSettings.model_validate(settings), IMAGE, 2)


def weights_of(network: ViT, x: torch.Tensor, number: int) -> torch.Tensor:
    """(batch, heads, asking, asked), by the definition."""
    tokens = network.embedded(x)
    for block in network.blocks[:number]:
        tokens = block(tokens)
    block = network.blocks[number]
    q, k, _ = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.mT / 2).softmax(-1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("cls", "registers"), [(True, 0), (True, 2), (False, 0)])
@pytest.mark.parametrize("attention", ["mean", "heads"])
def test_it_is_what_the_first_token_asks_of_the_places(attention, cls, registers, fused):
    plan = planned(attention, cls=cls, registers=registers, fused=fused)
    verify(plan)
    torch.manual_seed(0)
    model, x = build_segmenter(plan).eval(), torch.randn(2, 1, 32, 48)
    _, _, maps = model(x, (), (NAME,))
    network = model.backbones["encoder"].backbone
    weights = weights_of(network, x, 2)
    prefix = cls + registers
    asked = weights[:, :, 0, prefix:] if prefix else weights.mean(2)
    real = asked.reshape(2, 3, 4, 6)
    torch.testing.assert_close(maps[NAME], real if attention == "heads" else real.mean(1, keepdim=True))


def test_no_glob_means_it():
    plan = planned("heads", inputs=["encoder.*"])
    assert [tap.name for tap in plan.backbones[0].taps] == ["blocks.2", "blocks.3"]


def test_it_alone_can_be_tapped():
    plan = planned("mean", inputs=[NAME, "encoder.blocks.3[attention]"])
    verify(plan)
    assert build_segmenter(plan)(torch.randn(1, 1, 32, 48)).shape == (1, 2, 32, 48)


def test_gradients_go_through_it():
    model = build_segmenter(planned("mean", inputs=[NAME, "encoder.blocks.3[attention]"]))
    model(torch.randn(2, 1, 32, 48)).square().mean().backward()
    assert model.backbones["encoder"].backbone.blocks[2].attn.qkv.weight.grad.any()


def test_a_report_may_show_it_though_nothing_uses_it():
    plan = planned("mean", inputs=["encoder.*"])
    assert not selection_problems(plan, [NAME], ("report", "maps"))
    assert selection_problems(plan, ["encoder.blocks.1[attention]"], ("report", "maps"))
    more = tap_further(plan, [NAME])
    (found,) = select(more, [NAME])
    assert (found.channels, found.stride) == (1, (8, 8))
    _, _, maps = build_segmenter(more)(torch.randn(1, 1, 32, 48), (), (NAME,))
    assert maps[NAME].shape == (1, 1, 4, 6)


class Blind(Block):
    """Its attention is none that can be seen."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__(width, heads, fused)
        self.attn = nn.Linear(width, width)


class BlindViT(ViT):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Blind(12, 3, True) for _ in range(4))


class Torchs(nn.Module):
    """torch's own attention, which is fused in inference."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class TorchsViT(ViT):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.attn = Torchs(12, 3)


def test_a_network_whose_attention_cannot_be_seen_is_refused_with_the_reason():
    with pytest.raises(PipelineError) as caught:
        planned("mean", target=f"{__name__}:BlindViT")
    assert any("computes no attention in blocks.2" in p.message for p in caught.value.problems)
    assert {p.path[:3] for p in caught.value.problems} == {("model", "taps", "encoder")}


@pytest.mark.filterwarnings("ignore")  # torch's own
def test_torchs_own_attention_tells_its_weights():
    plan = planned("heads", target=f"{__name__}:TorchsViT")
    verify(plan)
    model, x = build_segmenter(plan).eval(), torch.randn(2, 1, 32, 48)
    with torch.no_grad():
        logits, _, maps = model(x, (), (NAME,))
        network = model.backbones["encoder"].backbone
        tokens = network.embedded(x)
        for block in network.blocks[:2]:
            tokens = block(tokens)
        tokens = network.blocks[2].norm1(tokens)
        _, weights = network.blocks[2].attn.inner(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(maps[NAME], weights[:, :, 0, 1:].reshape(2, 3, 4, 6))
    assert logits.isfinite().all()


def test_a_copy_and_a_pickle_see_their_own_attention():
    plan = planned("mean")
    model, x = build_segmenter(plan).eval(), torch.randn(1, 1, 32, 48)
    with torch.no_grad():
        before = model(x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), before)
            other.backbones["encoder"].backbone.blocks[2].attn.qkv.weight.zero_()
            assert not torch.equal(other(x), before)
            assert torch.equal(model(x), before)


def test_without_attention_asked_for_nothing_is_watched():
    strategy = registry.get(TapStrategy.group, "tokens")()
    assert strategy.further([], lambda: Attention(4, 2, True), IMAGE) == ()


def test_a_network_within_slices_is_refused_with_the_reason():
    """What it hands on are maps of the volume, in which no block's tokens are left to see."""
    inner = {"use": "module", "target": "vits:ViT", "parameters": {"channels": 3}}
    settings = {
        "backbones": {"encoder": {"use": "slices", "of": inner}},
        "taps": {"encoder": {"use": "tokens", "layers": [2, 3], "attention": "mean"}},
        "fusion": {"all": {"use": "concat", "inputs": ["encoder.*"], "channels": 4}},
        "head": {"input": "all"},
    }
    with pytest.raises(PipelineError) as caught:
        plan_graph(ModelSettings.model_validate(settings), ImageInfo(1, (32, 48, 2), (1.0, 1.0, 1.0)), 2)
    assert any("hands on blocks.2 as a map" in p.message for p in caught.value.problems)
