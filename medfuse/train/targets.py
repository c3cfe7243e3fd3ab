"""What a loss is shown of a batch: the voxels that somebody annotated; of regions, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.api import Loss

_CERTAIN = 100.0  # in fp32 the softmax of logits this far from 0 is exactly one-hot


def supervised(
    loss: Loss, classes: int, *, regions: Sequence[Sequence[int]] = (), ignored: int | None = None
) -> nn.Module:
    """A module (logits (batch, classes, *spatial), target (batch, 1, *spatial) class numbers) → scalar.

    regions: for each of `classes` the numbers that it unites; empty where classes exclude each other.
    ignored: the number of voxels that nobody annotated, which change neither the loss nor its gradient.
    """
    made = PerRegion(loss.build(2), regions) if regions else loss.build(classes)
    if ignored is None:
        return made
    if loss.looks_at_places():
        return Filled(made, ignored, exclusive=not regions)
    return Annotated(made, ignored)


def presence(outputs: int, *, regions: Sequence[Sequence[int]] = (), ignored: int | None = None) -> Presence:
    """The loss of heads that tell which of `outputs` a patch has: classes but the background, or regions."""
    numbers = regions or [[number] for number in range(1, outputs)]
    return Presence(numbers, ignored)


class Presence(nn.Module):
    """Binary cross-entropy of what labels a patch has: (logits (batch, outputs, 1, …), its label) → scalar.

    `numbers` are, of the last outputs, the class numbers that each unites; an output in front of them, the
    background's, is left out. A label that no annotated voxel has is absent only where all voxels are
    annotated; otherwise nobody knows, and nothing is taught.
    """

    def __init__(self, numbers: Sequence[Sequence[int]], ignored: int | None = None) -> None:
        super().__init__()
        self.numbers, self.ignored = tuple(map(tuple, numbers)), ignored

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        voxels = target.flatten(1)  # (batch, voxels)
        found = [reduce(torch.logical_or, (voxels == n for n in united)).any(1) for united in self.numbers]
        present = torch.stack(found, dim=1)  # (batch, labels)
        whole = torch.ones_like(present) if self.ignored is None else _whole(voxels, self.ignored)
        known = present | whole
        told = logits.flatten(1)[:, -len(self.numbers) :].float()
        if not known.any():
            return told.sum() * 0
        return functional.binary_cross_entropy_with_logits(told[known], present[known].to(told.dtype))


class PerRegion(nn.Module):
    """The mean over regions of a loss on two classes, inside and outside.

    A region's logit z becomes the logits (0, z), whose softmax is the sigmoid of z: so any loss on classes
    that exclude each other is one on regions.
    """

    def __init__(self, loss: nn.Module, regions: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.loss = loss
        self.regions = tuple(map(tuple, regions))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = []
        for channel, numbers in zip(logits.split(1, dim=1), self.regions, strict=True):
            inside = reduce(torch.logical_or, (target == number for number in numbers))
            losses.append(self.loss(torch.cat([torch.zeros_like(channel), channel], 1), inside.to(target)))
        return torch.stack(losses).mean()


def _whole(voxels: Tensor, ignored: int) -> Tensor:
    """(batch, 1): whether every voxel of a patch is annotated."""
    return (voxels != ignored).all(1, keepdim=True)


class Annotated(nn.Module):
    """A loss of the annotated voxels alone, in a row: (1, classes, voxels, 1, 1). 0 where there are none."""

    def __init__(self, loss: nn.Module, ignored: int) -> None:
        super().__init__()
        self.loss, self.ignored = loss, ignored

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        known = target[:, 0] != self.ignored
        if not known.any():
            return logits.sum() * 0
        rest = (1,) * (logits.ndim - 3)
        row = logits.movedim(1, -1)[known].T  # (classes, voxels)
        result: Tensor = self.loss(
            row.reshape(1, len(row), -1, *rest), target[:, 0][known].reshape(1, 1, -1, *rest)
        )
        return result


class Filled(nn.Module):
    """A loss of whole patches, in which what is not annotated is background, predicted with certainty."""

    def __init__(self, loss: nn.Module, ignored: int, *, exclusive: bool) -> None:
        super().__init__()
        self.loss, self.ignored, self.exclusive = loss, ignored, exclusive

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        known = target != self.ignored
        sure = torch.full_like(logits, -_CERTAIN)
        if self.exclusive:
            sure[:, 0] = _CERTAIN
        result: Tensor = self.loss(logits.where(known, sure), target.where(known, torch.zeros_like(target)))
        return result
