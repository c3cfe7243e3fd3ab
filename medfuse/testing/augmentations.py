"""What a random change to training patches keeps."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medfuse.api import Augmentation, ImageInfo
from medfuse.testing.report import report
from medfuse.testing.tensors import generator, random

if TYPE_CHECKING:
    from medfuse.api import Change

_DRAWS = 200  # so that what is drawn once in twenty patches is seen


def check_augmentation(plugin: Augmentation, image: ImageInfo) -> None:
    """Patches like `image` keep their shape, labels their values, and all chance is the generator's."""

    def patch() -> tuple[Tensor, Tensor]:
        label = torch.zeros(1, *image.patch_size, dtype=torch.int64)
        for axis, size in enumerate(image.patch_size):
            label.narrow(axis + 1, size // 2, size - size // 2).add_(2**axis)
        return random(image.channels, *image.patch_size), label

    def drawn(change: Change, seed: int) -> tuple[Tensor, Tensor]:
        return change(*patch(), np.random.RandomState(seed))

    def build() -> Change:
        return plugin.build(image)

    def changes_some() -> None:
        change, before = build(), patch()
        made = (drawn(change, seed) for seed in range(_DRAWS))
        assert any(not torch.equal(a, before[0]) or not torch.equal(b, before[1]) for a, b in made), (
            f"{_DRAWS} patches are as they were"
        )

    def keeps_shapes() -> None:
        change, before = build(), patch()
        for seed in range(_DRAWS):
            for what, old, new in zip(("image", "label"), before, drawn(change, seed)):
                assert new.shape == old.shape, f"{what}: {tuple(old.shape)} becomes {tuple(new.shape)}"
                assert new.dtype == old.dtype, f"{what}: {old.dtype} becomes {new.dtype}"

    def stays_finite() -> None:
        change = build()
        assert all(bool(drawn(change, seed)[0].isfinite().all()) for seed in range(_DRAWS)), "not finite"

    def invents_no_label() -> None:
        change, known = build(), set(patch()[1].unique().tolist())
        for seed in range(_DRAWS):
            new = set(drawn(change, seed)[1].unique().tolist()) - known
            assert not new, f"labels {sorted(new)} were not there; take the nearest voxel's"

    def keeps_its_word() -> None:
        change, (_, label) = build(), patch()
        moved = any(not torch.equal(drawn(change, seed)[1], label) for seed in range(_DRAWS))
        assert moved == plugin.moves_voxels(), (
            f"moves_voxels() says {plugin.moves_voxels()}, and labels {'move' if moved else 'stay'}"
        )

    def repeats_itself() -> None:
        change, other = build(), build()
        for seed in range(_DRAWS // 10):
            first = drawn(change, seed)
            torch.rand(3, generator=generator(seed))
            torch.manual_seed(seed)
            np.random.seed(seed)
            for again in (drawn(change, seed), drawn(other, seed)):
                assert all(torch.equal(a, b) for a, b in zip(first, again)), "the same chance, another patch"

    def leaves_chance_alone() -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        before = torch.get_rng_state(), _chance_of_numpy()
        change = build()
        for seed in range(_DRAWS // 10):
            drawn(change, seed)
        assert torch.equal(before[0], torch.get_rng_state()), "torch's own chance has moved"
        assert before[1] == _chance_of_numpy(), "numpy's own chance has moved"

    def survives_pickling() -> None:
        change = build()
        copied = pickle.loads(pickle.dumps(change))
        assert all(torch.equal(a, b) for a, b in zip(drawn(change, 3), drawn(copied, 3))), "another patch"

    report(
        plugin,
        {
            "some patches change": changes_some,
            "patches keep their shape and type": keeps_shapes,
            "voxels stay finite": stays_finite,
            "labels keep their values": invents_no_label,
            "labels move where it says so": keeps_its_word,
            "the same chance gives the same patch": repeats_itself,
            "chance of others is left alone": leaves_chance_alone,
            "it survives pickling": survives_pickling,
        },
    )


def _chance_of_numpy() -> str:
    return repr(np.random.get_state(legacy=False)["state"]["key"].tolist())
