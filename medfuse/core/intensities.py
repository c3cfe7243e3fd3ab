"""nnU-Net's random changes of intensity, as MONAI's array transforms, and how these are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
)


def noise(probability: float, strength: float = 1.0) -> Any:
    """Gaussian noise with a variance of up to 0.1 · strength²."""
    return RandGaussianNoise(probability, std=strength * 0.1**0.5)


def blur(probability: float, strength: float = 1.0) -> Any:
    """Gaussian blur with a σ of 0.5 to 1 voxel, times the strength."""
    sigma = (0.5 * strength, 1.0 * strength)
    return RandGaussianSmooth(sigma, sigma, sigma, prob=probability)


def brightness(probability: float, strength: float = 1.0) -> Any:
    """A factor of 1 ± 0.25 · strength for each channel."""
    return RandScaleIntensity(0.25 * strength, prob=probability, channel_wise=True)


def contrast(probability: float, strength: float = 1.0) -> Any:
    """A factor of 1 ± 0.25 · strength about each channel's mean, within its range."""
    return RandScaleIntensityFixedMean(probability, 0.25 * strength, preserve_range=True, channel_wise=True)


def gamma(probability: float, strength: float = 1.0, *, invert: bool = False) -> Any:
    """x^γ on each channel's range, γ of 0.7 to 1.5 to the power of strength; mean and deviation stay."""
    return RandAdjustContrast(
        probability, invert_image=invert, retain_stats=True, gamma=(0.7**strength, 1.5**strength)
    )


@contextmanager
def plain_tensors() -> Iterator[None]:
    """MONAI's own tensors, which carry a history, cost more than the transforms on small patches."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
