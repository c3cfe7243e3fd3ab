"""Losses on logits (batch, classes, *spatial) against class indices (batch, 1, *spatial)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional


class Focal(nn.Module):
    """MONAI's focal loss, added up over classes, where MONAI divides by their number."""

    def __init__(self, gamma: float) -> None:
        from monai.losses import FocalLoss

        super().__init__()
        self.loss = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma, reduction="none")

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        per_class: Tensor = self.loss(logits, target)
        return per_class.sum(1).mean()


class TopK(nn.Module):
    """The mean of the largest `share` of all voxels' cross-entropies, at least one."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        costs = functional.cross_entropy(logits, target[:, 0].long(), reduction="none").flatten()
        return costs.topk(max(1, ceil(self.share * len(costs))), sorted=False).values.mean()


class Boundary(nn.Module):
    """φ·p, averaged over voxels and classes."""

    def __init__(self, classes: int, *, background: bool) -> None:
        super().__init__()
        self.counted = range(0 if background else 1, classes)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        probability = logits.softmax(1)
        terms = [
            (signed_distance(target[:, 0] == number) * probability[:, number]).mean()
            for number in self.counted
        ]
        return torch.stack(terms).mean()


class WeightedSum(nn.Module):
    """The weighted sum of losses."""

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        terms = [
            weight * loss(logits, target) for weight, loss in zip(self.weights, self.losses, strict=True)
        ]
        return torch.stack(terms).sum()


def signed_distance(masks: Tensor) -> Tensor:
    """Of each mask (batch, *spatial): voxels to the boundary, negative inside and 0 on its inner layer.

    A mask that is empty or full has no boundary in sight, and 0 everywhere. The distances are SciPy's, on the
    CPU, and have no gradient.
    """
    from scipy.ndimage import distance_transform_edt

    found = torch.zeros(masks.shape, dtype=torch.float32)
    for number, mask in enumerate(masks.cpu().numpy()):
        if mask.any() and not mask.all():
            distance = distance_transform_edt(~mask) - (distance_transform_edt(mask) - 1) * mask
            found[number] = torch.from_numpy(distance).float()
    return found.to(masks.device)
