"""Every layer of a network, as trials show it: its map, its parameters, its share of the compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from medfuse.core.errors import MedfuseError, PluginError, ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo, KnownTokens, TokenLayout
from medfuse.core.names import is_part
from medfuse.core.text import listed
from medfuse.model.address import Address, Place, tensors_in
from medfuse.model.maps import WIDE, MapFacts, Shown, Size, is_one_voxel, other_sizes, read_map, wide_size
from medfuse.model.provenance import Provenance, channel_axis
from medfuse.model.tokens import Hints, hints_of, is_sequence, next_size, read_tokens
from medfuse.model.trial import BATCH, settled, trial, try_out
from medfuse.model.windows import left_of, read_windows, unroll_schedule, windows_around


@dataclass(frozen=True)
class Layer:
    """A module of a network, the modules inside it included; or one of its calls, an element of its output.

    `map_size` is (channels, *spatial) of its last output, empty where that is no map of the image, for a
    `reason`. `flops` are of one patch, two for each multiplication and addition in convolutions and linear
    layers.
    """

    name: str
    kind: str
    map_size: tuple[int, ...]
    stride: tuple[int, ...]
    parameters: int
    flops: int
    runs: int
    order: int  # among the layers that ran, by the end of the last time; -1 where it did not
    channels_last: bool = False
    image_level: bool = False
    reason: str = ""
    tokens: TokenLayout | None = None
    same_as: str = ""  # the first path of a layer that the network has at several

    def feature(self) -> FeatureInfo | None:
        """What can be tapped here; None where the output is no map at a whole stride."""
        if not self.stride:
            return None
        return FeatureInfo(
            self.name,
            self.map_size[0],
            self.stride,
            self.channels_last,
            self.tokens,
            image_level=self.image_level,
        )


def find_layers(
    build: Callable[[], nn.Module],
    image: ImageInfo,
    *,
    partial: bool = False,
    known: KnownTokens | None = None,
) -> list[Layer]:
    """The network itself, by the name of "", then its layers in the order in which they are registered.

    After a layer that runs more than once come its calls, and after one that makes a tuple or dict its
    elements. Raises ShapeError where the network cannot run on such an image, PluginError where it lacks a
    package to; with `partial` only where not one layer can. `known` is what somebody says of its tokens.
    """
    known = known or KnownTokens()
    return try_out(build, lambda network: _Survey(settled(network, image), image, partial, known).layers())


@dataclass
class _Seen:
    """What one trial shows: layers that ran, by the end of the last time, and all tensors of each call."""

    image: Size
    calls: dict[str, list[dict[Place, Shown]]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    failure: MedfuseError | None = None


class _Survey:
    """Trials of a network with a hook on every layer: in both modes, and on an image of another size."""

    def __init__(self, network: nn.Module, image: ImageInfo, partial_: bool, known: KnownTokens) -> None:
        self.network, self.image, self.partial = network, image, partial_
        self.hints, self.unrolled = Hints(known=known), unroll_schedule(network)
        self.seen = _Seen(image.patch_size)
        if isinstance(network, torch.jit.ScriptModule):
            raise ShapeError(
                "is a scripted network, which takes no hooks; give the network that was scripted"
            )
        network.register_forward_pre_hook(self._start)
        for name, module in network.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_hook(partial(self._note, name))

    def layers(self) -> list[Layer]:
        self.training = self._look(self.image, training=True)
        self.trials: list[_Seen] = [self._look(self.image, training=False)]
        self._look_at_another_size()
        found = [*self._all()]
        if any("first or last" in layer.reason for layer in found):
            self.trials[0] = self._look(self.image, training=False, traced=True)
            found = [*self._all()]
        strides = [
            layer.stride for layer in found if layer.stride and not (layer.tokens or layer.image_level)
        ]
        self.hints = hints_of(self.network, strides, self.hints.known, self.image.dims)
        found = [*self._all()]  # of tokens it matters which maps there are
        if self.training.failure and not any(layer.runs for layer in found):
            raise self.training.failure
        return found

    def _look(self, image: ImageInfo, *, training: bool, traced: bool = False) -> _Seen:
        failure = None
        try:
            trial(self.network, image, training=training, within=Provenance if traced else nullcontext)
        except (ShapeError, PluginError) as error:  # it fails, or lacks a package
            if not self.partial or not self.seen.calls:
                if fitting := next_size(image.patch_size, self.network):
                    raise type(error)(f"{error}: {fitting}") from error
                raise
            failure = error
        self.seen.failure = failure
        return self.seen

    def _look_at_another_size(self) -> None:
        """A trial on the first other size that the network takes, if there is one.

        Where that may leave a rest beside patches that the patch is a multiple of, on multiples of it, too.
        """
        real = any(not p.is_meta for p in self.network.parameters())
        sizes = [*other_sizes(self.image.patch_size, real=real)]
        first = next((size for size in sizes if self._takes(size)), None)
        if first and first != sizes[-1] and any(n % 16 for n in self.image.patch_size):
            self._takes(sizes[-1])
        if not real and min(self.image.patch_size) < WIDE and self._has_one_voxel():
            self._takes(wide_size(self.image.patch_size))

    def _takes(self, size: Size) -> bool:
        """Whether the network takes an image of a size; then it is one of the trials."""
        try:
            seen = self._look(replace(self.image, patch_size=size), training=False)
        except Exception:  # a network may ask for any size, in any way
            return False
        if not seen.failure:
            self.trials.append(seen)
        return not seen.failure

    def _has_one_voxel(self) -> bool:
        """Whether a layer makes one voxel in all trials, which a deep one does of small images."""
        first = self.trials[0]
        shown = ((_shown(seen, Address(name)) for seen in self.trials) for name in first.calls)
        return any(is_one_voxel(found) for each in shown if (found := [s for s in each if s]))

    def _start(self, _: nn.Module, given: Any) -> None:
        self.seen = _Seen(tuple(given[0].shape[2:]))  # a trial may need a second pass

    def _note(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        calls = self.seen.calls.pop(name, [])
        self.seen.calls[name] = calls  # so that its place is that of the last time
        calls.append({place: self._shown(x) for place, x in tensors_in(output)})
        self.seen.kinds[name] = type(output).__name__
        if flops := _flops(module, given, output):
            for path in _around(name):
                self.seen.flops[path] = self.seen.flops.get(path, 0) + flops

    def _shown(self, x: Tensor) -> Shown:
        dtype = "" if x.is_floating_point() else str(x.dtype).removeprefix("torch.")
        return Shown(tuple(x.shape), self.seen.image, channel_axis(x), dtype)

    def _all(self) -> Iterator[Layer]:
        order = {name: place for place, name in enumerate(self.training.calls)}
        others: dict[nn.Module, list[str]] = {}
        first = {module: name for name, module in self.network.named_modules()}
        for path, module in self.network.named_modules(remove_duplicate=False):
            if path != first[module]:
                others.setdefault(module, []).append(path)
        for name, module in self.network.named_modules():
            runs = len(self.training.calls.get(name, ()))
            facts = self._facts(Address(name))
            layer = Layer(
                name,
                type(module).__name__,
                facts.map_size,
                facts.stride,
                sum(p.numel() for p in module.parameters()),
                self.training.flops.get(name, 0) // BATCH,
                runs,
                order.get(name, -1),
                facts.channels_last,
                facts.image_level,
                facts.reason,
                facts.tokens,
            )
            yield layer
            yield from (replace(layer, name=path, same_as=name) for path in others.get(module, ()))
            for address in self._parts(name, runs) if name else ():
                facts = self._facts(address)
                if facts.stride:
                    yield replace(
                        layer,
                        name=address.text,
                        map_size=facts.map_size,
                        stride=facts.stride,
                        parameters=0,
                        flops=0,
                        channels_last=facts.channels_last,
                        tokens=facts.tokens,
                        image_level=facts.image_level,
                        reason="",
                    )

    def _parts(self, name: str, runs: int) -> Iterator[Address]:
        """The elements of what a layer makes, then its calls, and their elements."""
        for call in (None, *range(1, runs + 1)) if runs > 1 else (None,) * bool(runs):
            made = self.training.calls[name][(call or runs) - 1]
            if call:
                yield Address(name, call)
            yield from (Address(name, call, place) for place in made if place)

    def _facts(self, address: Address) -> MapFacts:
        """What can be known of a layer's output, or of one call and element of it."""
        training, *trials = (_shown(seen, address) for seen in (self.training, *self.trials))
        failure = self.training.failure or self.trials[0].failure
        if training is None and trials[0] is None:
            if failure and address.path not in self.training.calls:
                return MapFacts(reason=f"is not reached: the network {failure}")
            return MapFacts(reason=self._no_tensor(address))
        if training is None or trials[0] is None:
            if failure:
                return MapFacts(reason=f"is not reached: the network {failure}")
            mode = "inference" if training is None else "training"
            return MapFacts(reason=f"makes a map in {mode} only, and what is tapped is needed in both")
        if training.shape != trials[0].shape:
            return MapFacts(reason="makes a map of another shape in training than in inference")
        return self._read(address, [one for one in trials if one])

    def _read(self, address: Address, shown: list[Shown]) -> MapFacts:
        if facts := self._windowed(address, shown):
            return facts
        if not is_sequence(shown):
            return read_map(shown)
        facts = read_tokens(shown, self.hints)
        if facts.tokens and self.unrolled and "embed" not in address.path:  # before it is unrolled
            left = next((x for p in self.hints.strides if (x := left_of(self.unrolled, p, facts.stride))), ())
            return replace(facts, tokens=replace(facts.tokens, unrolled=left))
        return facts

    def _windowed(self, address: Address, shown: list[Shown]) -> MapFacts | None:
        """What a layer inside of attention in windows makes: these are batch items there."""
        shape = shown[0].shape
        if len(shape) < 3 or shape[0] <= BATCH or shape[0] % BATCH or shown[0].dtype:
            return None
        found = windows_around(self.network, address.path, self.image.dims)
        if not found:
            return None
        around, layout = found
        places: tuple[Place, ...] = ((), (0,))
        for place in places:
            if stride := self._facts(Address(around, None, place)).stride:
                return read_windows(shown, layout, stride)
        return None

    def _no_tensor(self, address: Address) -> str:
        if isinstance(self.network.get_submodule(address.path), torch.jit.ScriptModule):
            return "is scripted, and takes no hooks; tap a layer around it"
        calls = self.training.calls.get(address.path) or self.trials[0].calls.get(address.path)
        if not calls:
            return "never runs in the network's forward pass"
        kind, places = self.training.kinds.get(address.path, "object"), [p for p in calls[-1] if p]
        if not places:
            return f"makes a {kind}, in which there is no tensor"
        names = [replace(address, place=place).text for place in places]
        return f"makes a {kind}; name an element of it: {listed(names)}"


def _shown(seen: _Seen, address: Address) -> Shown | None:
    calls = seen.calls.get(address.path, [])
    if not calls or (address.call or 1) > len(calls):
        return None
    return calls[(address.call or len(calls)) - 1].get(address.place)


def whole_layers(layers: list[Layer]) -> list[Layer]:
    """Those that are modules, each once: without single calls, elements, and further paths."""
    return [layer for layer in layers if not is_part(layer.name) and not layer.same_as]


def _flops(module: nn.Module, given: Any, output: Any) -> int:
    """Of the whole batch. A transposed convolution multiplies every voxel that it is given."""
    if not isinstance(output, Tensor):
        return 0
    if isinstance(module, _ConvTransposeNd):
        return 2 * module.weight.numel() * given[0].shape[0] * prod(given[0].shape[2:])
    if isinstance(module, _ConvNd):
        return 2 * module.weight.numel() * output.shape[0] * prod(output.shape[2:])
    if isinstance(module, nn.Linear):
        return 2 * module.weight.numel() * prod(output.shape[:-1])
    return 0


def _around(name: str) -> list[str]:
    """A layer's path, and those of all that it lies in, "" included."""
    parts = name.split(".") if name else []
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]
