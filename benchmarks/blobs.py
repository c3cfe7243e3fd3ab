"""Wavy ellipses in millimetres, and slices that they are painted on with soft edges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Point = tuple[float, float]
Waves = tuple[tuple[int, float, float], ...]
"""Of a contour: how many around it, amplitude, phase."""


@dataclass(frozen=True)
class Blob:
    """A turned ellipse whose radius waves: edge(angle) = 1 + Σ amplitude · cos(k · angle + phase)."""

    centre: Point
    radii: Point
    turn: float = 0.0
    waves: Waves = ()

    def grown(self, mm: float) -> Blob:
        a, b = self.radii
        return replace(self, radii=(max(a + mm, 0.1), max(b + mm, 0.1)))

    def moved(self, x: float, y: float) -> Blob:
        return replace(self, centre=(self.centre[0] + x, self.centre[1] + y))

    def reach(self) -> float:
        return max(self.radii) * (1 + sum(abs(amplitude) for _, amplitude, _ in self.waves))

    def distance(self, x: Floats, y: Floats) -> Floats:
        """About how many mm each point lies outside; negative inside."""
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        u = (cos * dx + sin * dy) / np.float32(self.radii[0])
        v = (cos * dy - sin * dx) / np.float32(self.radii[1])
        out: Floats = np.sqrt(u * u + v * v) - np.float32(1)
        if self.waves:
            angle = np.arctan2(v, u)
            for k, amplitude, phase in self.waves:
                out -= np.float32(amplitude) * np.cos(np.float32(k) * angle + np.float32(phase))
        return out * np.float32(np.sqrt(self.radii[0] * self.radii[1]))


def wavy(rng: np.random.Generator, amplitude: float, highest: int = 4) -> Waves:
    """Waves of a contour that is no ellipse."""
    return tuple((k, rng.normal(0, amplitude / k), rng.uniform(0, 2 * np.pi)) for k in range(2, highest + 1))


class Canvas:
    """A slice that is painted on."""

    def __init__(self, shape: tuple[int, int], pixel_mm: float, middle: Point) -> None:
        self.pixel_mm = pixel_mm
        self.x, self.y = (
            ((np.arange(n) - (n - 1) / 2) * pixel_mm + at).astype(np.float32) for n, at in zip(shape, middle)
        )
        self.image: Floats = np.zeros(shape, np.float32)

    def window(self, blob: Blob, margin: float) -> tuple[slice, slice]:
        """Where `blob` and `margin` mm around it are."""
        reach = blob.reach() + margin
        found = [
            np.searchsorted(axis, (at - reach, at + reach)) for axis, at in zip((self.x, self.y), blob.centre)
        ]
        return slice(*found[0]), slice(*found[1])

    def distance(self, blob: Blob, where: tuple[slice, slice]) -> Floats:
        return blob.distance(self.x[where[0], None], self.y[None, where[1]])

    def paint(self, blob: Blob, value: float, *, soft_mm: float = 0.0, opacity: float = 1.0) -> None:
        """`value` inside, with an edge of `soft_mm`, or of a pixel."""
        soft = np.float32(max(soft_mm, 1.3 * self.pixel_mm))
        where = self.window(blob, float(soft))
        alpha = np.clip(np.float32(0.5) - self.distance(blob, where) / soft, 0, np.float32(opacity))
        part = self.image[where]
        part += alpha * (np.float32(value) - part)
