"""Blocks that let a voxel know its surroundings, or another map: attention, SPP, ASPP."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from medfuse import registry
from medfuse.api import FeatureInfo, FusionBlock
from medfuse.builtin.nets.attention import pooled
from medfuse.core.errors import ShapeError

A, B = FeatureInfo("a", 4, (2, 2)), FeatureInfo("b", 6, (2, 2))


def block(name: str, inputs, **parameters) -> FusionBlock:
    return registry.get(FusionBlock.group, name)(inputs=tuple(x.name for x in inputs), **parameters)


def build(name: str, inputs, **parameters) -> nn.Module:
    torch.manual_seed(0)
    return block(name, inputs, **parameters).build(inputs).eval()


def attention(kind: str, inputs, **parameters) -> nn.Module:
    return build("attention", inputs, kind=kind, **parameters)


def maps(*inputs: FeatureInfo, size: tuple[int, ...] = (5, 6)) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, x.channels, *size) for x in inputs]


def constant_over_space(x: Tensor) -> bool:
    return torch.allclose(x, x[..., :1, :1].expand_as(x), atol=1e-6)


def moved(before: Tensor, after: Tensor) -> set[tuple[int, ...]]:
    """The voxels at which two maps differ."""
    return {tuple(i) for i in ((after - before).abs() > 1e-9).flatten(0, 1).any(dim=0).nonzero().tolist()}


# ---- attention


def test_squeeze_excite_scales_whole_channels():
    given = maps(A, B)
    scale = attention("squeeze_excite", [A, B])(*given) / torch.cat(given, dim=1)
    assert constant_over_space(scale)
    assert ((scale > 0) & (scale < 1)).all()


@pytest.mark.parametrize("kind", ["squeeze_excite", "spatial", "gate", "cross"])
def test_before_it_learns_attention_keeps_the_scale_and_every_input_has_a_gradient(kind):
    given = [x.requires_grad_() for x in maps(A, B, size=(16, 16))]
    made = attention(kind, [A, B])(*given)
    made.square().mean().backward()
    assert 0.9 < made.std() < 1.2
    assert all(x.grad.abs().max() > 0 for x in given)


def test_squeeze_excite_is_monais():
    from monai.networks.blocks import ChannelSELayer

    (x,) = maps(B)
    module, theirs = attention("squeeze_excite", [B], reduction=3), ChannelSELayer(2, 6, r=3)
    theirs.fc.load_state_dict(module.excite.state_dict())
    torch.testing.assert_close(module(x), theirs(x))


def test_spatial_attention_scales_all_channels_of_a_voxel_alike():
    given = maps(A, B)
    scale = attention("spatial", [A, B])(*given) / torch.cat(given, dim=1)
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale))
    assert ((scale > 0) & (scale < 1)).all()


def test_spatial_attention_sees_three_voxels_each_way():
    x = torch.ones(1, 4, 15, 15)
    poked = x.clone()
    poked[..., 7, 7] = 2
    module = attention("spatial", [A])
    assert moved(module(x), module(poked)) == {(i, j) for i in range(4, 11) for j in range(4, 11)}


def test_a_gates_coefficients_lie_between_none_and_all():
    given = maps(A, B)
    alpha = attention("gate", [A, B]).coefficients(*given)
    assert alpha.shape == (2, 1, 5, 6)
    assert ((alpha > 0) & (alpha < 1)).all()


def test_an_open_gate_lets_the_skip_through_and_a_shut_one_nothing():
    skip, signal = maps(A, B)
    module = attention("gate", [A, B])
    nn.init.constant_(module.score.bias, 100.0)
    assert torch.equal(module(skip, signal), skip)
    nn.init.constant_(module.score.bias, -100.0)
    torch.testing.assert_close(module(skip, signal), torch.zeros_like(skip))


def test_a_gate_hears_each_of_its_signals():
    skip, first, second = maps(A, B, A)
    module = attention("gate", [A, B, A])
    heard = module.coefficients(skip, first, second)
    assert not torch.allclose(heard, module.coefficients(skip, first + 1, second))
    assert not torch.allclose(heard, module.coefficients(skip, first, second + 1))


def test_cross_attention_does_not_mind_the_order_of_key_voxels():
    x, other = maps(A, B)
    shuffled = other.flatten(2)[..., torch.randperm(30)].reshape(other.shape)
    module = attention("cross", [A, B])
    torch.testing.assert_close(module(x, shuffled), module(x, other))


def test_cross_attention_moves_with_its_queries():
    x, other = maps(A, B)
    module = attention("cross", [A, B])
    torch.testing.assert_close(module(x.flip(2), other), module(x, other).flip(2))


def test_one_token_tells_every_voxel_the_same():
    x, other = maps(A, B)
    assert constant_over_space(attention("cross", [A, B], tokens=1)(x, other) - x)


def test_many_tokens_tell_voxels_different_things():
    x, other = maps(A, B)
    assert not constant_over_space(attention("cross", [A, B])(x, 5 * other) - x)


def test_cross_attention_is_torchs():
    x, other = maps(A, B)
    module = attention("cross", [A, B], heads=2)
    theirs = nn.MultiheadAttention(4, 2, bias=True, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([module.query.weight, module.key.weight, module.value.weight])
    theirs.out_proj.load_state_dict(module.out.state_dict())
    asking = module.query_norm(x.flatten(2).mT)
    asked = module.norm(module.embed(other.flatten(2).mT))
    told, _ = theirs(asking, asked, asked)
    torch.testing.assert_close(module(x, other), x + told.mT.reshape(x.shape))


def test_keys_are_pooled_where_there_are_more_voxels_than_tokens():
    x, other = maps(A, B, size=(6, 8))
    coarse = nn.functional.avg_pool2d(other, 2)
    torch.testing.assert_close(
        attention("cross", [A, B], tokens=12)(x, other), attention("cross", [A, B])(x, coarse)
    )


@pytest.mark.parametrize("most", [1, 7, 20, 314, 315])
def test_pooling_leaves_no_more_than_is_allowed(most):
    assert pooled(torch.zeros(1, 1, 9, 7, 5), most).numel() <= most


def test_pooling_takes_no_more_than_it_must():
    x = torch.zeros(1, 1, 9, 7)
    assert pooled(x, 63) is x
    assert pooled(torch.zeros(1, 1, 16, 16, 2), 128).shape[2:] == (8, 8, 2)


def test_blocks_at_the_edge_are_means_of_what_they_hold():
    assert torch.equal(pooled(torch.ones(1, 1, 9, 7, 5), 20).unique(), torch.ones(1))


def test_heads_must_divide_the_channels_of_the_first_map():
    with pytest.raises(ShapeError, match="6 channels of b into 4 heads; set `heads` to one of 1, 2, 3, 6"):
        block("attention", [B, A], kind="cross").plan([B, A])


@pytest.mark.parametrize(("kind", "missing"), [("gate", "a gating signal"), ("cross", "keys and values")])
def test_gate_and_cross_need_a_second_map(kind, missing):
    with pytest.raises(ShapeError, match=rf"kind {kind} takes a and .*{missing}.*; add an input"):
        block("attention", [A], kind=kind).plan([A])


@pytest.mark.parametrize(
    ("kind", "option"), [("gate", "heads"), ("spatial", "reduction"), ("squeeze_excite", "tokens")]
)
def test_an_option_of_another_kind_is_refused(kind, option):
    with pytest.raises(ValidationError, match=f"kind {kind} has no {option}"):
        block("attention", [A, B], kind=kind, **{option: 7})


@pytest.mark.parametrize(
    ("kind", "channels"), [("squeeze_excite", 10), ("spatial", 10), ("gate", 4), ("cross", 4)]
)
def test_gate_and_cross_have_the_channels_of_the_first_map(kind, channels):
    assert block("attention", [A, B], kind=kind).plan([A, B]).channels == channels


# ---- spatial pyramid pooling


def test_spp_leaves_its_input_beside_the_pooled_maps():
    given = maps(A, B)
    assert torch.equal(build("spp", [A, B])(*given)[:, :10], torch.cat(given, dim=1))


def test_spp_can_drop_its_input():
    given = maps(A, B)
    alone = build("spp", [A, B], keep_input=False)(*given)
    assert torch.equal(alone, build("spp", [A, B])(*given)[:, 10:])


def test_spp_keeps_the_stride():
    assert block("spp", [A]).plan([A]).stride == A.stride


@pytest.mark.parametrize(
    ("bins", "channels"), [((1, 2), 4 + 2 * 2), ((1, 2, 3), 4 + 3), ((1, 2, 3, 4, 5), 4 + 5)]
)
def test_pooled_maps_share_the_channels_of_the_input_among_them(bins, channels):
    assert block("spp", [A], bins=bins).plan([A]).channels == channels


@pytest.mark.parametrize("pool", ["average", "max", "both"])
def test_spp_of_a_constant_map_is_constant(pool):
    level = torch.randn(2, 4, 1, 1).expand(2, 4, 7, 5)
    assert constant_over_space(build("spp", [A], pool=pool, bins=(1, 2, 3, 9))(level))


@pytest.mark.parametrize(("pool", "mean"), [("average", Tensor.mean), ("max", Tensor.amax)])
def test_one_bin_is_the_whole_map(pool, mean):
    (x,) = maps(A, size=(5, 6))
    (branch,) = build("spp", [A], bins=(1,), pool=pool).branches
    torch.testing.assert_close(branch.pool(x), mean(x, dim=(2, 3), keepdim=True))


def test_one_bin_is_the_same_at_every_voxel():
    assert constant_over_space(build("spp", [A], bins=(1,), keep_input=False)(*maps(A)))


def test_bins_are_equal_parts_of_the_map():
    (x,) = maps(A, size=(4, 6))
    (branch,) = build("spp", [A], bins=(2,)).branches
    torch.testing.assert_close(branch.pool(x), nn.functional.avg_pool2d(x, (2, 3)))


def test_more_bins_than_voxels_are_the_voxels():
    flat = FeatureInfo("flat", 4, (2, 2, 1))
    (x,) = maps(flat, size=(8, 3, 1))
    (branch,) = build("spp", [flat], bins=(4,)).branches
    assert branch.pool(x).shape[2:] == (4, 3, 1)


def test_both_is_average_beside_max():
    (x,) = maps(A)
    both, average, largest = (
        build("spp", [A], bins=(2,), pool=pool).branches[0].pool(x) for pool in ("both", "average", "max")
    )
    assert torch.equal(both, torch.cat([average, largest], dim=1))


# ---- atrous spatial pyramid pooling


@pytest.mark.parametrize("rate", [1, 2, 4])
def test_a_branch_sees_voxels_at_its_rate_and_no_others(rate):
    conv = build("aspp", [A], rates=(rate,)).branches[1].conv
    x = torch.zeros(1, 4, 11, 11)
    poked = x.clone()
    poked[..., 5, 5] = 1
    at = (5 - rate, 5, 5 + rate)
    assert moved(conv(x), conv(poked)) == {(i, j) for i in at for j in at}


def test_the_image_level_is_not_lost_in_the_last_norm():
    (x,) = maps(A)
    module = build("aspp", [A])
    before = module(x)
    nn.init.constant_(module.branches[-1].conv.bias, 3.0)
    assert (module(x) - before).abs().max() > 0.1


def test_rates_may_be_greater_than_the_map():
    (x,) = maps(A, size=(3, 2))
    assert build("aspp", [A], rates=(6, 12), channels=5)(x).shape == (2, 5, 3, 2)


def test_aspp_has_a_branch_for_each_rate_and_two_more():
    assert len(build("aspp", [A], rates=(1, 2, 4, 8)).branches) == 6
