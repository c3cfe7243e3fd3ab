"""Losses on inner maps."""

import pytest
import torch

from medfuse import registry
from medfuse.api import ActivationLoss, FeatureInfo
from medfuse.core.errors import ShapeError

MAPS = [FeatureInfo("a.x", 4, (2, 2)), FeatureInfo("b.y", 6, (4, 4))]


def loss(name, maps, **parameters):
    plugin = registry.get(ActivationLoss.group, name)(maps=[m.name for m in maps], weight=1.0, **parameters)
    plugin.plan(maps)
    torch.manual_seed(0)
    return plugin.build(maps)


@pytest.mark.parametrize(("name", "value"), [("l1", 2.0), ("l2", 4.0)])
def test_of_a_constant_it_is_that_constants_power(name, value):
    x, y = torch.full((2, 4, 5, 3), -2.0), torch.full((2, 6, 3, 2), 2.0)
    assert loss(name, MAPS)(x, y) == value


def test_orthogonal_channels_cost_nothing_and_equal_ones_everything():
    wave = torch.linspace(0, 2 * torch.pi, 65)[:-1]
    different, alike = torch.stack([wave.sin(), wave.cos()]), torch.stack([wave.sin(), 3 * wave.sin() + 1])
    one = [FeatureInfo("a.x", 2, (1, 1))]
    assert loss("orthogonality", one)(different.reshape(1, 2, 8, 8)) == pytest.approx(0, abs=1e-10)
    assert loss("orthogonality", one)(alike.reshape(1, 2, 8, 8)) == pytest.approx(1, abs=1e-5)


def test_orthogonality_refuses_a_single_channel():
    with pytest.raises(ShapeError, match=r"a\.x has one"):
        loss("orthogonality", [FeatureInfo("a.x", 1, (1, 1))])


@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_a_map_matches_itself(distance):
    x = torch.randn(2, 4, 5, 3)
    assert loss("feature_matching", [MAPS[0], MAPS[0]], distance=distance)(x, x) == pytest.approx(0, abs=1e-6)


def test_the_teacher_gets_no_gradient_and_the_projection_does():
    module = loss("feature_matching", MAPS)
    student, teacher = (torch.randn(2, c, n, n, requires_grad=True) for c, n in ((4, 9), (6, 5)))
    module(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert module.project.weight.grad.abs().sum() > 0


def test_matching_takes_two_maps():
    with pytest.raises(ShapeError, match="takes two maps"):
        loss("feature_matching", MAPS[:1])


@pytest.mark.parametrize("name", ["l1", "l2", "orthogonality"])
def test_gradients_reach_every_map(name):
    maps = [torch.randn(2, x.channels, 4, 4, requires_grad=True) for x in MAPS]
    loss(name, MAPS)(*maps).backward()
    assert all(x.grad.abs().sum() > 0 for x in maps)
