"""FPN, UNet++, hypercolumns and summed scores: what each promises beyond the contract."""

import pytest
import torch
from torch import nn

from medfuse import registry
from medfuse.api import FeatureInfo, FusionBlock
from medfuse.core.errors import ShapeError
from medfuse.model.resample import resize
from medfuse.testing import check_fusion_block

F, G, H = (
    FeatureInfo("f", 4, (1, 1, 1)),
    FeatureInfo("g", 4, (2, 2, 1)),
    FeatureInfo("h", 4, (4, 4, 2)),
)
THIRD, HALF = FeatureInfo("third", 4, (3, 3)), FeatureInfo("half", 4, (2, 2))
TALL, WIDE = FeatureInfo("tall", 2, (1, 4)), FeatureInfo("wide", 3, (4, 1))


def block(name: str, *inputs: FeatureInfo, **parameters) -> FusionBlock:
    return registry.get(FusionBlock.group, name)(inputs=tuple(x.name for x in inputs), **parameters)


def built(name: str, *inputs: FeatureInfo, **parameters) -> nn.Module:
    torch.manual_seed(0)
    return block(name, *inputs, **parameters).build(inputs)


def maps(*inputs: FeatureInfo, size=(9, 8, 6)) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, x.channels, *x.size(size[: x.dims])) for x in inputs]


def sides(name: str, *inputs: FeatureInfo, **parameters):
    made = block(name, *inputs, **parameters).side_outputs(inputs)
    return [(s.name, s.channels, s.stride) for s in made]


# ---- feature pyramid


@pytest.mark.parametrize("upsample", ["nearest", "linear"])
def test_with_identities_for_convolutions_a_level_is_the_sum_of_all_maps_from_it_up(upsample):
    module = built("fpn", G, H, F, channels=4, levels=3, upsample=upsample)
    for conv in [*module.lateral, *module.smooth]:
        nn.init.dirac_(conv.weight)
    g, h, f = maps(G, H, F)
    finest, second, coarsest = module(g, h, f)
    torch.testing.assert_close(coarsest, h)
    torch.testing.assert_close(second, g + resize(h, g.shape[2:], upsample))
    torch.testing.assert_close(finest, f + resize(second, f.shape[2:], upsample))


def test_the_levels_of_a_pyramid_have_equal_channels_finest_first():
    assert sides("fpn", H, F, G, channels=7, levels=3) == [("1", 7, G.stride), ("2", 7, H.stride)]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_weight_of_a_pyramid_is_used_by_what_it_publishes(levels):
    module = built("fpn", H, F, G, channels=4, levels=levels)
    made = module(*maps(H, F, G))
    sum(x.square().mean() for x in (made if levels > 1 else [made])).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_pyramid_has_no_more_levels_than_inputs():
    with pytest.raises(ShapeError, match="fpn makes 2 levels of as many inputs; lower `levels` to that"):
        block("fpn", F, G, levels=3).plan([F, G])


def test_the_strides_of_a_pyramid_need_not_nest():
    finest, coarser = built("fpn", THIRD, HALF, channels=5, levels=2)(*maps(THIRD, HALF))
    assert finest.shape[1:] == (5, 5, 4)
    assert coarser.shape[1:] == (5, 3, 3)


# ---- UNet++


def test_of_two_maps_unet_plus_plus_is_the_unet_decoder():
    ours, theirs = built("unet_plus_plus", G, H), built("unet_decoder", G, H)
    assert torch.equal(ours(*maps(G, H)), theirs(*maps(G, H)))


def test_the_nodes_of_the_finest_row_are_published_nearest_to_the_result_first():
    four = [H, G, F, FeatureInfo("i", 6, (8, 8, 4))]
    assert sides("unet_plus_plus", *four) == [("2", 4, (1, 1, 1)), ("1", 4, (1, 1, 1))]


def test_a_node_takes_in_every_node_before_it_in_its_row():
    module = built("unet_plus_plus", F, G, H)
    seen = {node: stage[0].conv.in_channels for node, stage in zip(module.nodes, module.stages)}
    assert seen == {(0, 1): 2 * 4, (1, 1): 2 * 4, (0, 2): 3 * 4}


@pytest.mark.parametrize(("channels", "widths"), [(None, (4, 4)), (6, (6, 6)), ([5, 9], (5, 9))])
def test_the_nodes_of_a_row_have_the_channels_that_are_asked_for(channels, widths):
    block_ = block("unet_plus_plus", F, G, H, channels=channels)
    module, (fine, coarse) = block_.build([F, G, H]), widths
    convs = {node: stage[0].conv for node, stage in zip(module.nodes, module.stages)}
    assert {node: (c.in_channels, c.out_channels) for node, c in convs.items()} == {
        (0, 1): (fine + 4, fine),
        (1, 1): (coarse + 4, coarse),
        (0, 2): (fine + 4 + fine, fine),
    }
    ups = [(up.in_channels, up.out_channels) for up in module.upsample]
    assert ups == [(4, fine), (4, coarse), (coarse, fine)]
    assert [x.channels for x in (block_.plan([F, G, H]), *block_.side_outputs([F, G, H]))] == [fine, fine]
    check_fusion_block(block_, [H, F, G])


def test_the_nested_decoder_has_channels_for_each_row_but_the_coarsest():
    with pytest.raises(ShapeError, match="channels has 3 entries for 2 stages; give one per stage"):
        block("unet_plus_plus", F, G, H, channels=[4, 4, 4]).plan([F, G, H])


def test_column_j_sees_the_finest_maps_up_to_j():
    def seen_by(x: torch.Tensor) -> list[bool]:
        gradients = torch.autograd.grad(x.sum(), inputs, allow_unused=True, retain_graph=True)
        return [gradient is not None for gradient in gradients]

    inputs = [x.requires_grad_() for x in maps(F, G, H)]
    result, first = built("unet_plus_plus", F, G, H)(*inputs)
    assert (seen_by(first), seen_by(result)) == ([True, True, False], [True, True, True])


def test_the_nested_decoder_refuses_strides_that_do_not_nest():
    with pytest.raises(ShapeError, match=r"from third \(stride 3×3\) to half \(stride 2×2\)"):
        block("unet_plus_plus", HALF, THIRD).plan([HALF, THIRD])


@pytest.mark.parametrize("name", ["fpn", "unet_plus_plus"])
def test_one_map_is_no_pyramid(name):
    with pytest.raises(ShapeError, match=f"{name} needs at least two inputs"):
        block(name, F).plan([F])


# ---- hypercolumns


def test_projecting_then_upsampling_is_upsampling_then_projecting():
    module, inputs = built("hypercolumn", H, F, G, channels=3), maps(H, F, G)
    reverse = [
        project(resize(x, inputs[1].shape[2:])) for project, x in zip(module.project, inputs, strict=True)
    ]
    torch.testing.assert_close(module(*inputs), torch.cat(reverse, dim=1))


def test_without_projection_a_hypercolumn_is_the_concatenation_of_upsampled_maps():
    f, h = maps(F, H)
    found = built("hypercolumn", F, H, channels=None)(f, h)
    assert torch.equal(found, torch.cat([f, resize(h, f.shape[2:])], dim=1))


@pytest.mark.parametrize("name", ["hypercolumn", "sum_of_logits"])
def test_the_grid_is_the_finest_on_each_axis(name):
    assert block(name, TALL, WIDE).plan([TALL, WIDE]).stride == (1, 1)
    made = built(name, TALL, WIDE)(*maps(TALL, WIDE))
    assert (made if name == "hypercolumn" else made[0]).shape[2:] == (9, 8)


# ---- summed scores


def test_a_head_on_summed_scores_is_a_sum_of_one_linear_prediction_per_tap():
    module, inputs = built("sum_of_logits", F, H, channels=5), maps(F, H)
    head = nn.Conv3d(5, 3, kernel_size=1)
    predictions = [
        resize(nn.functional.conv3d(score(x), head.weight), inputs[0].shape[2:])
        for score, x in zip(module.score, inputs, strict=True)
    ]
    torch.testing.assert_close(head(module(*inputs)[0]), sum(predictions) + head.bias[:, None, None, None])


def test_the_scores_of_each_tap_are_published_on_their_own_grids_finest_first():
    plugin, (f, h) = block("sum_of_logits", H, F), maps(F, H)
    total, fine, coarse = built("sum_of_logits", H, F)(h, f)
    assert [side.name for side in plugin.side_outputs([H, F])] == ["1", "2"]
    assert fine.shape[2:] == f.shape[2:]
    assert coarse.shape[2:] == h.shape[2:]
    torch.testing.assert_close(total, fine + resize(coarse, f.shape[2:]))


def test_with_scores_for_every_class_the_head_can_ask_for_any_prediction_per_tap():
    module, inputs, wanted = built("sum_of_logits", F, H, channels=3), maps(F, H), nn.Conv3d(4, 3, 1)
    head = nn.Conv3d(3, 3, kernel_size=1, bias=False)
    scores = module.score[0]
    inverse = head.weight[:, :, 0, 0, 0].inverse()
    with torch.no_grad():
        scores.weight.copy_(torch.einsum("ij,jc...->ic...", inverse, wanted.weight))
        scores.bias.copy_(inverse @ wanted.bias)
        module.score[1].weight.zero_()
    torch.testing.assert_close(head(module(*inputs)[0]), wanted(inputs[0]), atol=1e-4, rtol=1e-4)
