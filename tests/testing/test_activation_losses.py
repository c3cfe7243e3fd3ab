"""Faults that authors of losses on inner maps make, each caught by the law that it breaks."""

import torch
from planting import Module, each, failed, planted
from sound import Small
from torch.nn import functional

from medfuse.api import FeatureInfo
from medfuse.testing import check_activation_loss

A, B = FeatureInfo("a", 3, (2, 2)), FeatureInfo("b", 4, (4, 4))


def unreduced(module, x):
    return x.square().mean((1, 2, 3))


def of_four_voxels(module, x):
    return x.reshape(2, 3, 4, 4).square().mean()


def detached(module, x):
    return x.detach().square().mean()


def by_root(module, x):
    return x.square().mean().sqrt()


def doubled_in_place(module, x):
    return x.mul_(2).mean()


class WeighedTwice(Small):
    __doc__ = Small.__doc__

    def build(self, maps):
        return Module(lambda module, *maps: self.weight * Small.forward(module, *maps))


def of_one_map(module, a, b):
    return a.float().square().mean()


def of_all_cases(module, *maps):
    return torch.stack([x.float().square().mean((1, 2, 3)).sum() for x in maps]).mean()


def of_the_first_channel(module, *maps):
    return torch.stack([x[:, 0].float().square().mean() for x in maps]).mean()


def normalised_by_its_length(module, *maps):
    return torch.stack([(x.float() / x.float().norm()).sum().square() / x.numel() for x in maps]).mean()


def by_logarithm(module, *maps):
    return torch.stack([x.float().var((2, 3)).log().mean() for x in maps]).mean()


def with_a_centre(module, *maps):
    module.centre = getattr(module, "centre", float(maps[0].detach().mean()))
    return torch.stack([(x.float() - module.centre).square().mean() for x in maps]).mean()


def of_one_size(module, *maps):
    return functional.mse_loss(functional.avg_pool2d(maps[0], 2)[:, :1], maps[1][:, :1])


def of_three_channels(module, a, b):
    scale = torch.ones(1, 3, 1, 1, device=a.device)
    return (a.float() * scale).square().mean() + b.float().square().mean()


OF_ONE = {
    "is not reduced": ("a finite scalar", unreduced),
    "takes 4 × 4 voxels": ("a finite scalar at odd sizes", of_four_voxels),
    "takes two cases": ("any batch", of_four_voxels),
    "detaches": ("gradients reach every parameter and a map", detached),
    "takes the root of 0": ("finite on dead maps", by_root),
    "works in place": ("inputs stay as they are", doubled_in_place),
}
OF_TWO = {
    "forgets a map": ("every channel counts", of_one_map),
    "sums over cases": ("a mean, not a sum", of_all_cases),
    "looks at the first channel": ("every channel counts", of_the_first_channel),
    "divides by a length of 0": ("finite on dead maps", normalised_by_its_length),
    "takes the logarithm of 0": ("finite on dead maps", by_logarithm),
    "keeps the centre of its first maps": ("a call leaves nothing for the next", with_a_centre),
    "takes sizes to be even": ("a finite scalar at odd sizes", of_one_size),
    "is made for three channels": ("a finite scalar for other channels", of_three_channels),
}


@each({n: (*f, [A]) for n, f in OF_ONE.items()} | {n: (*f, [A, B]) for n, f in OF_TWO.items()})
def test_a_faulty_loss_on_maps_is_caught(fault):
    check, forward, maps = fault
    faulty = planted(Small, forward=staticmethod(forward))
    assert check in failed(check_activation_loss, faulty(maps=[x.name for x in maps], weight=0.1), maps)


def test_a_loss_on_maps_that_applies_its_weight_too_is_caught():
    faulty = WeighedTwice(maps=("a", "b"), weight=0.1)
    assert "its weight is applied once" in failed(check_activation_loss, faulty, [A, B])


def test_without_a_fault_it_passes():
    check_activation_loss(Small(maps=("a", "b"), weight=0.1), [A, B])
