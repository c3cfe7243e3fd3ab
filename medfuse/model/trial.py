"""One forward pass without arithmetic: on the meta device, where tensors have a shape and no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from traceback import walk_tb
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medfuse.core.errors import MedfuseError, PluginError, ShapeError, lacks, reason
from medfuse.core.features import ImageInfo
from medfuse.core.json_text import shortened
from medfuse.core.memory import free_memory
from medfuse.core.text import by
from medfuse.model.borrowed import borrowed, tensors_of
from medfuse.model.bounded import WithinMemory
from medfuse.model.shapes import ShapesOnly

BATCH = 2  # batch normalisation in training needs more than one value per channel
HEAVY = 2**30  # bytes of weights that are made in memory only where the meta device is at fault

Module = TypeVar("Module", bound=nn.Module)
Result = TypeVar("Result")


def try_out(build: Callable[[], Module], run: Callable[[Module], Result]) -> Result:
    """`run(build())` without memory for weights; with real ones where the meta device is not up to it.

    A constructor that computes with its weights (`.item()`, a loop over `linspace`) or an operator without a
    meta kernel fails there alone. Real weights take at most half of the memory that is free, so that there is
    room for a trial's stand-ins. Raises ShapeError.
    """
    try:
        with torch.device("meta"), ShapesOnly():
            module = build()
        return run(module)
    except MedfuseError:
        raise
    except Exception as error:
        if "overflow" in str(error):  # of a size, which real memory cannot be asked for
            raise ShapeError(f"is too large to be made: {shortened(reason(error), 200)}") from error
        with WithinMemory(free_memory() // 2):
            made = build()
        return run(made)


def trial(
    module: nn.Module,
    image: ImageInfo,
    *arguments: Any,
    training: bool | None = None,
    batch: int = BATCH,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Any:
    """`module` on a batch of `image`, in the mode it is in or, by `training`, in that one.

    It is left as it was: weights, statistics, attributes, mode, hooks, and chance. On the meta device; where
    that fails and the module has real weights, on the CPU. Hooks fire as ever, in each of the two passes.
    Raises ShapeError where the network cannot run on such an image; what a module whose weights are on the
    meta device raises is let through, as a real one may do better, unless that would be far too large.
    `within` makes what each pass runs inside.
    """
    shape = (batch, image.channels, *image.patch_size)

    def run(stand_in: Callable[[Tensor], Tensor], example: Callable[[], Tensor]) -> Any:
        with torch.no_grad(), borrowed(module, stand_in):
            if training is not None:
                module.train(training)
            with within():
                return module(example(), *arguments)

    try:
        with torch.device("meta"), ShapesOnly():
            return run(_without_data, lambda: torch.empty(shape))
    except Exception as error:
        if any(t.is_meta for t in tensors_of(module)):
            if not isinstance(error, MedfuseError) and _is_too_heavy(module, shape, error):
                raise _failed(shape, error, module) from error
            raise  # for try_out
    try:
        return run(torch.clone, lambda: _noise(shape))
    except MedfuseError:
        raise
    except Exception as error:
        raise _failed(shape, error, module) from error


def _failed(shape: Sequence[int], error: Exception, module: nn.Module) -> MedfuseError:
    if missing := lacks(error):
        return PluginError(missing)
    said = (str(error) or "no reason given").partition("\n")[0]
    layer = _raised_in(error, module)
    inside = f" (in its layer {layer!r})" if layer else ""
    return ShapeError(f"fails on a batch of {by(shape)}: {type(error).__name__}: {said}{inside}")


def _raised_in(error: Exception, module: nn.Module) -> str:
    """The innermost layer whose code was running; nothing where that is the network's own."""
    paths = {id(inner): path for path, inner in module.named_modules()}
    ran = [id(frame.f_locals.get("self")) for frame, _ in walk_tb(error.__traceback__)]
    return next((paths[one] for one in reversed(ran) if one in paths), "")


def _is_too_heavy(module: nn.Module, batch: Sequence[int], error: Exception) -> bool:
    """Whether a network that raised `error` on the meta device is not to be made in memory and tried there.

    What is not the meta device's doing fails there too, only later.
    """
    tensors = [t for t in tensors_of(module) if not is_lazy(t)]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    most = free_memory() // 2
    if of_meta(error):
        return weights > most
    widest = 4 * batch[0] * prod(batch[2:]) * max((t.shape[0] for t in tensors if t.ndim), default=1)
    return weights > HEAVY or widest > most


def of_meta(error: Exception) -> bool:
    """Whether it is the meta device that cannot go on, where real numbers could."""
    said = str(error).lower()
    # NotImplementedError is what torch raises where an operation has no kernel for this device
    return isinstance(error, NotImplementedError) or "meta" in said or "data pointer" in said


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """`module` in training or evaluation mode; afterwards each of its modules is in the mode that it had."""
    modes = {inner: inner.training for inner in module.modules()}
    try:
        module.train(training)
        yield
    finally:
        for inner, mode in modes.items():
            inner.training = mode


def settled(module: Module, image: ImageInfo) -> Module:
    """`module`, whose lazy layers have learned the sizes of their weights from one pass over `image`."""
    if not any(is_lazy(t) for t in tensors_of(module)):
        return module
    try:
        device = tensors_of(module)[0].device
        with torch.no_grad(), in_mode(module, False), torch.device(device):
            module(torch.zeros(BATCH, image.channels, *image.patch_size))
    except MedfuseError:
        raise
    except Exception as error:
        reason = (str(error) or "no reason given").partition("\n")[0]
        raise ShapeError(f"its lazy layers cannot be set up: {type(error).__name__}: {reason}") from error
    return module


def _without_data(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape, device="meta")


def _noise(shape: tuple[int, ...]) -> Tensor:
    """The same at each call, without drawing from anybody's chance."""
    return torch.empty(shape, device="cpu").normal_(generator=torch.Generator().manual_seed(0))
