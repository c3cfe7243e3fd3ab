"""How deep each parameter of a backbone lies: what comes before its blocks, each block, what comes after."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from medfuse.core.features import ImageInfo
from medfuse.model.segmenter import Segmenter
from medfuse.model.trial import trial

_NUMBERED = re.compile(r"(.*?)_?\d+$", re.DOTALL)


def depths(model: Segmenter, image: ImageInfo) -> dict[str, int]:
    """Parameter of a backbone → how many layers lie between it and the backbone's end, 0 for what comes last.

    A layer is a block, as a transformer's or a stage's, in the order in which they run; what runs before all
    of them, such as an embedding, is the deepest layer, and what runs after them, such as a last norm, is 0
    (BEiT, Bao et al. 2022). What runs between two blocks goes with the one before it.
    """
    found: dict[str, int] = {}
    for name, network in model.backbones.items():
        found |= {f"backbones.{name}.{path}": depth for path, depth in of_network(network, image).items()}
    return found


def of_network(network: nn.Module, image: ImageInfo) -> dict[str, int]:
    """The same of one network, which is tried out on `image`."""
    order = _order(network, image)
    blocks = {path: min(_runs(path, order), default=len(order)) for path in find_blocks(network)}
    begins = sorted(at for at in blocks.values() if at < len(order))  # of those that run
    found: dict[str, int] = {}
    for name, _ in network.named_parameters():
        own = next((path for path in blocks if name.startswith(f"{path}.")), None)
        at = blocks[own] if own else _begin(name, order)
        begun = sum(begin <= at for begin in begins)
        after_all = not own and begun == len(begins)
        found[name] = 0 if after_all else len(begins) + 1 - begun
    return found


def find_blocks(network: nn.Module) -> list[str]:
    """Paths of the blocks: numbered modules or, of a stage, which is a list of blocks, those inside of it.

    Where there are not two of them, each layer of the network is one.
    """
    found = [*_blocks(network, "")]
    if len(found) > 1:
        return found
    path, module = "", network
    while len(inner := _with_weights(module)) == 1 and _with_weights(inner[0][1]):
        path, module = _joined(path, inner[0][0]), inner[0][1]
    return [_joined(path, name) for name, _ in inner]


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in _with_weights(module):
        inner = _joined(path, name)
        if _is_numbered(name, child) and not _holds_blocks(child):
            yield inner
        else:
            yield from _blocks(child, inner)


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a numbered module is a stage: a list of blocks, or with such a list inside."""
    return _is_list(module) or any(_is_list(child) for _, child in _with_weights(module))


def _is_list(module: nn.Module) -> bool:
    """Whether all that has weights in it is numbered: a stage's blocks, and not a block's layers."""
    children = _with_weights(module)
    return bool(children) and all(_is_numbered(name, child) for name, child in children)


def _is_numbered(name: str, module: nn.Module) -> bool:
    """Whether it is one of several like it, and more than a single layer."""
    return bool(_NUMBERED.match(name)) and bool(_with_weights(module))


def _with_weights(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that can learn, by name."""
    return [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _order(network: nn.Module, image: ImageInfo) -> dict[str, int]:
    """Modules by the time when each runs first."""
    ran: dict[str, int] = {}

    def note(path: str, _: nn.Module, __: Any) -> None:
        ran.setdefault(path, len(ran))

    def start(_: nn.Module, __: Any) -> None:
        ran.clear()  # a trial may need a second pass
        ran[""] = 0

    handles = [network.register_forward_pre_hook(start, prepend=True)]
    for path, module in network.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(partial(note, path)))
    try:
        trial(network, image, training=False)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _runs(path: str, order: Mapping[str, int]) -> list[int]:
    """When a block and what lies in it begin to run; a traced graph runs what lies in it alone."""
    return [at for ran, at in order.items() if ran == path or ran.startswith(f"{path}.")]


def _begin(name: str, order: Mapping[str, int]) -> int:
    """When the innermost module around a parameter that runs by itself begins to."""
    path = name.rpartition(".")[0]
    while path and path not in order:
        path = path.rpartition(".")[0]
    return order.get(path, 0)
