"""Whether maps of tokens lie as the image does: trials with one bright place in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.core.memory import free_memory
from medfuse.core.places import SEEDS, Answer, answers_of, images_of, otherwise, small_size
from medfuse.model.address import Address, element, tensors_in
from medfuse.model.borrowed import borrowed, chance_kept
from medfuse.model.bounded import WithinMemory


def misplaced(build: Callable[[], nn.Module], taps: Sequence[FeatureInfo], image: ImageInfo) -> list[str]:
    """What is wrong with those of `taps` that lie otherwise than the image, a line for each kind of layout.

    A small image whose axes are unlike acquits; the patch decides. Nothing is said of a network that cannot
    be made or run in half of the memory that is free. Chance is as before.
    """
    if not taps:
        return []
    small, patch = small_size(taps), image.patch_size
    with chance_kept(), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(0)
        try:
            with WithinMemory(free_memory() // 2):
                network = build().eval()
        except Exception:  # what is wrong with it is for others to say
            return []
        for size in (small, patch) if prod(small) <= prod(patch) else (patch,):
            with suppress(Exception), WithinMemory(free_memory() // 2):  # it may take no such image
                found = _wrong(network, taps, image.channels, size)
                if size == patch or not found:
                    return found
    return []


def _wrong(
    network: nn.Module, taps: Sequence[FeatureInfo], channels: int, size: tuple[int, ...]
) -> list[str]:
    with borrowed(network, Tensor.detach):  # which may keep something of the size that it saw last
        seen = [_answers(network, taps, channels, size, seed) for seed in SEEDS]
    found = [tap for tap in taps if all(tap.name in one for one in seen)]
    first = {(tap.stride, tap.tokens): tap for tap in reversed(found)}
    said = [
        [otherwise(tap, answers) for answers in zip(*(one[tap.name] for one in seen))]
        for tap in first.values()
    ]
    return [own for own, *around in said if own and all(around)]


def _answers(
    network: nn.Module, taps: Sequence[FeatureInfo], channels: int, size: tuple[int, ...], seed: int
) -> dict[str, list[list[Answer]]]:
    """By the names of maps: of the layer itself, then of those that it lies in. Raises where a map is none.

    Attention alone answers anywhere; the block around it, which adds it to what it was given, where the image
    is bright; and in windows, where no block is, what makes the queries. What a strategy makes itself is left
    out.
    """
    found: dict[str, list[list[Answer]]] = {}
    for stride in dict.fromkeys(tap.stride for tap in taps):
        same = [tap for tap in taps if tap.stride == stride]
        made = _tapped(network, same, images_of(same[0], channels, size, seed))
        for tap in same:
            if tensors := made[tap.name]:
                found[tap.name] = [answers_of(tap, tensor, size) for tensor in tensors]
    return found


def _tapped(network: nn.Module, taps: Sequence[FeatureInfo], images: Tensor) -> dict[str, list[Tensor]]:
    """What each layer makes, and those around it of as many tokens."""
    returned: dict[str, Any] = {}

    def keep(path: str, _: nn.Module, __: Any, output: Any) -> None:
        returned[path] = output

    addresses = {tap.name: Address.of(tap.name) for tap in taps}
    around = {tap.name: _around(network, addresses[tap.name].path, tap) for tap in taps}
    handles = [
        network.get_submodule(path).register_forward_hook(partial(keep, path))
        for path in {path for paths in around.values() for path in paths}
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    made: dict[str, list[Tensor]] = {}
    for tap in taps:
        own = _tensor(returned[addresses[tap.name].path], tap, addresses[tap.name])
        others = [
            x for path in around[tap.name][1:] if path in returned for _, x in tensors_in(returned[path])
        ]
        made[tap.name] = [] if own is None else [own, *(x for x in others if x.shape[:-1] == own.shape[:-1])]
    return made


def _around(network: nn.Module, path: str, tap: FeatureInfo) -> list[str]:
    """A layer's path, and those of the layers that it lies in; of one in windows, of those beside it, too."""
    parts = path.split(".")
    around = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    if tap.tokens and tap.tokens.window and len(around) > 1:
        around += [
            f"{around[1]}.{name}" for name, _ in network.get_submodule(around[1]).named_modules() if name
        ]
    return [*dict.fromkeys(around)]


def _tensor(returned: Any, tap: FeatureInfo, address: Address) -> Tensor | None:
    """What is tapped of a layer's output, if it is there: of several the first of so many channels."""
    try:
        found = element(returned, address.place)
    except LookupError:
        return None
    tensors = [x for _, x in tensors_in(found) if x.ndim > 2 and x.shape[-1] == tap.channels]
    return tensors[0] if tensors else None
