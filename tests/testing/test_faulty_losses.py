"""Faults that authors of losses make, on logits and on inner maps, each caught by the law that it breaks."""

import math

import pytest
import torch
from planting import Module, each, failed, planted
from torch import nn
from torch.nn import functional

from medfuse.api import ActivationLoss, FeatureInfo, Loss
from medfuse.testing import check_activation_loss, check_loss


class Entropy(Loss):
    """Cross-entropy.

    loss: {use: entropy}
    """

    def build(self, classes):
        return Module(entropy)


def entropy(module, logits, target):
    return functional.cross_entropy(logits.float(), target[:, 0].long())


def loss(forward) -> Loss:
    return planted(Entropy, build=lambda self, classes: Module(forward))()


def costs(logits, target):
    return functional.cross_entropy(logits.float(), target[:, 0].long(), reduction="none")


def test_without_a_fault_it_passes():
    check_loss(Entropy())


def summed_over_cases(module, logits, target):
    return costs(logits, target).flatten(1).mean(1).sum()


def summed_over_voxels(module, logits, target):
    return costs(logits, target).flatten(1).sum(1).mean()


def divided_by_the_batch_twice(module, logits, target):
    return entropy(module, logits, target) / len(logits)


def without_the_last_slice(module, logits, target):
    made = costs(logits, target)
    return made[..., :-1].mean() if made.shape[-1] > 1 else made.mean()


def of_the_middle(module, logits, target):
    made = costs(logits, target)
    inner = tuple(slice(1, -1) if n > 2 else slice(None) for n in made.shape[1:])
    return made[(slice(None), *inner)].mean()


def without_background(module, logits, target):
    made = costs(logits, target)
    seen = target[:, 0] > 0
    return (made * seen).sum() / seen.sum().clamp_min(1)


def with_a_descent_upside_down(module, logits, target):
    made = entropy(module, logits, target)
    return 2 * made.detach() - made


def straight_from_labels(module, logits, target):
    probability = logits.float().softmax(1)
    hard = functional.one_hot(probability.argmax(1), logits.shape[1]).movedim(-1, 1).float()
    truth = functional.one_hot(target[:, 0].long(), logits.shape[1]).movedim(-1, 1).float()
    return (hard - truth).square().mean() + 0 * logits.float().mean()


def smoothed_over_neighbours(module, logits, target):
    made = costs(logits, target)
    if made.shape[-1] == 1:
        return made.mean()
    return made.mean() + (logits[..., 1:] - logits[..., :-1]).float().abs().mean()


def of_the_majority(module, logits, target):
    made, seen = costs(logits, target), target[:, 0]
    counts = torch.bincount(seen.flatten(), minlength=logits.shape[1]).float()
    return (made * (counts[0] / counts)[seen]).mean()


def dice_without_epsilon(module, logits, target):
    truth = functional.one_hot(target[:, 0].long(), logits.shape[1]).movedim(-1, 1).flatten(2).float()
    probability = logits.float().softmax(1).flatten(2)
    union = (truth.square() + probability.square()).sum(2) * (truth.sum(2) > 0)
    return (1 - 2 * (truth * probability).sum(2) / union).mean()


def in_bytes(module, logits, target):
    return functional.cross_entropy(logits.float(), target[:, 0].to(torch.int8).long() % logits.shape[1])


def by_number(module, logits, target):
    numbers = torch.arange(logits.shape[1], device=logits.device).reshape(1, -1, *(1,) * (logits.ndim - 2))
    expected = (logits.float().softmax(1) * numbers).sum(1)
    return (expected - target[:, 0]).clamp(max=0).square().mean()


def sensitive_to_bf16(module, logits, target):
    shifted = logits + 1000 - 1000
    return functional.cross_entropy(shifted.float(), target[:, 0].long())


def with_a_last_value(module, logits, target):
    made = entropy(module, logits, target)
    module.last = module.last if module.last is not None else float(made.detach())
    return made / module.last


def for_two_cases(module, logits, target):
    first, second = costs(logits, target)
    return (first + second).mean() / 2


def in_double(module, logits, target):
    return functional.cross_entropy(logits.double(), target[:, 0].long())


def printing_its_target(module, logits, target):
    target.clamp_(max=logits.shape[1] - 2)
    return functional.cross_entropy(logits.float(), target[:, 0].long())


def with_weights_on_the_cpu(module, logits, target):
    return functional.cross_entropy(logits.float(), target[:, 0].long(), weight=torch.ones(logits.shape[1]))


def of_random_voxels(module, logits, target):
    return (
        costs(logits, target).flatten()[torch.randperm(target.numel())[: max(1, target.numel() // 2)]].mean()
    )


FAULTS = {
    "sums over cases": ("a mean, not a sum", summed_over_cases),
    "sums over voxels": ("voxels in a row", summed_over_voxels),
    "divides by the batch twice": ("a mean, not a sum", divided_by_the_batch_twice),
    "leaves out the last slice": ("every border counts", without_the_last_slice),
    "leaves out the edge": ("every border counts", of_the_middle),
    "leaves out the background": ("every class counts", without_background),
    "climbs": ("its gradient leads to what is right", with_a_descent_upside_down),
    "takes the argmax": ("its gradient leads to what is right", straight_from_labels),
    "looks at neighbours and does not say so": ("voxels in a row", smoothed_over_neighbours),
    "divides by classes that are absent": ("finite where a class is absent", of_the_majority),
    "has a Dice of 0/0": ("finite where a class is absent", dice_without_epsilon),
    "counts classes in a byte": ("any number of classes", in_bytes),
    "compares the numbers of classes, on one side": ("every class counts", by_number),
    "rounds in bf16": ("near in bf16", sensitive_to_bf16),
    "keeps its first value": ("a call leaves nothing for the next", with_a_last_value),
    "takes batches of two": ("any batch", for_two_cases),
    "answers in float64": ("float32 stays float32", in_double),
    "changes the target": ("inputs stay as they are", printing_its_target),
    "makes weights on the CPU": ("follows its device", with_weights_on_the_cpu),
    "draws voxels in evaluation": ("evaluation is deterministic", of_random_voxels),
}


@each(FAULTS)
def test_a_faulty_loss_is_caught(fault):
    check, forward = fault
    made = planted(Entropy, build=lambda self, classes: Module(forward, last=None))
    assert check in failed(check_loss, made())


def test_a_loss_that_waits_for_training_is_caught():
    def tempered(module, logits, target):
        return entropy(module, logits * module.temperature, target)

    made = planted(
        Entropy, build=lambda self, classes: Module(tempered, temperature=nn.Parameter(torch.ones(())))
    )
    assert "nothing in it waits for training" in failed(check_loss, made())


# ---- losses on inner maps

A, B = FeatureInfo("a", 3, (2, 2)), FeatureInfo("b", 4, (4, 4))


class Small(ActivationLoss):
    """Mean square.

    small: {use: small, maps: [a], weight: 0.1}
    """

    def build(self, maps):
        return Module(self.forward, weight=self.weight, channels=[x.channels for x in maps])

    @staticmethod
    def forward(module, *maps):
        return torch.stack([x.float().square().mean() for x in maps]).mean()


def on_maps(forward):
    return planted(Small, forward=staticmethod(forward))(maps=("a", "b"), weight=0.1)


def weighed_twice(module, *maps):
    return module.weight * Small.forward(module, *maps)


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
    centre = module.centre if module.centre is not None else float(maps[0].detach().mean())
    module.centre = centre
    return torch.stack([(x.float() - centre).square().mean() for x in maps]).mean()


def of_one_size(module, *maps):
    return functional.mse_loss(functional.avg_pool2d(maps[0], 2)[:, :1], maps[1][:, :1])


def of_three_channels(module, a, b):
    scale = torch.ones(1, 3, 1, 1, device=a.device)
    return (a.float() * scale).square().mean() + b.float().square().mean()


ON_MAPS = {
    "applies its weight too": ("its weight is applied once", weighed_twice),
    "forgets a map": ("every channel counts", of_one_map),
    "sums over cases": ("a mean, not a sum", of_all_cases),
    "looks at the first channel": ("every channel counts", of_the_first_channel),
    "divides by a length of 0": ("finite on dead maps", normalised_by_its_length),
    "takes the logarithm of 0": ("finite on dead maps", by_logarithm),
    "keeps the centre of its first maps": ("a call leaves nothing for the next", with_a_centre),
    "takes sizes to be even": ("a finite scalar at odd sizes", of_one_size),
    "is made for three channels": ("a finite scalar for other channels", of_three_channels),
}


@each(ON_MAPS)
def test_a_faulty_loss_on_maps_is_caught(fault):
    check, forward = fault
    faulty = on_maps(forward)
    build = type(faulty).build
    type(faulty).build = lambda self, maps: with_centre(build(self, maps))
    assert check in failed(check_activation_loss, faulty, [A, B])


def with_centre(module):
    module.centre = None
    return module


def test_without_a_fault_a_loss_on_maps_passes():
    check_activation_loss(Small(maps=("a", "b"), weight=0.1), [A, B])


def test_the_message_names_the_input_and_what_to_do():
    with pytest.raises(AssertionError, match=r"calling class 0 class 1 \(of 3\) is free"):
        check_loss(loss(without_background))
    assert math.isfinite(1)
