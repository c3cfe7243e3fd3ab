"""What is frozen is in evaluation mode, and all else is left in its own."""

import copy

from torch import nn

from medfuse.core.still import bare, freeze, hold, keep_still


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False), nn.Dropout(), nn.Conv2d(2, 2, 1)
    )


def modes(module: nn.Module) -> list[bool]:
    keep_still(module.train())
    return [child.training for child in module]


def test_bare_is_what_has_state_and_no_parameter():
    assert [*bare(network())] == ["1"]
    assert [*bare(nn.BatchNorm2d(2))] == []


def test_a_frozen_network_keeps_its_statistics_also_once_a_part_of_it_learns_again():
    made = network()
    freeze(made)
    made[3].requires_grad_(True)
    assert modes(made) == modes(copy.deepcopy(made)) == [False, False, True, True]
    hold(made[1], False)
    assert modes(made) == [False, True, True, True]


def test_a_network_that_learns_stays_in_training_mode():
    assert modes(network()) == [True] * 4
