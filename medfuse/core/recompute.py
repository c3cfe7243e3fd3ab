"""Maps that are computed once more in the backward pass rather than kept, and batches that go in parts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from medfuse.core.errors import MedfuseError


@contextmanager
def recomputed(model: nn.Module, segments: Sequence[str]) -> Iterator[None]:
    """Of the modules at these paths what they are given is kept for the backward pass, and nothing inside.

    They run a second time when their gradient is due (Chen et al. 2016), with the same chance and the same
    statistics, which move once. So gradients are those of keeping it all, to the last bit where kernels are
    deterministic. Hooks inside fire a second time; those on the modules themselves do not. Nothing changes
    where no gradient is asked for. Afterwards the modules are as they were.
    """
    with ExitStack() as stack:
        for path in segments:
            module = model.get_submodule(path)
            if "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule):
                continue  # somebody else's
            # a partial of a bound method, so that a copy of the module has one of its own
            module.forward = partial(_through, module, path)
            stack.callback(vars(module).pop, "forward")
        yield


def in_parts(network: Callable[..., Any], parts: int, model: nn.Module) -> Callable[..., Any]:
    """`network`, a call of `model`, with one part of the batch after the other: memory is that of one part.

    Outputs are those of the whole batch, so that any loss, Dice over the batch included, is that of one pass;
    each part runs a second time when its gradient is due. Statistics of batch norms are those of a part.
    Arguments that have a batch say so by a method `chunk`, as tensors do.
    """
    if parts == 1:
        return network

    def called(*args: Any, **kwargs: Any) -> Any:
        shares = _shares(args, kwargs, parts)
        if len(shares) == 1:
            return network(*args, **kwargs)
        made = [
            _checkpointed(model, network, *share)
            if torch.is_grad_enabled()
            else network(*share[0], **share[1])
            for share in shares
        ]
        return _joined(made)

    return called


def _shares(args: Any, kwargs: Any, parts: int) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each part; there are fewer of them than `parts` where the batch is smaller."""
    count = len(args[0].chunk(parts))

    def cut(value: Any) -> Sequence[Any]:
        return value.chunk(parts) if hasattr(value, "chunk") else [value] * count

    by_place = [cut(value) for value in args]
    by_name = {name: cut(value) for name, value in kwargs.items()}
    return [
        (tuple(value[n] for value in by_place), {name: value[n] for name, value in by_name.items()})
        for n in range(count)
    ]


def _joined(made: Sequence[Any]) -> Any:
    """Outputs of parts as those of the whole: tensors along the batch, within tuples and dicts."""
    first = made[0]
    if isinstance(first, Tensor):
        return torch.cat([*made])
    if isinstance(first, dict):
        return {name: _joined([one[name] for one in made]) for name in first}
    return tuple(_joined([*some]) for some in zip(*made))


def _through(module: nn.Module, path: str, *args: Any, **kwargs: Any) -> Any:
    """A call of a segment's `forward`."""
    forward = type(module).forward.__get__(module)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():  # then a compiler sees to chance and statistics
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return _checkpointed(module, forward, args, kwargs, path)


def _checkpointed(
    module: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str = "",
) -> Any:
    leaves, spec = tree_flatten((args, kwargs))
    call = _Call(module, forward, leaves, spec, name)
    # tensors one by one, so that `checkpoint` sees them: it looks for their devices, and holds none of them
    # where this call is itself computed again
    made = checkpoint(call, *leaves, use_reentrant=False)
    call.hold(leaves)
    return made


class _Call:
    """One call of a segment: the first time is the forward pass, any later one recomputes it.

    Torch's own random numbers are restored by `checkpoint`; those of Python and numpy, and what the call
    changes in buffers, such as running statistics, are restored here. It keeps nothing that it is given.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        leaves: Sequence[Any],
        spec: TreeSpec,
        name: str,
    ) -> None:
        self._forward, self._spec, self._name, self._began = forward, spec, name, False
        self._versions = _versions(leaves)
        moving = (b for m in module.modules() if m.training for b in m.buffers(recurse=False))
        self._buffers = [b for b in moving if b.is_floating_point() or not b.ndim]  # others are tables
        self._before = [b.detach().clone() for b in self._buffers]
        self._chance = random.getstate(), np.random.get_state()

    def __call__(self, *leaves: Any) -> Any:
        args, kwargs = tree_unflatten(leaves, self._spec)
        if not self._began:
            self._began = True
            return self._forward(*args, **kwargs)
        self.hold(leaves)
        with self._as_before():
            return self._forward(*args, **kwargs)

    def hold(self, leaves: Sequence[Any]) -> None:
        """Raises MedfuseError where what the call was given is no longer what it was."""
        if _versions(leaves) != self._versions:
            whose, remedy = (
                (self._name, "checkpointing: false") if self._name else ("the network", "accumulate: 1")
            )
            raise MedfuseError(
                f"training: what {whose} is given is overwritten in place, so that it cannot be computed "
                f"again; set train.{remedy}"
            )

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        now = [b.detach().clone() for b in self._buffers], random.getstate(), np.random.get_state()
        try:
            self._set(self._before, *self._chance)
            yield
        finally:
            self._set(*now)

    def _set(self, buffers: Sequence[Tensor], pythons: Any, numpys: Any) -> None:
        for buffer, values in zip(self._buffers, buffers):
            buffer.data.copy_(values)  # what autograd has saved of it does not become stale
        random.setstate(pythons)
        np.random.set_state(numpys)


def _versions(leaves: Sequence[Any]) -> list[int]:
    return [x._version for x in leaves if isinstance(x, Tensor)]
