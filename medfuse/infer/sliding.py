"""Logits of a whole volume from a network that sees windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medfuse.core.errors import DataError, PipelineError, Problem, ShapeError
from medfuse.infer.windows import Window, plan_grid

Network = Callable[[Tensor], Tensor]
"""Windows (batch, channels, *patch_size) → logits (batch, classes, *patch_size)."""

Item = TypeVar("Item")


def predict_logits(
    image: npt.NDArray[np.float32] | Tensor,
    networks: Network | Sequence[Network],
    *,
    patch_size: Sequence[int],
    classes: int,
    overlap: float = 0.5,
    batch_size: int = 1,
    mirror: Sequence[str] = (),
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Logits (classes, x, y, z) in float32 for an image (channels, x, y, z).

    Windows are weighted by a gaussian. Where `mirror` names axes (of "x", "y", "z") each window is seen in
    every combination of flips; several networks are the folds of one model. Over flips and folds it is
    logits that are averaged, as nnU-Net does: a mean is linear, so the order of averaging, stitching and
    resampling does not matter. A `patch_size` of two numbers sends (x, y) slices through a 2-D network,
    `batch_size` at a time. `progress` is told (windows done, windows in all).

    Raises ShapeError where a network does not answer with logits of the window's size, and DataError
    where they are not finite.
    """
    volume = torch.as_tensor(image, dtype=torch.float32)
    networks = networks if isinstance(networks, Sequence) else (networks,)
    flips = flip_combinations(mirror, len(patch_size))
    grid = plan_grid(volume.shape[1:], patch_size, overlap)
    padded, inside = _pad(volume, grid.shape)
    total = _zeros((classes, *grid.shape), torch.device(device))
    done = 0
    with torch.inference_mode():
        for batch in _batches(grid, batch_size):
            windows = torch.stack([padded[(slice(None), *w.where)] for w in batch]).to(device)
            logits = _mean_logits(windows, networks, flips, classes, flat=len(patch_size) == 2)
            for window, part in zip(batch, logits.to(total.device)):
                total[(slice(None), *window.where)].addcmul_(part, _weight(window, total.device))
            done += len(batch)
            if progress:
                progress(done, len(grid))
    if not math.isfinite(float(total.sum())):
        raise DataError(
            "the network answers with NaN or infinite logits; look for such voxels, or use precision: fp32"
        )
    return total[(slice(None), *inside)]


def flip_combinations(mirror: Sequence[str], dims: int) -> list[tuple[int, ...]]:
    """Tensor axes of (batch, channels, *spatial) to flip: every subset of `mirror`, beginning with none."""
    spatial = "xyz"[:dims]
    if unknown := [axis for axis in mirror if axis not in spatial]:
        message = f"{', '.join(unknown)}: a {dims}-D network can be mirrored along {', '.join(spatial)} only"
        raise PipelineError([Problem(("infer", "mirror"), message)])
    axes = [2 + spatial.index(axis) for axis in spatial if axis in mirror]
    return [subset for n in range(len(axes) + 1) for subset in itertools.combinations(axes, n)]


def _mean_logits(
    windows: Tensor,
    networks: Sequence[Network],
    flips: Sequence[tuple[int, ...]],
    classes: int,
    *,
    flat: bool,
) -> Tensor:
    """Logits (batch, classes, x, y, z), averaged over networks and flips."""
    inputs = windows.squeeze(-1) if flat else windows
    total: Tensor | None = None
    for network, flip in itertools.product(networks, flips):
        logits = _checked(network(inputs.flip(flip) if flip else inputs), inputs, classes).float()
        logits = logits.flip(flip) if flip else logits
        total = logits if total is None else total + logits
    assert total is not None, "at least one network is needed"
    mean = total / (len(networks) * len(flips))
    return mean.unsqueeze(-1) if flat else mean


def _checked(logits: Any, inputs: Tensor, classes: int) -> Tensor:
    wanted = (inputs.shape[0], classes, *inputs.shape[2:])
    given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if given != wanted:
        raise ShapeError(
            f"the network answers windows {tuple(inputs.shape)} with {given}, not with logits {wanted}; "
            "it does not belong to this pipeline's labels, channels or patch_size"
        )
    return logits


def _weight(window: Window, device: torch.device) -> Tensor:
    """(x, y, z): the product of the window's weights along its axes."""
    x, y, z = (torch.from_numpy(w).to(device) for w in window.weights)
    return x[:, None, None] * y[:, None] * z


def _pad(volume: Tensor, shape: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """The volume amid zeros where it is smaller than `shape`, and its place in them."""
    size = volume.shape[1:]
    before = [(wanted - n) // 2 for wanted, n in zip(shape, size)]
    sides = [(b, wanted - n - b) for b, wanted, n in zip(before, shape, size)]
    padding = [amount for pair in reversed(sides) for amount in pair]
    inside = tuple(slice(b, b + n) for b, n in zip(before, size))
    return (F.pad(volume, padding) if any(padding) else volume), inside


def _zeros(shape: Sequence[int], device: torch.device) -> Tensor:
    """Zeros on `device`, or in main memory where they would take more than half of what is free there."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        device = torch.device("cpu") if 4 * math.prod(shape) > free / 2 else device
    return torch.zeros(tuple(shape), device=device)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
