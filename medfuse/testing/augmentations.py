"""What a random change to training patches keeps."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random as python_random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medfuse.api import Augmentation, ImageInfo
from medfuse.core.errors import MedfuseError
from medfuse.testing import chance
from medfuse.testing.report import report
from medfuse.testing.tensors import generator, random

if TYPE_CHECKING:
    from medfuse.api import Change

Pair = tuple[Tensor, Tensor]

_DRAWS = 200  # so that what is drawn once in twenty patches is seen
_FEW = 40
_ALIKE = {True: 0.5, False: 0.3}
"""Correlation that is left between an image and its label, moved together; and where intensities change."""


def check_augmentation(plugin: Augmentation, image: ImageInfo) -> None:
    """Patches like `image` keep their shape, labels their values, and all chance is the generator's.

    Patches of other channels are tried too. What it cannot take `build` refuses, with ShapeError.
    """
    report(
        plugin,
        {
            "some patches change": partial(_changes_some, plugin, image),
            "patches keep their shape and type": partial(_keeps_shapes, plugin, image, _DRAWS),
            "patches of other channels keep theirs": partial(_bears_other_images, plugin, image),
            "voxels stay finite": partial(_stays_finite, plugin, image),
            "labels keep their values": partial(_invents_no_label, plugin, image),
            "labels move where it says so": partial(_keeps_its_word, plugin, image),
            "image and label move alike": partial(_moves_alike, plugin, image),
            "patches stay as they are": partial(_leaves_its_patch, plugin, image),
            "changed patches outlive the next call": partial(_gives_patches_of_their_own, plugin, image),
            "the same chance gives the same patch": partial(_repeats_itself, plugin, image),
            "a patch depends on no other": partial(_leaves_nothing, plugin, image),
            "chance of others is left alone": partial(_leaves_chance_alone, plugin, image),
            "it survives pickling": partial(_survives_pickling, plugin, image),
            "it survives copying": partial(_survives_copying, plugin, image),
        },
    )


def _patch(image: ImageInfo, seed: int = 1) -> Pair:
    """Noise, as a normalised image has it, and a label of halves along every axis."""
    label = torch.zeros(1, *image.patch_size, dtype=torch.int64)
    for axis, size in enumerate(image.patch_size):
        label.narrow(axis + 1, size // 2, size - size // 2).add_(2**axis)
    label = label * (label + 1)  # values with gaps, into which interpolated ones fall
    return random(image.channels, *image.patch_size, seed=seed), label


def _drawn(change: Change, image: ImageInfo, seed: int, patch: Pair | None = None) -> Pair:
    made: Any = change(*(patch or _patch(image)), np.random.RandomState(seed))
    assert isinstance(made, tuple | list), f"makes a {type(made).__name__}, wanted is (image, label)"
    assert len(made) == 2, f"makes {len(made)} things, wanted is (image, label)"
    for what, x in zip(("image", "label"), made):
        assert isinstance(x, Tensor), f"{what} is a {type(x).__name__}, wanted is a tensor"
    return made[0], made[1]


def _equal(first: Pair, second: Pair) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second))


def _changes_some(plugin: Augmentation, image: ImageInfo) -> None:
    change, before = plugin.build(image), _patch(image)
    made = (_drawn(change, image, seed) for seed in range(_DRAWS))
    assert any(not _equal(pair, before) for pair in made), f"{_DRAWS} patches are as they were"


def _keeps_shapes(plugin: Augmentation, image: ImageInfo, draws: int) -> None:
    change, before = plugin.build(image), _patch(image)
    for seed in range(draws):
        for what, old, new in zip(("image", "label"), before, _drawn(change, image, seed)):
            assert new.shape == old.shape, f"{what}: {tuple(old.shape)} becomes {tuple(new.shape)}"
            assert new.dtype == old.dtype, f"{what}: {old.dtype} becomes {new.dtype}"
            assert new.device == old.device, f"{what} is moved to {new.device}"
            assert not new.requires_grad, f"{what} holds on to a graph; use detach() or torch.no_grad()"


def _bears_other_images(plugin: Augmentation, image: ImageInfo) -> None:
    for other in _like(image):
        try:
            plugin.build(other)
        except MedfuseError:
            continue
        try:
            _keeps_shapes(plugin, other, _FEW)
        except Exception as error:
            raise AssertionError(
                f"of patches of {other.channels} channels: {error}; make build() follow its image, or refuse "
                "such images there with ShapeError"
            ) from error


def _like(image: ImageInfo) -> Iterator[ImageInfo]:
    yield replace(image, channels=image.channels + 1)
    yield replace(image, channels=1)


def _stays_finite(plugin: Augmentation, image: ImageInfo) -> None:
    """Of noise, of air (the same value everywhere) and of values as CT has them."""
    change, (noise, label) = plugin.build(image), _patch(image)
    kinds = {"noise": noise, "zeros": torch.zeros_like(noise), "CT in HU": 500 * noise - 500}
    for what, given in kinds.items():
        for seed in range(_DRAWS):
            with warnings.catch_warnings():  # that nothing can be done about air may be said
                warnings.simplefilter("ignore")
                made, _ = _drawn(change, image, seed, (given.clone(), label.clone()))
            assert bool(made.isfinite().all()), f"a patch of {what} is not finite with seed {seed}"


def _invents_no_label(plugin: Augmentation, image: ImageInfo) -> None:
    change, known = plugin.build(image), set(_patch(image)[1].unique().tolist())
    for seed in range(_DRAWS):
        new = set(_drawn(change, image, seed)[1].unique().tolist()) - known
        assert not new, f"labels {sorted(new)} were not there; take the nearest voxel's"


def _keeps_its_word(plugin: Augmentation, image: ImageInfo) -> None:
    change, (_, label) = plugin.build(image), _patch(image)
    moved = any(not torch.equal(_drawn(change, image, seed)[1], label) for seed in range(_DRAWS))
    assert moved == plugin.moves_voxels(), (
        f"moves_voxels() says {plugin.moves_voxels()}, and labels {'move' if moved else 'stay'}"
    )


def _moves_alike(plugin: Augmentation, image: ImageInfo) -> None:
    """Of a patch that looks like its label everywhere, the changed image looks like the changed label."""
    change, before = plugin.build(image), _matching(image)
    alike: list[list[float]] = []
    for seed in range(_DRAWS):
        made = _drawn(change, image, seed, (before[0].clone(), before[1].clone()))
        if not _equal(made, before):
            alike.append([_correlation(channel, made[1][0]) for channel in made[0]])
    if not alike:
        return  # that nothing changes is told elsewhere
    moves = plugin.moves_voxels()
    often = (
        0.2 if moves else 0.5
    )  # what moves does so in every draw, other changes may be drastic now and then
    per_channel = torch.tensor(alike).abs().nanquantile(often, 0)
    worst = int(per_channel.argmin())
    assert float(per_channel[worst]) > _ALIKE[moves], (
        f"an image that looks like its label does not any more (channel {worst}: correlation "
        f"{float(per_channel[worst]):.2f}); move all channels and the label by the same draw"
        + ("" if moves else ", and let moves_voxels() return True")
    )


def _matching(image: ImageInfo) -> Pair:
    """A label of random blocks, unlike all its mirror images, and an image that shows it in each channel."""
    coarse = [max(2, min(5, n // 3)) for n in image.patch_size]
    for seed in range(100):
        blocks = torch.randint(3, (1, 1, *coarse), generator=generator(seed)).float()
        label = functional.interpolate(blocks, image.patch_size)[0]
        mirrored = [abs(_correlation(label[0], label[0].flip(axis))) for axis in range(image.dims)]
        if max(mirrored) < 0.2:
            break
    shown = 3 + (label - label.mean()) / label.std()  # above 0, where squares and roots keep the order
    return shown.repeat(image.channels, *(1,) * image.dims), label.long()


def _correlation(x: Tensor, y: Tensor) -> float:
    """NaN where one of them is the same everywhere."""
    x, y = x.detach().double().flatten(), y.double().flatten()
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")


def _leaves_its_patch(plugin: Augmentation, image: ImageInfo) -> None:
    change, before = plugin.build(image), _patch(image)
    for seed in range(_FEW):
        given = _patch(image)
        _drawn(change, image, seed, given)
        for what, old, new in zip(("image", "label"), before, given):
            assert torch.equal(old, new), f"the {what} that it is given is changed in place; work on a copy"


def _gives_patches_of_their_own(plugin: Augmentation, image: ImageInfo) -> None:
    change = plugin.build(image)
    made = [_drawn(change, image, seed, _patch(image, seed)) for seed in range(1, _FEW)]
    kept = [(a.clone(), b.clone()) for a, b in made]
    for seed in range(_FEW, _FEW + 5):
        _drawn(change, image, seed, _patch(image, seed))
    assert all(map(_equal, kept, made)), "a patch changes once the next is drawn; hand out new tensors"


def _repeats_itself(plugin: Augmentation, image: ImageInfo) -> None:
    change, other = plugin.build(image), plugin.build(image)
    for seed in range(_FEW):
        first = _drawn(change, image, seed)
        for number in (seed, seed + 1):
            python_random.seed(number)
            torch.manual_seed(number)
            np.random.seed(number)
            for again in (_drawn(change, image, seed), _drawn(other, image, seed)):
                assert _equal(first, again), (
                    "the same chance gives another patch; draw from `random`, which is handed in, "
                    "and from nothing "
                    "else"
                )


def _leaves_nothing(plugin: Augmentation, image: ImageInfo) -> None:
    """A change that has seen other patches does to one what a new change does."""
    used = plugin.build(image)
    for seed in range(_FEW):
        _drawn(used, image, seed, (3 * _patch(image, seed + 2)[0] + 2, _patch(image)[1]))
    for seed in range(_FEW):
        alone = _drawn(plugin.build(image), image, seed)
        assert _equal(alone, _drawn(used, image, seed)), (
            "after other patches it makes another of the same one; keep nothing from call to call"
        )


def _leaves_chance_alone(plugin: Augmentation, image: ImageInfo) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    python_random.seed(1)
    before = torch.get_rng_state(), _chance_of_numpy(), python_random.getstate()
    change = plugin.build(image)
    for seed in range(_FEW):
        _drawn(change, image, seed)
    assert torch.equal(before[0], torch.get_rng_state()), "torch's own chance has moved; draw from `random`"
    assert before[1] == _chance_of_numpy(), "numpy's own chance has moved; draw from `random`"
    assert before[2] == python_random.getstate(), "Python's own chance has moved; draw from `random`"
    chance.assert_no_reseeding(lambda: _drawn(plugin.build(image), image, 1), "building or changing")


def _chance_of_numpy() -> str:
    return repr(np.random.get_state(legacy=False)["state"]["key"].tolist())


def _survives_pickling(plugin: Augmentation, image: ImageInfo) -> None:
    change = plugin.build(image)
    copied = pickle.loads(pickle.dumps(change))
    for seed in range(_FEW):
        assert _equal(_drawn(change, image, seed), _drawn(copied, image, seed)), "another patch"


def _survives_copying(plugin: Augmentation, image: ImageInfo) -> None:
    change = plugin.build(image)
    copied = copy.deepcopy(change)
    with contextlib.suppress(Exception):
        _drawn(change, image, 1)
    for seed in range(_FEW):
        assert _equal(_drawn(plugin.build(image), image, seed), _drawn(copied, image, seed)), "another patch"
