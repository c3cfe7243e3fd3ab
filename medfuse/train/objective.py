"""What training minimises: the main loss plus each auxiliary loss times its weight now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from medfuse.api import AuxSchedule

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """Losses of the main head and of the auxiliary heads.

    The model is called as `model(image)` → logits, or `model(image, aux=names)` → (logits, {name: logits}).
    A head whose weight is 0 is not asked for, so nothing is computed for it.
    """

    loss: LossFunction
    heads: tuple[str, ...] = ()
    schedule: AuxSchedule | None = None
    aux_loss: LossFunction | None = None

    def weights(self, step: int, total_steps: int) -> dict[str, float]:
        """The weight of each auxiliary head at `step`."""
        if not self.heads or self.schedule is None:
            return {}
        return dict(zip(self.heads, self.schedule.weights(step, total_steps, len(self.heads)), strict=True))

    def __call__(
        self, model: Callable[..., object], image: Tensor, label: Tensor, weights: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, a scalar with a gradient, and its parts: `main` and each active head, unweighted.

        image: (batch, channels, *patch_size). label: (batch, 1, *patch_size), class indices.
        """
        active = tuple(name for name, weight in weights.items() if weight > 0)
        logits, inner = _outputs(model, image, active)
        total = self.loss(logits, label)
        parts = {"main": total.detach()}
        for name in active:
            part = (self.aux_loss or self.loss)(inner[name], shrink(label, inner[name].shape[2:]))
            parts[name] = part.detach()
            total = total + weights[name] * part
        return total, parts


def shrink(label: Tensor, size: Sequence[int]) -> Tensor:
    """Class indices (batch, 1, *spatial) on a head's own grid: the nearest voxel's, as in nnU-Net."""
    if tuple(label.shape[2:]) == tuple(size):
        return label
    return functional.interpolate(label.float(), size=tuple(size), mode="nearest-exact").to(label.dtype)


def _outputs(
    model: Callable[..., object], image: Tensor, active: tuple[str, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    output = model(image, aux=active) if active else model(image)
    if isinstance(output, Tensor):
        return output, {}
    assert isinstance(output, tuple)
    return output
