"""Augmentations by plugins and MONAI's transforms: tried out first, and held to their word."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medfuse.api import Augmentation, ImageInfo
from medfuse.core.errors import MedfuseError, Path, PipelineError, PluginError, Problem, reason
from medfuse.core.text import by
from medfuse.data.settings import AugmentSettings
from medfuse.registry import blame

_DRAWS = 40  # a transform that is drawn once in ten patches is seen at work in 98 of 100 trials


def further(settings: AugmentSettings) -> list[tuple[Path, Augmentation]]:
    """Every plugin, and MONAI's transforms as such, with its place in the pipeline file."""
    plugins = [(("augment", "plugins", i), plugin) for i, plugin in enumerate(settings.plugins)]
    return [*plugins, *((("augment", "monai", i), t.plugin()) for i, t in enumerate(settings.monai))]


class Further:
    """What one plugin does to a patch. The label stays as it is unless the plugin moves voxels.

    Raises MedfuseError, also when called, that names the plugin.
    """

    def __init__(self, plugin: Augmentation, image: ImageInfo) -> None:
        self.plugin, self.moves = plugin, plugin.moves_voxels()
        try:
            self._change = plugin.build(image)
        except MedfuseError:
            raise
        except Exception as error:
            raise PluginError(f"{blame(plugin)} cannot be made: {reason(error)}") from error

    def __call__(self, image: Tensor, label: Tensor, random: np.random.RandomState) -> tuple[Tensor, Tensor]:
        try:
            made, moved = self._change(image.clone(), label.clone(), random)  # theirs, to write to
        except MedfuseError:
            raise
        except Exception as error:
            raise PluginError(f"{blame(self.plugin)}: {reason(error)}") from error
        moved = moved if self.moves else label
        for what, before, after in (("image", image, made), ("label", label, moved)):
            if not isinstance(after, Tensor) or after.shape != before.shape:
                shape = by(after.shape) if isinstance(after, Tensor) else type(after).__name__
                raise PluginError(
                    f"{blame(self.plugin)} makes {shape} of {what} {by(before.shape)}; a patch keeps "
                    "its shape"
                )
        return made.to(torch.float32), moved.to(label.dtype)


def augment_problems(settings: AugmentSettings, image: ImageInfo, classes: int) -> list[Problem]:
    """What plugins and transforms do to a random patch of `image` that would end or falsify training."""
    problems: list[Problem] = []
    for path, plugin in further(settings):
        try:
            _try_out(plugin, image, classes)
        except PipelineError as error:
            problems += [Problem(_placed(path, p.path), p.message, p.at_key) for p in error.problems]
        except MedfuseError as error:
            problems += [Problem(path, line) for line in error.lines]
    return problems


def _placed(path: Path, inner: Path) -> Path:
    """A place in a plugin as one in the file: `augment.monai` has `use` for a name, arguments beside it."""
    if path[1] != "monai":
        return (*path, *inner)
    return (*path, "use") if inner[:1] == ("name",) else (*path, *inner[1:])


def _try_out(plugin: Augmentation, image: ImageInfo, classes: int) -> None:
    change = Further(plugin, image)
    random = torch.Generator().manual_seed(1)
    patch = torch.randn(image.channels, *image.patch_size, generator=random)
    label = torch.randint(classes, (1, *image.patch_size), generator=random)
    for seed in range(_DRAWS):
        made, moved = change(patch, label, np.random.RandomState(seed))
        if not bool(made.isfinite().all()):
            raise PluginError(f"{blame(plugin)} makes voxels that are no finite numbers")
        if not set(moved.unique().tolist()) <= set(label.unique().tolist()):
            raise PluginError(f"{blame(plugin)} makes labels that were not there; take the nearest voxel's")
        if torch.equal(made, patch) and torch.equal(moved, label):
            continue  # not drawn
        again, moved_again = change(patch, label, np.random.RandomState(seed))
        if not (torch.equal(made, again) and torch.equal(moved, moved_again)):
            raise PluginError(f"{blame(plugin)} draws from elsewhere than `random`, and cannot be repeated")
        return
