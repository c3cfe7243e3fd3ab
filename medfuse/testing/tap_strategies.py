"""What a tap strategy keeps: a tapped network gives its inner maps, and trains as if nobody listened."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.api import FeatureInfo, ImageInfo, TapStrategy, TokenLayout
from medfuse.testing import calls, gradients
from medfuse.testing.modules import module_laws
from medfuse.testing.report import for_each, report
from medfuse.testing.tensors import Maps, by_name, random, same, seeded, tapped
from medfuse.testing.tested import Tested

NAMES = ["0", "4"]
_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def check_tap_strategy(plugin: TapStrategy) -> None:
    """Taps of a small chain of layers against its real intermediate outputs, in evaluation and training."""

    def attached(dims: int = 2, names: Sequence[str] = NAMES, channels: int = 1) -> nn.Module:
        strides = {"0": (1,) * dims, "4": (2,) * dims}
        taps = [FeatureInfo(name, {"0": 4, "4": 6}[name], strides[name]) for name in names]
        image = ImageInfo(channels, (8,) * dims, (1.0,) * dims)
        return plugin.attach(_chain(dims, channels), taps, image)

    def given(batch: int, *, seed: int = 1, odd: bool = False) -> list[Tensor]:
        return [seed * _images(*((7, 9) if odd else (8, 8)), batch=batch)[0] + (seed - 1)]

    def has_the_names() -> None:
        for names in (NAMES, NAMES[::-1], NAMES[:1], NAMES[1:]):
            found = sorted(by_name(attached(names=names), given(2)))
            assert found == sorted(names), f"makes {found}, wanted were {names}"

    def equals_the_real_ones(*size: int, channels: int = 1) -> None:
        images = _images(*size, channels=channels)
        real, _ = tapped(_chain(len(size), channels).eval(), NAMES, *images)
        made = by_name(attached(len(size), channels=channels).eval(), images)
        same(real, {name: made[name] for name in NAMES if name in made}, "from what the layers make")

    def hands_channels_last_maps_on_as_made(*size: int) -> None:
        dims, names = len(size), ["1", "2", "4"]
        taps = [FeatureInfo(name, 4, (1,) * dims, channels_last=name != "4") for name in names]
        image = ImageInfo(1, (8,) * dims, (1.0,) * dims)
        real, _ = tapped(_turned_chain(dims).eval(), names, *_images(*size))
        module = plugin.attach(_turned_chain(dims), taps, image)
        made = by_name(module.eval(), _images(*size))
        ours = {name: made[name] for name in names if name in made}
        same(real, ours, "from what the layers make; medfuse turns what has its channels last itself")

    def hands_tokens_on_as_made(*size: int) -> None:
        dims, names = len(size), ["3", "4"]
        layout = TokenLayout()
        taps = [FeatureInfo(name, 4, (2,) * dims, tokens=layout) for name in names]
        image = ImageInfo(1, (8,) * dims, (1.0,) * dims)
        real, _ = tapped(_token_chain(dims).eval(), names, *_images(*size))
        made = by_name(plugin.attach(_token_chain(dims), taps, image).eval(), _images(*size))
        ours = {name: made[name] for name in names if name in made}
        same(real, ours, "from what the layers make; medfuse makes maps of tokens itself")

    def trains_as_without(names: Sequence[str]) -> None:
        """The same maps, gradients and running means, after two steps from the same seed."""
        plain = _chain(2, 1)
        network = _chain(2, 1)
        taps = [FeatureInfo("0", 4, (1, 1)), FeatureInfo("4", 6, (2, 2))]
        wanted = [tap for tap in taps if tap.name in names]
        module = plugin.attach(network, wanted, ImageInfo(1, (8, 8), (1.0, 1.0)))
        real = _trained(plain.train(), lambda x: tapped(plain, names, x)[0])
        ours = _trained(module.train(), lambda x: by_name(module, [x]))
        same(real, {name: ours.get(name, torch.zeros(0)) for name in real}, "in training, from the same seed")
        theirs = _learned(plain)
        kept = _learned(module)
        for name, x in theirs.items():
            if not name.startswith(("6", "7")) and (names != ["0"] or name.startswith("0")):
                alike = any(y.shape == x.shape and torch.allclose(x, y, atol=1e-6) for y in kept.values())
                assert alike, (
                    f"{name} is not what it is without taps after two steps of training; run the network "
                    "once a call, in the mode that it is in, with gradients"
                )

    tested = Tested(attached, given, by_name, ["the image"])
    report(
        plugin,
        {
            "makes what is asked for": has_the_names,
            "equals the real outputs": partial(equals_the_real_ones, 8, 8),
            "equals the real outputs at odd sizes": partial(equals_the_real_ones, 7, 9),
            "equals the real outputs in 3-D": partial(equals_the_real_ones, 8, 8, 8),
            "equals the real outputs of two channels": partial(equals_the_real_ones, 8, 8, channels=2),
            "hands on as made what has its channels last": partial(hands_channels_last_maps_on_as_made, 7, 9),
            "hands on as made what has its channels last in 3-D": partial(
                hands_channels_last_maps_on_as_made, 5, 6, 7
            ),
            "hands on as made what is tokens": partial(hands_tokens_on_as_made, 6, 10),
            "hands on as made what is tokens in 3-D": partial(hands_tokens_on_as_made, 4, 6, 8),
            "trains as without taps": for_each(trains_as_without, NAMES, ["0"]),
            "recovers from an image that fails": partial(_recovers, tested),
            "any batch": partial(calls.take_any_batch, tested),
            "gradients are alive": partial(gradients.are_alive, tested),
            "nothing is kept": partial(_nothing_is_kept, tested),
            **module_laws(tested, "tapped networks"),
        },
    )


def _network(dims: int, channels: int) -> nn.Module:
    conv, norm = _CONVOLUTION[dims], _NORM[dims]
    return nn.Sequential(
        conv(channels, 4, 3, padding=1),
        norm(4),
        nn.Tanh(),
        nn.Dropout(0.2),
        conv(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),  # not in place: what follows a tap may still need it
        conv(6, 2, 1),
    )


def _turned(dims: int) -> nn.Module:
    conv = _CONVOLUTION[dims]
    return nn.Sequential(
        conv(1, 4, 3, padding=1), _Moved(1, -1), nn.LayerNorm(4), _Moved(-1, 1), conv(4, 4, 3, padding=1)
    )


def _of_tokens(dims: int) -> nn.Module:
    patches = _CONVOLUTION[dims](1, 4, 2, stride=2)
    return nn.Sequential(patches, nn.Flatten(2), _Moved(1, 2), nn.LayerNorm(4), nn.Linear(4, 4))


class _Moved(nn.Module):
    """What it is given with one axis in another place."""

    def __init__(self, axis: int, place: int) -> None:
        super().__init__()
        self.axis, self.place = axis, place

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(self.axis, self.place)


def _chain(dims: int, channels: int) -> nn.Module:
    """With the same weights each time; the seed outside stays as it is."""
    return _seeded(partial(_network, dims, channels))


def _turned_chain(dims: int) -> nn.Module:
    """A chain of layers of which some have their channels last, as those of transformers."""
    return _seeded(partial(_turned, dims))


def _token_chain(dims: int) -> nn.Module:
    """A chain of layers that make tokens of patches."""
    return _seeded(partial(_of_tokens, dims))


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return seeded(build)


def _images(*size: int, batch: int = 2, channels: int = 1) -> list[Tensor]:
    return [random(batch, channels, *size)]


def _trained(module: nn.Module, run: Any) -> Maps:
    """The maps of the second of two steps, which leave gradients and running means behind."""
    made: Maps = {}
    torch.manual_seed(7)
    for seed in (1, 2):
        made = run(seed * _images(8, 8)[0])
        torch.stack([x.square().mean() for x in made.values()]).sum().backward()
    return made


def _learned(module: nn.Module) -> dict[str, Tensor]:
    """Gradients and buffers by name; a strategy may rename them."""
    learned = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {**learned, **{n: b for n, b in module.named_buffers() if b.is_floating_point()}}


def _nothing_is_kept(tested: Tested) -> None:
    module = tested.fresh()
    held = [weakref.ref(tensor) for tensor in module(*tested.given(2)).values()]
    assert not any(ref() is not None for ref in held), "outputs are still held after the forward pass"


def _recovers(tested: Tested) -> None:
    """An image of too many channels fails; the next one is answered as if that had not happened."""
    module = tested.fresh()
    with contextlib.suppress(Exception):
        module(random(2, 5, 8, 8))
    same(tested.tried.outputs, tested.run(module, tested.given(2)), "after an image that failed")
