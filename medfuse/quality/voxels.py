"""What logits say of single voxels: which class, how surely, and by how much."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Kind = Literal["softmax", "regions"]
"""As labels are decided: the largest logit wins, or each region is there where its logit is above 0."""

Numbers = npt.NDArray[np.float64]


def winners(logits: Tensor) -> Tensor:
    """(classes, *any) → (*any): the first of the largest logits, as the smallest integers that hold it.

    On a CPU by numpy, whose one thread does not compete with those of the network.
    """
    if logits.device.type == "cpu":
        return torch.from_numpy(_winners(logits.float().numpy()))
    return _winners_there(logits)


def _winners_there(logits: Tensor) -> Tensor:
    best, label = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=torch.int32, device=logits.device)
    for number, one in enumerate(logits[1:], 1):
        label.masked_fill_(one > best, number)
        torch.maximum(best, one, out=best)
    return label.byte() if len(logits) <= 256 else label


def _winners(logits: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    best = logits[0].copy()
    label = np.zeros(best.shape, np.uint8 if len(logits) <= 256 else np.int32)
    above = np.empty(best.shape, np.bool_)
    for number, one in enumerate(logits[1:], 1):
        np.greater(one, best, out=above)
        np.copyto(label, label.dtype.type(number), where=above)
        np.maximum(best, one, out=best)
    return label


def entropy(logits: npt.NDArray[Any], kind: Kind = "softmax") -> Numbers:
    """0 (sure) to 1 (all classes alike): (classes, *any) → (*any); and of regions, each by itself.

    -∑ p log p, over the logarithm of the number of classes; a region is there or not, so it has two.
    """
    return entropy_and_margin(logits, kind)[0]


def margin(logits: npt.NDArray[Any], kind: Kind = "softmax") -> Numbers:
    """0 (a tie) to 1 (sure): by how much the likeliest class is likelier than the next; shapes as `entropy`.

    Of regions: between there and not there.
    """
    return entropy_and_margin(logits, kind)[1]


def entropy_and_margin(logits: npt.NDArray[Any], kind: Kind = "softmax") -> tuple[Numbers, Numbers]:
    """Both, for the cost of one; in float64, whose rounding nobody sees."""
    logits = logits.astype(np.float64)
    return _of_classes(np.stack([logits, np.zeros_like(logits)]) if kind == "regions" else logits)


def _of_classes(logits: Numbers) -> tuple[Numbers, Numbers]:
    best, second = logits[0].copy(), np.full_like(logits[0], -math.inf)
    for one in logits[1:]:
        np.maximum(second, np.minimum(best, one), out=second)
        np.maximum(best, one, out=best)
    less = logits - best
    powers = np.exp(less)
    total = powers.sum(0)
    powers *= less
    nats = np.log(total) - powers.sum(0) / total
    sure = np.clip(nats / math.log(max(len(logits), 2)), 0, 1)
    return sure, (1 - np.exp(second - best)) / total
