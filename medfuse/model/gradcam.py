"""Where in a feature map the evidence for a class lies: Grad-CAM for segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def grad_cam(
    model: Callable[..., Any],
    image: Tensor,
    name: str,
    number: int,
    *,
    regions: bool = False,
    where: Tensor | None = None,
) -> Tensor:
    """A heat map ≥ 0 on the grid of the map itself, for logit `number` of `image` (channels, *spatial).

    CAM = ReLU(Σ_k α_k A_k), α_k = mean over the map of ∂y / ∂A_k, where A is the map `name` and y the sum of
    the class's logits over the voxels that are predicted as it (Selvaraju et al. 2017; the sum is Vinogradova
    et al. 2020). These are the voxels of `where` (*spatial), the label map as it was written, or without it
    those where the class has the largest logit; of `regions`, each of which has a sigmoid of its own, those
    where the logit is above 0. The heat is 0 everywhere where there are none, or the logits do not depend on
    the map. `model` is a Segmenter, or what is called like one, in evaluation mode.
    """
    with torch.enable_grad():
        window = image.detach()[None].clone().requires_grad_()  # for maps before any trainable weight
        logits, _, maps = model(window, (), (name,))
        activations = maps[name]
        own = logits[0, number]
        if where is None:
            where = own > 0 if regions else logits[0].argmax(0) == number
        score = own[where].sum()
        (gradient,) = torch.autograd.grad(score, activations, allow_unused=True)
    if gradient is None:
        return torch.zeros_like(activations[0, 0])
    spatial = tuple(range(2, gradient.ndim))
    alpha = gradient.mean(spatial, keepdim=True)
    heat: Tensor = (alpha * activations.detach()).sum(1).relu()
    return heat[0]
