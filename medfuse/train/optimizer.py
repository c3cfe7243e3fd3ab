"""Optimisers, and the learning rate as a pure function of progress."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from medfuse.train.settings import TrainSettings


def make_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], settings: TrainSettings
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.99 (nnU-Net's), or AdamW. `parameters` as torch takes them."""
    rate = peak_rate(settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=0.99,
            nesterov=True,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=settings.weight_decay, foreach=True)


def peak_rate(settings: TrainSettings) -> float:
    if settings.learning_rate != "auto":
        return settings.learning_rate
    return 0.01 if settings.optimizer == "sgd" else 0.001


def rate_factor(progress: float, settings: TrainSettings) -> float:
    """Share of the peak rate at `progress` in [0, 1]: a linear warm-up, then poly (1 - t)^0.9 or cosine."""
    if progress < settings.warmup:
        return max(progress / settings.warmup, 1e-3)
    t = (progress - settings.warmup) / (1 - settings.warmup)
    if settings.decay == "poly":
        return (1 - t) ** 0.9
    if settings.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    return 1.0
