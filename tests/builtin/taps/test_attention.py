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


VIT = {"use": "module", "target": "vits:ViT"}
VOLUME = ImageInfo(2, (32, 48, 3), (1.0, 1.0, 1.0))


def within(of, attention, image=VOLUME, block="blocks.2", tapped=(2, 3)):
    """A segmenter on a transformer within others, whose attention alone is fused; and the map's name."""
    name = f"encoder.{block}[attention]"
    settings = {
        "backbones": {"encoder": of},
        "taps": {"encoder": {"use": "tokens", "layers": [*tapped], "attention": attention}},
        "fusion": {"all": {"use": "concat", "inputs": ["encoder.*", name], "channels": 4}},
        "head": {"input": "all"},
    }
    plan = plan_graph(ModelSettings.model_validate(settings), image, 2)
    verify(plan)
    torch.manual_seed(0)
    return build_segmenter(plan).eval(), name


def vit_in(module: nn.Module) -> ViT:
    return next(one for one in module.modules() if isinstance(one, ViT))


def asked(network: ViT, x: torch.Tensor, attention: str) -> torch.Tensor:
    found = weights_of(network, x, 2)[:, :, 0, 1:].unflatten(2, (4, 6))
    return found if attention == "heads" else found.mean(1, keepdim=True)


@pytest.mark.parametrize("attention", ["mean", "heads"])
@pytest.mark.parametrize("neighbours", [0, 1])
def test_within_slices_it_is_that_of_each_slice(attention, neighbours):
    inner = VIT | {"parameters": {"channels": 2 * (2 * neighbours + 1)}}
    model, name = within({"use": "slices", "of": inner, "neighbours": neighbours}, attention)
    x = torch.randn(2, 2, 32, 48, 3)
    with torch.no_grad():
        _, _, maps = model(x, (), (name,))
        for z in range(3):
            seen = [x[..., min(max(z + n, 0), 2)] for n in range(-neighbours, neighbours + 1)]
            flat = torch.stack(seen, 2).flatten(1, 2)
            torch.testing.assert_close(maps[name][..., z], asked(vit_in(model), flat, attention))


@pytest.mark.parametrize("attention", ["mean", "heads"])
def test_within_views_it_is_that_of_each(attention):
    of = {"use": "view", "of": VIT, "channels": {"a": [0], "b": [1]}}
    image = ImageInfo(2, (32, 48), (1.0, 1.0))
    model, name = within(of, attention, image, "b.blocks.2", ["b.blocks.2", "a.blocks.3"])
    x = torch.randn(2, 2, 32, 48)
    with torch.no_grad():
        _, _, maps = model(x, (), (name,))
        torch.testing.assert_close(maps[name], asked(vit_in(model), x[:, 1:], attention))


def test_of_each_channel_maps_lie_side_by_side():
    of = {"use": "view", "of": VIT | {"parameters": {"channels": 3}}, "channels": "each", "sees": 3}
    model, name = within(of, "mean", ImageInfo(2, (32, 48), (1.0, 1.0)))
    x = torch.randn(1, 2, 32, 48)
    with torch.no_grad():
        _, _, maps = model(x, (), (name,))
        each = [asked(vit_in(model), x[:, c : c + 1].expand(-1, 3, -1, -1), "mean") for c in (0, 1)]
    torch.testing.assert_close(maps[name], torch.cat(each, 1))


def test_a_crop_has_none_around_it():
    of = {"use": "view", "of": VIT, "channels": [0], "crop": [16, 16]}
    model, name = within(of, "mean", ImageInfo(1, (32, 48), (1.0, 1.0)))
    with torch.no_grad():
        _, _, maps = model(torch.randn(1, 1, 32, 48), (), (name,))
    assert (maps[name] > 0).sum() == 4
    assert maps[name].shape == (1, 1, 4, 6)


@pytest.mark.parametrize("way", ["each", "repeat", "first"])
def test_within_slices_of_one_channel_at_a_time(way):
    of = {"use": "slices", "of": VIT | {"parameters": {"channels": 3}}, "channels": way}
    model, name = within(of, "heads")
    with torch.no_grad():
        _, _, maps = model(torch.randn(1, 2, 32, 48, 3), (), (name,))
    assert maps[name].shape == (1, 6 if way == "each" else 3, 4, 6, 3)


def test_within_others_a_copy_and_a_pickle_see_their_own_and_the_report_may_show_it():
    of = {"use": "slices", "of": VIT | {"parameters": {"channels": 6}}}
    model, name = within(of, "mean")
    x = torch.randn(1, 2, 32, 48, 3)
    with torch.no_grad():
        before = model(x, (), (name,))[2][name]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x, (), (name,))[2][name], before)
            vit_in(other).blocks[2].attn.qkv.weight.zero_()
            assert not torch.equal(other(x, (), (name,))[2][name], before)
            assert torch.equal(model(x, (), (name,))[2][name], before)


def test_its_weights_have_the_names_that_they_have_without():
    of = {"use": "slices", "of": VIT | {"parameters": {"channels": 6}}}
    with_it, without = within(of, "mean")[0], within_plain(of)
    assert {n for n in with_it.state_dict() if "backbones" in n} == {
        n for n in without.state_dict() if "backbones" in n
    }


def within_plain(of):
    settings = {
        "backbones": {"encoder": of},
        "taps": {"encoder": {"use": "tokens", "layers": [2, 3]}},
        "fusion": {"all": {"use": "concat", "inputs": ["encoder.*"], "channels": 4}},
        "head": {"input": "all"},
    }
    return build_segmenter(plan_graph(ModelSettings.model_validate(settings), VOLUME, 2))


def test_attention_that_cannot_be_seen_within_slices_is_refused_with_the_reason():
    of = {"use": "slices", "of": {"use": "module", "target": f"{__name__}:BlindViT"}, "neighbours": 0}
    with pytest.raises(PipelineError) as caught:
        within(of, "mean", ImageInfo(1, (32, 48, 3), (1.0, 1.0, 1.0)))
    assert any("computes no attention in blocks.2" in p.message for p in caught.value.problems)
