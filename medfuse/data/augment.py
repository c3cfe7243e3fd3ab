"""Random changes to training patches, after nnU-Net, by MONAI's array transforms."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, radians

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms.spatial.array import AffineGrid, RandFlip, RandSimulateLowResolution, Resample
from monai.transforms.utils import create_rotate
from torch import Tensor

from medfuse.core import intensities
from medfuse.core.sampling import labels_at
from medfuse.data.further import Further, further
from medfuse.data.plan import ANISOTROPIC, DataPlan
from medfuse.data.settings import AugmentSettings


@dataclass(frozen=True, eq=False)
class Warp:
    """A drawn rotation and scaling, as the matrix from a patch's voxels to the volume's, about the centre."""

    matrix: npt.NDArray[np.float64]

    def reach(self, size: Sequence[int]) -> tuple[int, ...]:
        """The region to read, about the same centre, so that no corner of a patch of `size` is empty."""
        half = np.abs(self.matrix[:-1, :-1]) @ ((np.array(size) - 1) / 2)
        return tuple(n + 2 * max(0, ceil(h - (n - 1) / 2)) for n, h in zip(size, half))

    def __call__(self, image: Tensor, label: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The patch of `size` out of a region of `reach(size)`, interpolated once, and linearly.

        A voxel gets the label that has the largest share of it.
        """
        with intensities.plain_tensors():
            grid = AffineGrid(affine=self.matrix)(tuple(size))[0]
            turned = Resample(padding_mode="zeros")(image, grid, mode="bilinear")
        region = torch.tensor(label.shape[1:]).view(-1, *(1,) * len(size))
        return turned, labels_at(label[0], grid[: len(size)] + (region - 1) / 2)[None]


class Augmenter:
    """Draws what happens to one patch. All chance comes from the generator that is handed in.

    Intensities: noise, blur, brightness, contrast, low resolution, gamma (a third as often also on the
    inverted image). Strengths that AugmentSettings does not name are nnU-Net's. What plugins and MONAI's
    transforms do comes last, in the order of the file.
    """

    def __init__(self, settings: AugmentSettings, plan: DataPlan) -> None:
        self.settings = settings
        self.spacing_mm = plan.image.spacing_mm
        linear = "bilinear" if plan.image.dims == 2 else "trilinear"
        self.intensity = (
            intensities.noise(settings.noise),
            intensities.blur(settings.blur),
            intensities.brightness(settings.brightness),
            intensities.contrast(settings.contrast),
            RandSimulateLowResolution(settings.low_resolution, upsample_mode=linear, zoom_range=(0.5, 1.0)),
            intensities.gamma(settings.gamma / 3, invert=True),
            intensities.gamma(settings.gamma),
        )
        self.flips = tuple(RandFlip(0.5, axis) for axis, name in enumerate("xyz") if name in settings.mirror)
        self.further = tuple(Further(plugin, plan.image) for _, plugin in further(settings))

    def draw_warp(self, random: np.random.RandomState) -> Warp | None:
        """A rotation about every axis (in millimetres), a scaling, both, or None.

        Where one axis is far coarser than the others, rotation stays in the plane of the other two.
        """
        dims, limit = len(self.spacing_mm), radians(self.settings.rotate_degrees)
        rotate, scale = random.random_sample(2) < (self.settings.rotate, self.settings.scale)
        angles = random.uniform(-limit, limit, 3)
        factor = self._scale(random)
        if not rotate and not scale:
            return None
        matrix = np.eye(dims + 1)
        if rotate:
            spacing = np.diag((*self.spacing_mm, 1.0))
            turn = create_rotate(dims, angles[:1] if dims == 2 else angles * self._turning())
            matrix = np.linalg.inv(spacing) @ turn @ spacing
        if scale:
            matrix[:dims, :dims] /= factor
        return Warp(matrix)

    def _scale(self, random: np.random.RandomState) -> float:
        """Smaller or larger with equal chance, where the range allows both."""
        low, high = self.settings.scale_range
        if random.random_sample() < 0.5 and low < 1:
            return float(random.uniform(low, min(high, 1)))
        return float(random.uniform(max(low, 1), high)) if high > 1 else float(random.uniform(low, high))

    def _turning(self) -> npt.NDArray[np.float64]:
        """1 for each axis that may be rotated about."""
        spacing = np.array(self.spacing_mm)
        coarse = spacing > ANISOTROPIC * spacing.min()
        return np.where(coarse, 1.0, 0.0) if coarse.any() else np.ones(3)

    def change(self, image: Tensor, label: Tensor, random: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """Intensities and mirroring of a patch (channels, *size) and its label (1, *size)."""
        with intensities.plain_tensors():
            for transform in self.intensity:
                image = transform.set_random_state(state=random)(image)
            for flip in self.flips:
                flip.set_random_state(state=random).randomize(None)
                image, label = flip(image, randomize=False), flip(label, randomize=False)
            for change in self.further:
                image, label = change(image, label, random)
        return image.to(torch.float32).contiguous(), label.contiguous()
