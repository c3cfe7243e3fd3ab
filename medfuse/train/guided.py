"""Augmentation guided by the network: where one of its maps is high, patches are changed in another way.

It belongs to training and not to `augment`: loader processes have no network to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.core.sampling import labels_at
from medfuse.train.pseudo import evaluating
from medfuse.train.settings import GuidedSettings, RegionSettings

_LINEAR = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Guided:
    """Changes a batch just before its step. What it draws depends on `seed`, the step and the process.

    `spacing_mm`: of the patches, per axis, so that a deformation is as large in every direction.
    """

    settings: GuidedSettings
    spacing_mm: tuple[float, ...]
    seed: int
    rank: int = 0

    def is_due(self, step: int, done: float) -> bool:
        """Whether the batch of `step`, at a share `done` of training, is changed."""
        return done >= self.settings.begin and step % self.settings.every == 0

    def look(self, model: nn.Module, image: Tensor) -> Tensor:
        """The map, asked for as in validation: without gradient, and running statistics stand still."""
        name = self.settings.map
        with evaluating(model), torch.no_grad():
            activation: Tensor = model(image, maps=(name,))[2][name]
        return activation

    def change(self, image: Tensor, label: Tensor, activation: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """image (batch, channels, *patch_size) and label (batch, 1, *patch_size) of `step`, changed."""
        masks = high_regions(
            activation,
            image.shape[2:],
            percentile=self.settings.percentile,
            threshold=self.settings.threshold,
        )
        random = np.random.RandomState(np.random.SeedSequence([self.seed, step, self.rank]).generate_state(4))
        images, labels = zip(*(self._patch(*parts, random) for parts in zip(image, label, masks)))
        return torch.stack(images), torch.stack(labels)

    def _patch(
        self, image: Tensor, label: Tensor, mask: Tensor, random: np.random.RandomState
    ) -> tuple[Tensor, Tensor]:
        """One patch (channels, *patch_size), its label and its mask (1, *patch_size)."""
        settings = self.settings
        inside = change_intensities(image, settings.inside, random) if settings.inside else image
        outside = change_intensities(image, settings.outside, random) if settings.outside else image
        image = blend(image, mask, inside, outside)
        if random.random_sample() < settings.erase:
            image = erase(image, mask)
        if settings.deform:
            finest = min(self.spacing_mm)
            voxels = [settings.deform * finest / spacing for spacing in self.spacing_mm]
            field = displacement(image.shape[1:], voxels, random).to(image) * taper(mask, voxels)
            image, label = deform(image, label, field)
        return image, label


def high_regions(
    activation: Tensor,
    size: Sequence[int],
    *,
    percentile: float | None = None,
    threshold: float | Tensor | None = None,
) -> Tensor:
    """(batch, channels, *grid) → (batch, 1, *size): 1 where the mean of |activation| over channels is high.

    High is above `threshold`, or above that percentile of the patch's own values. Where the map is coarser
    than the patch, edges run from 1 to 0 over one of its voxels.
    """
    strength = activation.float().abs().mean(1, keepdim=True)
    if percentile is not None:  # torch.quantile refuses large maps
        voxels = strength.flatten(1)
        rank = max(1, ceil(percentile / 100 * voxels.shape[1]))
        threshold = voxels.kthvalue(rank).values.view(-1, *(1,) * (strength.ndim - 1))
    assert threshold is not None, "validated: one of the two is given"
    mask = (strength > threshold).float()
    if tuple(mask.shape[2:]) == tuple(size):
        return mask
    return functional.interpolate(mask, size=tuple(size), mode=_LINEAR[len(size)], align_corners=False)


def blend(image: Tensor, mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """mask · inside + (1 - mask) · outside, written so that what equals `image` leaves it to the last bit."""
    return image + mask * (inside - image) + (1 - mask) * (outside - image)


def erase(image: Tensor, mask: Tensor) -> Tensor:
    """The masked region at its own mean, channel by channel: a cutout of what the network looks at most."""
    axes = tuple(range(1, image.ndim))
    mean = (image * mask).sum(axes, keepdim=True) / mask.sum().clamp_min(1e-8)
    return image + mask * (mean - image)


# ------------------------------------------------------------------------------------------ intensities


def change_intensities(image: Tensor, settings: RegionSettings, random: np.random.RandomState) -> Tensor:
    """(channels, *spatial) after the changes that are drawn, in the order and to the extent of `augment`."""
    from medfuse.core import intensities  # MONAI, which takes seconds to import

    for name in ("noise", "blur", "brightness", "contrast", "gamma"):
        probability: float = getattr(settings, name)
        if probability:
            change = getattr(intensities, name)(probability, settings.strength)
            with intensities.plain_tensors():
                image = change.set_random_state(state=random)(image)
    return image


# ------------------------------------------------------------------------------------------ deformation


def displacement(size: Sequence[int], voxels: Sequence[float], random: np.random.RandomState) -> Tensor:
    """(axes, *size): a smooth random field, along each axis between -voxels and +voxels of it.

    It is linear between nodes that lie 8 voxels apart, or 4 times the largest displacement, so that it
    seldom folds.
    """
    nodes = [max(2, 1 + round(n / max(8, 4 * v))) for n, v in zip(size, voxels)]
    drawn = torch.from_numpy(random.uniform(-1, 1, (1, len(nodes), *nodes)).astype(np.float32))
    field = functional.interpolate(drawn, size=tuple(size), mode=_LINEAR[len(nodes)], align_corners=True)[0]
    return field * torch.tensor(voxels).view(-1, *(1,) * len(nodes))


def taper(mask: Tensor, voxels: Sequence[float]) -> Tensor:
    """A mask (1, *spatial) whose edges fall over about twice the displacement, so that nothing tears.

    It is 0 wherever the mask is 0 for `voxels`, rounded up, all around.
    """
    widths = [2 * ceil(v) + 1 for v in voxels]
    pool = functional.avg_pool2d if len(widths) == 2 else functional.avg_pool3d
    return pool(mask, widths, stride=1, padding=[w // 2 for w in widths], count_include_pad=False)


def deform(image: Tensor, label: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    """What lies at each voxel + field (axes, *spatial): linear in the image, the largest share in the label.

    Where the field is 0 both stay as they are, to the last bit.
    """
    size = image.shape[1:]
    axes = [torch.arange(n, device=field.device, dtype=field.dtype) for n in size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field
    last = torch.tensor([n - 1 for n in size]).to(field).view(-1, *(1,) * len(size))
    places = torch.minimum(places.clamp(min=0), last)
    scaled = 2 * places / last.clamp(min=1) - 1
    grid = scaled.flip(0).movedim(0, -1)[None]  # torch counts axes from the last
    warped = functional.grid_sample(
        image[None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )[0]
    still = (field == 0).all(0)
    moved = labels_at(label[0], places)[None]
    return torch.where(still, image, warped), torch.where(still, label, moved)
