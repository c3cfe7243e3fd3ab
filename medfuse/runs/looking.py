"""Quick looks at what a network in training makes of prepared cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medfuse.infer.sliding import predict_logits
from medfuse.report.metrics import dice_per_class, dice_per_region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medfuse.data.plan import DataPlan
    from medfuse.infer.settings import InferSettings

    Label = NDArray[np.integer[Any]]

_LEVELS = 256  # of a probability
_SLAB = 2**24  # logits that are looked at together: what is made of them takes many times their bytes


def logits_of(
    network: nn.Module,
    cases: Iterable[tuple[NDArray[np.float32], Label]],
    plan: DataPlan,
    settings: InferSettings,
    device: torch.device,
    autocast: Callable[[], Any],
) -> Iterator[tuple[Tensor, Label]]:
    """Logits (classes, x, y, z) of each prepared image on the grid of its label, and that (x, y, z)."""

    def windows(batch: Tensor) -> Tensor:
        with autocast():
            made: Tensor = network(batch).float()
        return made

    for image, label in cases:
        logits = predict_logits(
            image,
            windows,
            patch_size=plan.patch_size,
            classes=len(plan.classes),
            overlap=settings.windows_overlap,
            batch_size=settings.batch_size,
            device=device,
        )
        if logits.shape[1:] != label.shape:
            logits = interpolate(logits[None].float(), label.shape, mode="trilinear")[0]
        yield logits, label


def dice_of(made: Iterable[tuple[Tensor, Label]], plan: DataPlan) -> dict[str, list[float]]:
    """Label → Dice of every case that has it or was given it."""
    found: dict[str, list[float]] = {}
    for logits, label in made:
        if plan.regions:
            regions = dict(zip(plan.classes, plan.regions))
            scores = dice_per_region((logits > 0).cpu().numpy(), label, regions, plan.ignored)
        else:
            scores = dice_per_class(logits.argmax(0).cpu().numpy(), label, plan.classes)
        for name, value in scores.items():
            found.setdefault(name, []).append(value)
    return found


def ripe_dice(made: Iterable[tuple[Tensor, Label]], plan: DataPlan) -> float:
    """Mean over labels of the Dice at the probability at which it is highest, of all cases together.

    A network that has hardly begun is sure of nothing but background, and its Dice is 0 however well it
    ranks voxels; this tells how well it does.
    """
    counts: Tensor | None = None  # (outputs, without and with the label, levels)
    for logits, label in _slabs(made):
        truth = torch.as_tensor(label, dtype=torch.int64, device=logits.device)
        known = torch.ones_like(truth, dtype=torch.bool) if plan.ignored is None else truth != plan.ignored
        if plan.regions:
            shares = logits.float().sigmoid()
            masks = [
                torch.isin(truth, torch.tensor(numbers, device=truth.device)) for numbers in plan.regions
            ]
        else:
            shares = logits.float().softmax(0)[1:]
            masks = [truth == number for number in range(1, len(plan.classes))]
        levels = (shares * (_LEVELS - 1)).round().long()
        now = torch.stack(
            [
                torch.bincount((level + _LEVELS * mask)[known], minlength=2 * _LEVELS).view(2, _LEVELS)
                for level, mask in zip(levels, masks)
            ]
        )
        counts = now if counts is None else counts + now
    if counts is None:
        return 0.0
    above = counts.flip(-1).cumsum(-1).double()  # voxels of at least this probability
    size = above.sum(1) + counts[:, 1].sum(-1, keepdim=True)
    there = counts[:, 1].sum(-1) > 0
    dice = (2 * above[:, 1] / size.clamp(min=1)).amax(-1)[there]
    return float(dice.mean()) if len(dice) else 0.0


def _slabs(made: Iterable[tuple[Tensor, Label]]) -> Iterator[tuple[Tensor, Label]]:
    """The same in parts along x that are small enough to be worked on."""
    for logits, label in made:
        rows = max(1, _SLAB // max(1, logits[:, :1].numel()))
        for start in range(0, len(label), rows):
            yield logits[:, start : start + rows], label[start : start + rows]
