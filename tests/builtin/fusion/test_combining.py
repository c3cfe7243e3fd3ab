"""Blocks that combine maps of one size: elementwise operations, the weighted sum, the projected concat."""

import pytest
import torch

from medfuse import registry
from medfuse.api import FeatureInfo, FusionBlock
from medfuse.core.errors import ShapeError

A, B, C = (FeatureInfo(name, 3, (2, 2)) for name in "abc")
WIDE = FeatureInfo("wide", 5, (2, 2))
SYMMETRIC = ["add", "multiply", "max", "mean"]
ELEMENTWISE = [*SYMMETRIC, "subtract", "divide"]


def block(name: str, inputs, **parameters) -> FusionBlock:
    return registry.get(FusionBlock.group, name)(inputs=tuple(x.name for x in inputs), **parameters)


def build(name: str, inputs, **parameters) -> torch.nn.Module:
    return block(name, inputs, **parameters).build(inputs)


def maps(*inputs: FeatureInfo) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, x.channels, 5, 6) for x in inputs]


@pytest.mark.parametrize("name", [*SYMMETRIC, "weighted"])
def test_a_single_map_is_left_as_it_is(name):
    (x,) = maps(A)
    assert torch.equal(build(name, [A])(x), x)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_order_does_not_matter(name):
    x, y, z = maps(A, B, C)
    module = build(name, [A, B, C])
    torch.testing.assert_close(module(x, y, z), module(z, x, y))


def test_adding_nothing_changes_nothing():
    (x,) = maps(A)
    assert torch.equal(build("add", [A, B])(x, torch.zeros_like(x)), x)


def test_subtract_takes_the_others_from_the_first():
    x, y, z = maps(A, B, C)
    torch.testing.assert_close(build("subtract", [A, B, C])(x, y, z), x - (y + z))


def test_divide_undoes_multiply():
    x, y, z = maps(A, B, C)
    y, z = y.abs() + 1, z.abs() + 1
    product = build("multiply", [A, B, C])(x, y, z)
    torch.testing.assert_close(build("divide", [A, B, C])(product, y, z), x)


def test_the_maximum_is_no_less_than_any_map_and_is_one_of_them():
    given = torch.stack(maps(A, B, C))
    largest = build("max", [A, B, C])(*given)
    assert (largest >= given).all()
    assert (largest == given).any(dim=0).all()


def test_the_mean_of_equal_maps_is_that_map():
    (x,) = maps(A)
    torch.testing.assert_close(build("mean", [A, B, C])(x, x, x), x)


@pytest.mark.parametrize("at", [0.0, -0.0, 1e-30, -1e-30])
def test_division_near_zero_is_finite_and_so_are_its_gradients(at):
    (x,) = maps(A)
    x.requires_grad_()
    y = torch.full_like(x, at, requires_grad=True)
    ratio = build("divide", [A, B])(x, y)
    ratio.square().sum().backward()
    assert all(t.isfinite().all() for t in (ratio, x.grad, y.grad))


@pytest.mark.parametrize(("denominator", "quotient"), [(1e-9, 4.0), (-1e-9, -4.0), (0.0, 4.0), (-0.5, -2.0)])
def test_a_small_denominator_becomes_epsilon_and_keeps_its_sign(denominator, quotient):
    x = torch.ones(1, 3, 2, 2)
    ratio = build("divide", [A, B], epsilon=0.25)(x, torch.full_like(x, denominator))
    assert torch.equal(ratio, torch.full_like(x, quotient))


@pytest.mark.parametrize("name", ["subtract", "divide"])
def test_a_difference_and_a_ratio_need_two_maps(name):
    with pytest.raises(ShapeError, match=f"{name} needs at least 2 maps"):
        block(name, [A]).plan([A])


@pytest.mark.parametrize("name", [*ELEMENTWISE, "weighted"])
def test_unequal_channels_are_refused_with_the_remedy(name):
    with pytest.raises(ShapeError, match=rf"{name} .* a has 3, wide has 5; write `channels: N`"):
        block(name, [A, WIDE]).plan([A, WIDE])


def test_a_map_of_one_channel_is_not_spread_over_the_others():
    inputs = [A, FeatureInfo("mask", 1, (2, 2))]
    with pytest.raises(ShapeError, match="mask has 1"):
        block("multiply", inputs).plan(inputs)


@pytest.mark.parametrize("name", [*ELEMENTWISE, "weighted"])
def test_with_channels_each_map_has_its_own_projection(name):
    given = maps(A, WIDE)
    module = build(name, [A, WIDE], channels=7)
    projected = [project(x) for project, x in zip(module.projections, given)]
    assert [x.shape[1] for x in projected] == [7, 7]
    assert torch.equal(module(*given), module.combine(projected))


@pytest.mark.parametrize("normalize", ["softmax", "none"])
@pytest.mark.parametrize("per", ["input", "channel"])
def test_a_weighted_sum_begins_as_the_mean(per, normalize):
    given = maps(A, B, C)
    module = build("weighted", [A, B, C], per=per, normalize=normalize)
    torch.testing.assert_close(module(*given), torch.stack(given).mean(dim=0))


@pytest.mark.parametrize(("per", "columns"), [("input", 1), ("channel", 3)])
def test_softmax_weights_sum_to_one_whatever_is_learned(per, columns):
    module = build("weighted", [A, B, C], per=per)
    torch.nn.init.normal_(module.combine.weight, std=5)
    torch.testing.assert_close(module.combine.weights().sum(dim=0), torch.ones(columns))


def test_weights_per_channel_choose_a_map_for_each_channel():
    x, y = maps(A, B)
    module = build("weighted", [A, B], per="channel", normalize="none")
    module.combine.weight.data = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert torch.equal(module(x, y), torch.stack([x[:, 0], y[:, 1], x[:, 2]], dim=1))


@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_learning_turns_to_the_map_that_is_right(normalize):
    x, y = maps(A, B)
    module = build("weighted", [A, B], normalize=normalize)
    (module(x, y) - x).square().mean().backward()
    right, wrong = module.combine.weight.grad
    assert right < 0 < wrong


@pytest.mark.parametrize("kernel", [1, 3])
def test_each_map_has_its_own_part_of_a_projected_concat(kernel):
    x, y = maps(A, WIDE)
    module = build("projected_concat", [A, WIDE], channels=4, kernel=kernel)
    before, after = module(x, y), module(x, y + torch.randn_like(y))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_a_projected_concat_gives_every_map_as_many_channels():
    assert block("projected_concat", [A, WIDE, B], channels=4).plan([A, WIDE, B]).channels == 12
