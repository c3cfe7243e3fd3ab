"""Logits of a whole image from windows that slide over it, as medfuse lays and weighs them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import Inferer
from torch import Tensor

Network = Callable[[Tensor], Tensor]
Axis = tuple[list[int], npt.NDArray[np.float32]]
"""Where windows begin, and their weights."""


class Windows(Inferer):
    """Windows of `roi_size` that overlap by at least `overlap`, evenly spread, weighed by gaussians.

    Two sides send (x, y) slices through a 2-D network. stepped: `gaussian` or `constant` windows that lie a
    step apart. mirror: axes, of which all combinations of flips are averaged.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        overlap: float = 0.5,
        sw_batch_size: int = 1,
        stepped: str | None = None,
        mirror: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.roi_size, self.overlap, self.stepped = tuple(roi_size), overlap, stepped
        self.batch_size = sw_batch_size
        axes = [2 + "xyz".index(axis) for axis in "xyz" if axis in mirror]
        self.flips = [some for n in range(len(axes) + 1) for some in itertools.combinations(axes, n)]

    def __call__(self, inputs: Tensor, network: Network, *args: Any, **kwargs: Any) -> Tensor:
        """(batch, channels, x, y, z) → logits (batch, classes, x, y, z)."""
        plain = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        return torch.stack([self._one(image.float(), network) for image in plain])

    @torch.no_grad()
    def _one(self, image: Tensor, network: Network) -> Tensor:
        size = (*self.roi_size, 1)[:3]
        before = [max(0, wanted - n) // 2 for wanted, n in zip(size, image.shape[1:])]
        padded = image.new_zeros((len(image), *(max(n, wanted) for n, wanted in zip(image.shape[1:], size))))
        own = (slice(None), *(slice(b, b + n) for b, n in zip(before, image.shape[1:])))
        padded[own] = image
        axes = [plan_axis(n, wanted, self.overlap, self.stepped) for n, wanted in zip(padded.shape[1:], size)]
        windows = list(itertools.product(*(range(len(starts)) for starts, _ in axes)))
        at_once = max(1, self.batch_size // len(self.flips))
        total: Tensor | None = None
        for number in range(0, len(windows), at_once):
            some = windows[number : number + at_once]
            places = [_place(axes, index, size) for index in some]
            answers = self._answers(torch.stack([padded[place] for place in places]), network)
            for index, place, logits in zip(some, places, answers):
                if total is None:
                    total = padded.new_zeros((len(logits), *padded.shape[1:]))
                _add(total, logits.float(), axes, index, place)
        assert total is not None, "there is a window at least"
        return total[own]

    def _answers(self, windows: Tensor, network: Network) -> Tensor:
        flat = len(self.roi_size) == 2
        windows = windows.squeeze(-1) if flat else windows
        mean = self._mean(windows, network)
        return mean.unsqueeze(-1) if flat else mean

    def _mean(self, windows: Tensor, network: Network) -> Tensor:
        if len(self.flips) == 1:
            return network(windows)
        total: Tensor | None = None
        at_once = max(1, self.batch_size // len(windows))
        for number in range(0, len(self.flips), at_once):
            some = self.flips[number : number + at_once]
            answers = network(torch.cat([windows.flip(flip) for flip in some]))
            for flip, answer in zip(some, answers.split(len(windows))):
                logits = answer.flip(flip) if flip else answer
                total = logits.float().clone() if total is None else total.add_(logits)
        assert total is not None, "there is a flip at least"
        return total.div_(len(self.flips))


def _place(axes: Sequence[Axis], index: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a[0][n], a[0][n] + wanted) for a, n, wanted in zip(axes, index, size)))


def _add(
    total: Tensor, logits: Tensor, axes: Sequence[Axis], index: Sequence[int], place: tuple[slice, ...]
) -> None:
    """Add a weighed window to the sums; where it is the last that covers a voxel, as the last of the sum."""
    x, y, z = (torch.from_numpy(weights[n]).to(total.device) for (_, weights), n in zip(axes, index))
    weight = x[:, None, None] * y[:, None] * z
    last = tuple(
        slice(0, (starts[n + 1] if n + 1 < len(starts) else starts[n] + len(weights[n])) - starts[n])
        for (starts, weights), n in zip(axes, index)
    )
    view, inner = total[place], (slice(None), *last)
    before = view[inner].clone()
    view.addcmul_(logits, weight)
    view[inner] = logits[inner] * weight[last] + before


def plan_axis(size: int, window: int, overlap: float, stepped: str | None = None) -> Axis:
    """Where windows begin along an axis, and their weights (windows, window): they sum to 1 at each voxel."""
    starts = (_steps if stepped else _spread)(size, window, overlap)
    bell = np.ones(window) if stepped == "constant" else _bell(window)
    total = np.zeros(size)
    for start in starts:
        total[start : start + window] += bell
    weights = np.stack([bell / total[start : start + window] for start in starts])
    return starts, weights.astype(np.float32)


def _spread(size: int, window: int, overlap: float) -> list[int]:
    span = max(0, size - window)
    last = math.ceil(span / max(1.0, window * (1 - overlap)) - 1e-9)
    return [round(i * span / last) for i in range(last + 1)] if last else [0]


def _steps(size: int, window: int, overlap: float) -> list[int]:
    step, span = max(1, int(window * (1 - overlap))), max(0, size - window)
    return [min(i * step, span) for i in range(math.ceil(span / step) + 1)]


def _bell(window: int) -> npt.NDArray[np.float64]:
    offset = np.arange(window) - (window - 1) / 2
    return np.exp(-0.5 * (offset / (window / 8)) ** 2)
