"""Patches by number: the same number is the same patch, whichever process draws it, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfuse.core.errors import DataError
from medfuse.data.augment import Augmenter
from medfuse.data.plan import DataPlan
from medfuse.data.settings import AugmentSettings, SampleSettings
from medfuse.data.store import Store


@dataclass(frozen=True)
class PatchSampler:
    """Draws patch number `index` of an endless row; `batch_size` consecutive ones are a batch.

    The last round(batch_size × foreground) patches of each batch are centred on a voxel of a random
    foreground class of a random case that has one (as nnU-Net does), every class of the case equally likely.
    The others lie anywhere; where there is an ignore label, around a random annotated voxel.
    """

    store: Store
    names: Sequence[str]
    plan: DataPlan
    sample: SampleSettings
    augment: AugmentSettings
    seed: int
    unlabelled: bool = False
    augmenter: Augmenter = field(init=False)
    weak: Augmenter = field(init=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError("there are no training cases; give the split at least one")
        weak = self.augment.moving()
        strong = self.augment.recolouring() if self.unlabelled else self.augment  # after the weak one
        object.__setattr__(self, "weak", Augmenter(weak, self.plan))
        object.__setattr__(self, "augmenter", Augmenter(strong, self.plan))

    @property
    def size(self) -> tuple[int, int, int]:
        """The patch in (x, y, z) voxels; a 2-D one is one slice thick."""
        x, y, z = (*self.plan.patch_size, 1)[:3]
        return x, y, z

    @cached_property
    def with_foreground(self) -> tuple[str, ...]:
        """Training cases that hold any foreground."""
        return tuple(name for name in self.names if self.store.case(name).classes)

    @cached_property
    def with_annotation(self) -> tuple[str, ...]:
        """Training cases with any voxel that is annotated; all of them where none has one."""
        found = (self.store.case(name) for name in self.names)
        names = tuple(case.name for case in found if case.annotated is None or len(case.annotated))
        return names or tuple(self.names)

    def draw(self, index: int) -> dict[str, Any]:
        """`image` (channels, *patch_size) float32, `label` (1, *patch_size) int64, and the `case`.

        Where cases are `unlabelled`: `image` and `weak`, the same patch before its intensities were changed.
        """
        random = self._random(index)
        name, start = self._place(random, forced=self._is_forced(index))
        image, label = self._read(name, start, random)
        if self.unlabelled:
            weak, label = self.weak.change(image, label, random)
            return {"image": self.augmenter.change(weak, label, random)[0], "weak": weak, "case": name}
        image, label = self.augmenter.change(image, label, random)
        return {"image": image, "label": label.long(), "case": name}

    def view(self, place: int, view: int) -> dict[str, Any]:
        """As `draw`: patch number `place` of a finite row, as it was changed for its view number `view`.

        Cases take turns, each round in another order, so that all of them have as many places.
        """
        turn = np.random.SeedSequence(self.seed, spawn_key=(place // len(self.names),))
        dealt = self.names[np.random.default_rng(turn).permutation(len(self.names))[place % len(self.names)]]
        name, start = self._place(self._random(place), forced=self._is_forced(place), dealt=dealt)
        random = self._random(place, view + 1)
        image, label = self._read(name, start, random)
        image, label = self.augmenter.change(image, label, random)
        return {"image": image, "label": label.long(), "case": name}

    def _random(self, *numbers: int) -> np.random.RandomState:
        return np.random.RandomState(np.random.SeedSequence([self.seed, *numbers]).generate_state(4))

    def _is_forced(self, index: int) -> bool:
        """Whether a patch is centred on foreground: the last ones of each batch are."""
        batch = self.plan.batch_size
        return index % batch >= batch - round(batch * self.sample.foreground)

    def _place(
        self, random: np.random.RandomState, *, forced: bool, dealt: str | None = None
    ) -> tuple[str, tuple[int, ...]]:
        """A case and a patch's first voxel: a negative one where the volume is smaller than the patch.

        The case is the one that is `dealt`, where such a patch can be taken from it, else any that has one.
        """
        forced = forced and bool(self.with_foreground)
        names = self.with_foreground if forced else self.with_annotation
        case = self.store.case(dealt if dealt in names else names[random.randint(len(names))])
        pads = [max(0, n - have) for n, have in zip(self.size, case.shape)]
        low = [-(pad // 2) for pad in pads]
        high = [max(a, have - n) for a, n, have in zip(low, self.size, case.shape)]
        voxels = case.annotated
        if forced:
            voxels = case.voxels[case.classes[random.randint(len(case.classes))]]
        if voxels is None or not len(voxels):
            return case.name, tuple(int(random.randint(a, b + 1)) for a, b in zip(low, high))
        centre = np.unravel_index(voxels[random.randint(len(voxels))], case.shape)
        return case.name, tuple(
            int(np.clip(c - n // 2, a, b)) for c, n, a, b in zip(centre, self.size, low, high)
        )

    def _read(self, name: str, start: Sequence[int], random: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """The patch at `start`, turned and scaled where that is drawn; a 2-D one without its third axis."""
        warp = self.augmenter.draw_warp(random)
        wanted = self.plan.patch_size
        reach = self.size if warp is None else (*warp.reach(wanted), 1)[:3]
        corner = [a - (r - n) // 2 for a, n, r in zip(start, self.size, reach)]
        arrays = self.store.read_patch(name, corner, reach)
        image, label = (torch.from_numpy(array) for array in arrays)
        if len(wanted) == 2:
            image, label = image[..., 0], label[..., 0]
        return (image, label) if warp is None else warp(image, label, wanted)
