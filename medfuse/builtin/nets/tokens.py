"""A network that returns blocks of tokens, each after the network's final norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.attended import Attended, Watch, as_tokens, block_of, listen
from medfuse.builtin.nets.observed import Observer
from medfuse.builtin.nets.taps import Hooked, hook_as
from medfuse.builtin.nets.within import Within
from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.core.text import listed
from medfuse.model.address import Address, tensors_in


class TokenTaps(Hooked):
    """x → {name: what a block makes}, after the norm at `norm` where that is one of `normed`.

    `names`: what each layer's output is called; a block that returns several tensors is called by its name.
    `attended`: taps of blocks' attention, of each head or of their mean.
    """

    norm, width = "", 0  # of what it is given; of several maps side by side each passes it by itself
    normed: Mapping[str, int]  # the axis of the channels, of what passes the norm
    names: Mapping[str, str]
    attended: Sequence[FeatureInfo] = ()
    order: Sequence[str] = ()  # of what is returned
    per_head = False
    notes: Sequence[str] = ()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if not self.attended:
            made = self._blocks(x)
            return {name: made[name] for name in self.order or made}
        try:
            with Watch(self.seen):
                made = self._blocks(x)
            made |= {tap.name: self._attention(tap) for tap in self.attended}
            return {name: made[name] for name in self.order}
        finally:
            self.seen.clear()

    def attend(self, taps: Sequence[FeatureInfo], per_head: bool) -> None:
        self.attended, self.per_head, self.seen = tuple(taps), per_head, Attended()
        for tap in taps:
            listen(self.seen, self.backbone, block_of(tap.name))

    def _blocks(self, x: Tensor) -> dict[str, Tensor]:
        return {self.names[inner]: self._finished(inner, made) for inner, made in super().forward(x).items()}

    def _attention(self, tap: FeatureInfo) -> Tensor:
        weights = self.seen.weights.get(block_of(tap.name))
        if weights is None:
            raise ShapeError(f"{tap.name} is not computed in a way that can be seen, as it was in a trial")
        return as_tokens(weights, tap.tokens.prefix if tap.tokens else 0, per_head=self.per_head)

    def _finished(self, inner: str, made: Tensor) -> Tensor:
        if inner not in self.normed:
            return made
        axis, norm = self.normed[inner], self.backbone.get_submodule(self.norm)
        last = made.movedim(axis, -1)
        each = [norm(one) for one in last.split(self.width, dim=-1)]
        normed: Tensor = each[0] if len(each) == 1 else torch.cat(each, dim=-1)
        return normed.movedim(-1, axis)


def tap_blocks(
    backbone: nn.Module,
    taps: Sequence[FeatureInfo],
    image: ImageInfo,
    *,
    norm: bool,
    per_head: bool = False,
) -> TokenTaps:
    """Tap blocks by hooks, tried out on `image`, and the attention of some. Raises ShapeError."""
    order, attended = [tap.name for tap in taps], [tap for tap in taps if block_of(tap.name)]
    taps, names = [tap for tap in taps if tap not in attended], dict[str, str]()
    if isinstance(backbone, Within):
        names = {backbone.attend(block_of(tap.name), per_head=per_head): tap.name for tap in attended}
        taps += [tap.named(layer) for tap, layer in zip(attended, names)]
        attended = []
    paths = [path for path, _ in backbone.named_modules() if path]
    seen = Observer(backbone, paths, image, training=False)
    inner = {tap.name: _returned(tap, seen) for tap in taps}
    made = hook_as(TokenTaps, backbone, [tap.named(inner[tap.name]) for tap in taps], image)
    made.names = {layer: names.get(name, name) for name, layer in inner.items()}
    made.norm, made.width = _final_norm(backbone, taps, seen) if norm else ("", 0)
    blocks = [tap for tap in taps if Address.of(tap.name).path.rpartition(".")[2].isdigit()]
    fitting = [tap for tap in blocks if made.norm and tap.channels % made.width == 0]
    made.normed = {inner[tap.name]: _channel_axis(tap) for tap in fitting}
    if norm and (plain := [tap.name for tap in blocks if tap not in fitting]):
        made.notes = [f"no norm stands behind its last block that fits {listed(plain)}: taken as made"]
    made.order = order
    if attended:
        made.attend(attended, per_head)
    return made


def _channel_axis(tap: FeatureInfo) -> int:
    return -1 if tap.tokens or tap.channels_last else 1


def _returned(tap: FeatureInfo, seen: Observer) -> str:
    """The name of the tensor that a block is tapped at: of several the first of so many channels."""
    address = Address.of(tap.name)
    calls = seen.calls.get(address.path, [])
    if address.place or not calls or isinstance(calls[-1].kept, Tensor):
        return tap.name
    axis = _channel_axis(tap)
    for place, tensor in tensors_in(calls[-1].kept):
        if tensor.ndim > 2 and tensor.shape[axis] == tap.channels:
            return replace(address, place=place).text
    return tap.name  # which is refused with what the layer makes


def _final_norm(backbone: nn.Module, taps: Sequence[FeatureInfo], seen: Observer) -> tuple[str, int]:
    """The norm that is given what the last block makes, as it was made, and its width; else nothing."""
    lists = {Address.of(tap.name).path.rpartition(".")[0] for tap in taps}
    ran = [path for path in seen.calls if type(backbone.get_submodule(path)) is not nn.Identity]
    around = {path for path in ran for name in lists if _is_block(path, name)}
    last = max(around, key=lambda path: len(seen.ran) - seen.ran[::-1].index(path), default="")
    made = [tensor for _, tensor in tensors_in(seen.calls[last][-1].kept)] if last else []
    for path, module in backbone.named_modules():
        if "norm" not in type(module).__name__.lower() or any(
            f"{path}.".startswith(f"{one}.") for one in around
        ):
            continue
        for call in seen.calls.get(path, ()):
            if any(call.given is tensor for tensor in made) and isinstance(call.output, Tensor):
                return path, call.output.shape[-1]
    return "", 0


def _is_block(path: str, blocks: str) -> bool:
    """Whether a layer is one of a list's, at that path or, in a network around another, at its end."""
    parent, _, number = path.rpartition(".")
    return number.isdigit() and (parent == blocks or parent.endswith(f".{blocks}"))
