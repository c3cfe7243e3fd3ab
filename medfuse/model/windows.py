"""Tokens in another order than the grid's: windows that are batch items of their own, and unrolled grids."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from medfuse.core.features import TokenLayout
from medfuse.core.text import by
from medfuse.model.maps import MapFacts, Shown, Size
from medfuse.model.trial import BATCH


def windows_around(network: nn.Module, path: str, dims: int) -> tuple[str, TokenLayout] | None:
    """The nearest layer around one that says how large its windows are, and how they are shifted.

    By its attributes `window_size` and `shift_size`, as Swin's and SAM's blocks have them.
    """
    parts = path.split(".")
    around = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    modules = {name: network.get_submodule(name) for name in around}
    sizes = {name: _per_axis(getattr(module, "window_size", None), dims) for name, module in modules.items()}
    named = [name for name in around if sizes[name] and min(sizes[name]) > 0]
    best = [name for name in named if hasattr(modules[name], "shift_size")] or named
    if not best:
        return None
    shift = _per_axis(getattr(modules[best[0]], "shift_size", 0), dims)
    return best[0], TokenLayout(window=sizes[best[0]], shift=shift if any(shift) else ())


def read_windows(shown: Sequence[Shown], layout: TokenLayout, stride: Size) -> MapFacts:
    """What a layer makes of windows of a grid of that stride: (batch · windows, places, channels).

    Or (batch · windows, *window, channels). The last windows on an axis are filled up. Of an image other than
    the patch windows may be smaller, where its grid is.
    """
    first = shown[0]
    for one in shown:
        grid = tuple(-(-n // s) for n, s in zip(one.image, stride))
        count = prod(-(-n // w) for n, w in zip(grid, layout.window))
        is_window = one.shape[1:-1] in (layout.window, (prod(layout.window),))
        if (is_window and one.shape[0] != BATCH * count) or (one is first and not is_window):
            return MapFacts(
                reason=f"makes {by(first.shape)}, which are no windows of {by(layout.window)} places"
            )
    if len({one.shape[-1] for one in shown}) > 1:
        return MapFacts(reason=f"makes {by(first.shape)}, which is no map of the image")
    size = tuple(-(-n // s) for n, s in zip(first.image, stride))
    return MapFacts((first.shape[-1], *size), stride, tokens=layout)


def unroll_schedule(network: nn.Module) -> tuple[Size, ...]:
    """The strides by which a network takes its grid apart one after the other, as Hiera does; or nothing."""
    for module in network.modules():
        for owner, name in ((module, "unroll_schedule"), (getattr(module, "unroll", None), "schedule")):
            found = getattr(owner, name, None)
            if isinstance(found, list | tuple) and found and all(_is_size(step) for step in found):
                return tuple(tuple(step) for step in found)
    return ()


def left_of(schedule: Sequence[Size], patch: Size, stride: Size) -> tuple[Size, ...] | None:
    """What of a schedule is left in a map of `stride`; None where pooling by it does not lead there."""
    now = patch
    for done in range(len(schedule) + 1):
        if now == stride:
            return tuple(schedule[done:])
        if done < len(schedule):
            now = tuple(n * s for n, s in zip(now, schedule[done]))
    return None


def _is_size(found: Any) -> bool:
    return isinstance(found, list | tuple) and bool(found) and all(isinstance(n, int) for n in found)


def _per_axis(said: Any, dims: int) -> Size:
    if isinstance(said, int) and not isinstance(said, bool):
        return (said,) * dims
    return tuple(said) if _is_size(said) and len(said) == dims else ()
