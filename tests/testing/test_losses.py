"""Faults that authors of losses make, each caught by the law that it breaks."""

import pytest
import torch
from planting import Module, each, failed, planted
from sound import Entropy, costs
from torch import nn
from torch.nn import functional

from medfuse.testing import check_loss


def loss(forward):
    return planted(Entropy, forward=staticmethod(forward))()


def test_without_a_fault_it_passes():
    check_loss(Entropy())


def summed_over_cases(module, logits, target):
    return costs(logits, target).flatten(1).mean(1).sum()


def summed_over_voxels(module, logits, target):
    return costs(logits, target).flatten(1).sum(1).mean()


def divided_by_the_batch_twice(module, logits, target):
    return Entropy.forward(module, logits, target) / len(logits)


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
    made = Entropy.forward(module, logits, target)
    return 2 * made.detach() - made


def straight_from_labels(module, logits, target):
    probability = logits.float().softmax(1)
    hard = functional.one_hot(probability.argmax(1), logits.shape[1]).movedim(-1, 1).float()
    truth = functional.one_hot(target[:, 0], logits.shape[1]).movedim(-1, 1).float()
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
    truth = functional.one_hot(target[:, 0], logits.shape[1]).movedim(-1, 1).flatten(2).float()
    probability = logits.float().softmax(1).flatten(2)
    union = (truth.square() + probability.square()).sum(2) * (truth.sum(2) > 0)
    return (1 - 2 * (truth * probability).sum(2) / union).mean()


def in_bytes(module, logits, target):
    return functional.cross_entropy(logits.float(), target[:, 0].to(torch.int8).long() % logits.shape[1])


def by_number(module, logits, target):
    numbers = torch.arange(logits.shape[1], device=logits.device).reshape(1, -1, *(1,) * (logits.ndim - 2))
    expected = (logits.float().softmax(1) * numbers).sum(1)
    return (expected - target[:, 0]).clamp(max=0).square().mean()


def unreduced(module, logits, target):
    return costs(logits, target)


def upside_down(module, logits, target):
    return -Entropy.forward(module, logits, target)


def of_slices(module, logits, target):
    _, _, height, width = logits.shape
    return Entropy.forward(module, logits, target) / (height * width)


def detached(module, logits, target):
    return Entropy.forward(module, logits, target).detach()


def of_three_classes(module, logits, target):
    return functional.cross_entropy(logits, target[:, 0], weight=torch.ones(3))


def naive(module, logits, target):
    return -logits.softmax(1).log().gather(1, target).mean()


def per_foreground_voxel(module, logits, target):
    return costs(logits, target)[target[:, 0] > 0].mean()


def centring_logits(module, logits, target):
    return Entropy.forward(module, logits.sub_(logits.detach().mean()), target)


def sensitive_to_bf16(module, logits, target):
    shifted = logits + 1000 - 1000
    return functional.cross_entropy(shifted.float(), target[:, 0])


def with_a_last_value(module, logits, target):
    made = Entropy.forward(module, logits, target)
    module.last = getattr(module, "last", float(made.detach()))
    return made / module.last


def for_two_cases(module, logits, target):
    first, second = costs(logits, target)
    return (first + second).mean() / 2


def in_double(module, logits, target):
    return functional.cross_entropy(logits.double(), target[:, 0])


def clamping_its_target(module, logits, target):
    target.clamp_(max=logits.shape[1] - 2)
    return functional.cross_entropy(logits.float(), target[:, 0])


def with_weights_on_the_cpu(module, logits, target):
    return functional.cross_entropy(logits.float(), target[:, 0], weight=torch.ones(logits.shape[1]))


def of_random_voxels(module, logits, target):
    return (
        costs(logits, target).flatten()[torch.randperm(target.numel())[: max(1, target.numel() // 2)]].mean()
    )


FAULTS = {
    "is not reduced": ("a finite scalar with a gradient in 2-D", unreduced),
    "takes two axes": ("a finite scalar with a gradient in 3-D", of_slices),
    "detaches": ("a finite scalar with a gradient in 3-D", detached),
    "takes three classes": ("any number of classes", of_three_classes),
    "divides by the foreground": ("finite where background is alone", per_foreground_voxel),
    "takes the logarithm of 0": ("finite where logits are certain", naive),
    "prefers what is wrong": ("prefers what is right", upside_down),
    "centres the logits in place": ("inputs stay as they are", centring_logits),
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
    "changes the target": ("inputs stay as they are", clamping_its_target),
    "makes weights on the CPU": ("follows its device", with_weights_on_the_cpu),
    "draws voxels in evaluation": ("evaluation is deterministic", of_random_voxels),
}


@each(FAULTS)
def test_a_faulty_loss_is_caught(fault):
    check, forward = fault
    assert check in failed(check_loss, loss(forward))


def test_a_loss_that_waits_for_training_is_caught():
    def tempered(module, logits, target):
        return Entropy.forward(module, logits * module.temperature, target)

    made = planted(
        Entropy, build=lambda self, classes: Module(tempered, temperature=nn.Parameter(torch.ones(())))
    )
    assert "nothing in it waits for training" in failed(check_loss, made())


def test_the_message_names_the_input_and_what_to_do():
    with pytest.raises(AssertionError, match=r"calling class 0 class 1 \(of 3\) is free"):
        check_loss(loss(without_background))
