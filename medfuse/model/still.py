"""Parts of a graph that no loss teaches, such as the teacher of a distillation: they stand still."""

from __future__ import annotations

import torch

from medfuse.core.features import FeatureInfo
from medfuse.model.borrowed import chance_kept
from medfuse.model.plan import ActivationPlan, GraphPlan


def untaught(plan: GraphPlan) -> frozenset[str]:
    """The backbones and nodes that get no gradient from any head or loss on activations."""
    reached = {plan.head, *plan.aux, *(name for a in plan.activations for name in _taught_maps(a))}
    parts = set()
    for node in reversed(plan.nodes):
        if reached & {f.name for f in (node.output, *node.sides)}:
            reached |= {f.name for f in node.inputs}
        else:
            parts.add(node.name)
    for b in plan.backbones:
        if not reached & {f"{b.name}.{tap.name}" for tap in b.taps}:
            parts.add(b.name)
    return frozenset(parts)


def _taught_maps(activation: ActivationPlan) -> set[str]:
    """The maps that a loss sends a gradient to: all where it cannot be tried out on small ones."""
    names = [f.name for f in activation.maps]
    if not activation.loss.weight:
        return set()
    try:
        with chance_kept(), torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
            maps = _small(activation.maps)
            loss = activation.loss.build(activation.maps)(*maps)
            if not loss.requires_grad:
                return set()
            gradients = torch.autograd.grad(loss, maps, allow_unused=True)
    except Exception:  # another's loss may fail in any way; training will say how
        return {*names}
    return {name for name, gradient in zip(names, gradients) if gradient is not None}


def _small(features: tuple[FeatureInfo, ...]) -> list[torch.Tensor]:
    """A random tensor for each map, of an image that is four voxels wide on the coarsest of them."""
    image = tuple(4 * max(strides) for strides in zip(*(f.stride for f in features)))
    return [torch.randn(2, f.channels, *f.size(image), requires_grad=True) for f in features]
