"""Anybody's losses, held to their contract on random patches and maps before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from medfuse.api import ActivationLoss, FeatureInfo, Loss, Plugin
from medfuse.core.errors import MedfuseError, Path, PluginError, Problem, reason
from medfuse.core.text import by
from medfuse.registry import blame
from medfuse.train.held import hold_loss, inside
from medfuse.train.targets import supervised

_VOXELS = 48  # per axis, of the patch that losses are tried on


@dataclass(frozen=True)
class Targets:
    """What a label holds: `values` class numbers, `regions` of them if any, and `ignored`, one more.

    `classes` is the number of logits.
    """

    classes: int
    values: int
    regions: tuple[tuple[int, ...], ...] = ()
    ignored: int | None = None


def loss_problems(
    loss: Loss, targets: Targets, size: Sequence[int], path: Path, *, all_of_them: bool
) -> list[Problem]:
    """What `loss`, or one inside it, does on a random patch of `size` that would end training.

    It is tried on every class, and on background alone. Unless `all_of_them` are wanted, those that come with
    medfuse are taken to be sound, as many of them import MONAI, which takes seconds.
    """
    for place, inner in inside(loss, Loss):
        if problems := loss_problems(inner, targets, size, (*path, *place), all_of_them=all_of_them):
            return problems
    if not all_of_them and _is_known(loss):
        return []
    size = tuple(min(n, _VOXELS) for n in size)
    random = torch.Generator().manual_seed(1)
    everything = targets.values + (targets.ignored is not None)
    label = torch.randint(everything, (2, 1, *size), generator=random)
    try:
        made = supervised(loss, targets.classes, regions=targets.regions, ignored=targets.ignored)
        for what, target in (("", label), (" on background alone", torch.zeros_like(label))):
            logits = torch.randn(2, targets.classes, *size, generator=random).requires_grad_()
            try:
                hold_loss(partial(made, logits, target), [logits], wants_gradient=not what)
            except Exception as error:
                said = f"on logits of 2×{targets.classes}×{by(size)}{what}: {reason(error)}"
                raise PluginError(f"{blame(loss)} {said}") from error
    except PluginError as error:
        return [Problem(path, line) for line in error.lines]
    except MedfuseError as error:
        return [Problem(path, line) for line in error.lines]
    except Exception as error:
        return [Problem(path, f"{blame(loss)} cannot be made: {reason(error)}")]
    return []


def activation_problems(loss: ActivationLoss, maps: Sequence[FeatureInfo], path: Path) -> list[Problem]:
    """What a loss on inner maps does on small random ones that would end training."""
    random = torch.Generator().manual_seed(1)
    size = tuple(2 * max(8, *strides) for strides in zip(*(f.stride for f in maps)))
    shapes = [(2, f.channels, *f.size(size)) for f in maps]
    try:
        made = loss.build(maps)
        given = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
        hold_loss(lambda: made(*given), given, wants_gradient=True)
    except MedfuseError as error:
        return [Problem(path, f"{blame(loss)}: {line}") for line in error.lines]
    except Exception as error:
        return [Problem(path, f"{blame(loss)}: {reason(error)}")]
    return []


def _is_known(plugin: Plugin) -> bool:
    """Whether it comes with medfuse, and is not given arguments for something else."""
    free = any(isinstance(getattr(plugin, name), dict) for name in type(plugin).model_fields)
    return type(plugin).__module__.startswith("medfuse.builtin.") and not free
