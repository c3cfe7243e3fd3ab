"""What a transformer's blocks attend to: the weights of their attention, taken while they run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.model.address import Address
from medfuse.model.trial import trial, try_out

ATTENTION = "attention"
"""The element of a block that stands for its attention: `blocks.5[attention]`."""


class Listener(Protocol):
    """Who is told of attention weights (batch, heads, asking, asked)."""

    def wants(self) -> bool: ...

    def note(self, weights: Tensor) -> None: ...


class Watch(TorchFunctionMode):
    """While it is entered, tells a listener of all attention that is computed, fused or not.

    Of fused attention the weights are computed a second time, from its queries and keys.
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._listener.wants():
            return func(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._told_by_torch(func, args, kwargs)
        if func is functional.scaled_dot_product_attention:
            self._listener.note(_weights(*args, **kwargs))
        made = func(*args, **kwargs)
        if func in _SOFTMAX and _is_over_last(made, *args[1:], **kwargs):
            self._listener.note(made)
        return made

    def _told_by_torch(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """torch's own attention gives its weights where it is asked for them."""
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        wanted, averaged = bound.arguments["need_weights"], bound.arguments["average_attn_weights"]
        bound.arguments |= {"need_weights": True, "average_attn_weights": False}
        made, weights = func(*bound.args, **bound.kwargs)
        if weights.ndim == 4:
            self._listener.note(weights)
        return made, (weights.mean(1) if averaged else weights) if wanted else None


def _weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights of torch's fused attention, by its definition."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


_SOFTMAX = {functional.softmax, torch.softmax, Tensor.softmax}


def _is_over_last(made: Tensor, dim: Any = None, *_: Any, **kwargs: Any) -> bool:
    axis = kwargs.get("dim", dim)
    return made.ndim in (3, 4) and axis in (-1, made.ndim - 1)


class Attended:
    """The last attention of each block over all of its tokens, noted while the block runs."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.tokens: dict[str, int] = {}
        self.batch = 0
        self.weights: dict[str, Tensor] = {}

    def wants(self) -> bool:
        return bool(self.running)

    def enter(self, block: str, _: nn.Module, args: Any, kwargs: Any = None) -> None:
        given = next((x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)), None)
        self.tokens[block] = given.shape[1] if given is not None and given.ndim == 3 else 0
        self.batch = given.shape[0] if given is not None else 0
        self.running.append(block)

    def leave(self, block: str, *_: Any) -> None:
        if self.running and self.running[-1] == block:
            self.running.pop()

    def note(self, weights: Tensor) -> None:
        block = self.running[-1]
        count = self.tokens[block]
        if weights.ndim == 3 and self.batch and weights.shape[0] % self.batch == 0:
            weights = weights.unflatten(0, (self.batch, -1))
        if count and weights.ndim == 4 and tuple(weights.shape[2:]) == (count, count):
            self.weights[block] = weights

    def clear(self) -> None:
        self.running.clear()
        self.weights.clear()


def as_tokens(weights: Tensor, in_front: int, *, per_head: bool) -> Tensor:
    """(batch, asked, heads or 1): what the first token asks of all; where none is in front, what all do."""
    asked = weights[:, :, 0] if in_front else weights.mean(2)  # (batch, heads, asked)
    return (asked if per_head else asked.mean(1, keepdim=True)).transpose(1, 2)


def attention_of(
    build: Callable[[], nn.Module], blocks: Sequence[FeatureInfo], image: ImageInfo, *, per_head: bool
) -> list[FeatureInfo]:
    """The attention of each block as tokens that lie as the block's own do, found by a trial; or as maps, of
    a network within another one.

    Raises ShapeError where a block attends to something else than all of its tokens, or not so that it can be
    seen.
    """

    def look(network: nn.Module) -> dict[str, int]:
        if hasattr(network, "attend"):  # as of `within.Within`
            return _handed_on(network, [block.name for block in blocks], image, per_head=per_head)
        if maps := [block.name for block in blocks if block.tokens is None]:
            raise ShapeError(
                f"hands on {maps[0]} as a map, as networks with windows do, and attention is seen of tokens "
                "alone; leave out `attention`"
            )
        seen = Attended()
        for block in blocks:
            listen(seen, network, block.name)
        trial(network, image, training=False, within=lambda: Watch(seen))
        return {name: found.shape[1] if per_head else 1 for name, found in seen.weights.items()}

    channels = try_out(build, look)
    missing = [block.name for block in blocks if block.name not in channels]
    if missing:
        raise ShapeError(
            f"computes no attention in {missing[0]} of all its tokens to all of them, but in windows or in a "
            "way that cannot be seen; leave out `attention`"
        )
    return [replace(block.named(called(block.name)), channels=channels[block.name]) for block in blocks]


def _handed_on(network: Any, blocks: Sequence[str], image: ImageInfo, *, per_head: bool) -> dict[str, int]:
    """Block → the channels of the map of its attention."""
    made: dict[str, int] = {}

    def keep(block: str, _: nn.Module, __: Any, output: Tensor) -> None:
        made[block] = output.shape[1]

    for block in blocks:
        layer = network.get_submodule(network.attend(block, per_head=per_head))
        layer.register_forward_hook(partial(keep, block))
    trial(network, image, training=False)
    return made


def listen(seen: Attended, network: nn.Module, block: str) -> None:
    """Let a block tell when it begins and ends."""
    module = network.get_submodule(Address.of(block).path)
    module.register_forward_pre_hook(partial(seen.enter, block), with_kwargs=True)
    module.register_forward_hook(partial(seen.leave, block))


def called(block: str) -> str:
    return f"{block}[{ATTENTION}]"


def block_of(name: str) -> str:
    """The block whose attention is meant; nothing where that is no name of one."""
    return name.removesuffix(f"[{ATTENTION}]") if name.endswith(f"[{ATTENTION}]") else ""
