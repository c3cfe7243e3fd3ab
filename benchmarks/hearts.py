"""Synthetic short-axis MR of hearts among things of the same grey, so that only context tells them apart.

Shapes are painted one over another with soft edges, as wide as what a thick slice averages. Two frames of a
patient, `ed` and `es`, differ in how far the heart is contracted, in breath and in noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from blobs import Blob, Canvas, Floats, Point
from patients import Cut, Heart, Patient, cut
from scipy.ndimage import gaussian_filter

LABELS = {"background": 0, "right cavity": 1, "myocardium": 2, "left cavity": 3}
PHASES = ("ed", "es")
HALO_MM = 16.0
"""Of what fills the chest, around a heart and its doubles alike."""


@dataclass(frozen=True)
class Scanner:
    """The grid of a stack: its pixels and slices, and where on the patient its middle lies."""

    shape: tuple[int, int, int]
    pixel_mm: float
    thickness_mm: float
    middle: Point
    first_mm: float  # depth of the first slice
    blur: float  # pixels

    @classmethod
    def draw(cls, rng: np.random.Generator, heart: Heart) -> Scanner:
        """Fields of view differ by a factor of two; one stack in 16 has pixels of half the size."""
        pixel = rng.uniform(1.2, 1.8)
        interpolated = rng.random() < 1 / 16
        pixel /= 2 if interpolated else 1
        field = rng.triangular(255, 340, 520)
        ratio = (0.72, 0.84, 0.84, 1.0)[rng.integers(4)]
        sides = [int(np.clip(2 * round(side / pixel / 2), 154, 512)) for side in (field * ratio, field)]
        if rng.random() < 0.6:
            sides.reverse()
        thickness = float((5, 6, 7, 8, 8, 10, 10, 10)[rng.integers(8)])
        slices = int(np.clip(round((heart.length + rng.uniform(-6, 26)) / thickness), 6, 18))
        covered = slices * thickness - heart.length
        room = [max(0.0, n * pixel / 2 - 72) for n in sides]
        middle = [float(np.clip(rng.normal(-12, 22), -r, r)) for r in room]
        return cls(
            (sides[0], sides[1], slices),
            pixel,
            thickness,
            (middle[0], middle[1]),
            thickness / 2 - rng.uniform(0.15, 0.7) * covered,
            rng.uniform(1.0, 1.3) if interpolated else rng.uniform(0.35, 0.7),
        )


def frames(
    seed: int, patient: int
) -> Iterator[tuple[str, npt.NDArray[np.int16], npt.NDArray[np.uint8], Scanner]]:
    """Phase, image, label map and grid of both frames of a patient: a pure function of its arguments."""
    rng = np.random.default_rng([seed, patient])
    person = Patient(rng)
    scanner = Scanner.draw(rng, person.heart)
    for phase in PHASES:
        heart = person.heart if phase == "ed" else person.heart.contracted()
        yield phase, *render(person, heart, scanner, rng), scanner


def render(
    person: Patient, heart: Heart, scanner: Scanner, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """The stack and its label map, slice by slice."""
    image = np.empty(scanner.shape, np.int16)
    label = np.zeros(scanner.shape, np.uint8)
    bright, sigma = rng.uniform(120, 700), rng.uniform(0.03, 0.09)
    coil = rng.normal(0, (0.22, 0.22, 0.1, 0.1))
    ghost, ghost_at = max(0.0, rng.normal(0.0, 0.05)), int(rng.integers(20, 60))
    base = rng.normal(0, 2)  # where this observer says that the ventricles begin
    for k in range(scanner.shape[2]):
        depth = scanner.first_mm + k * scanner.thickness_mm
        breath = rng.normal(0, 1.8, 2)
        at = breath + np.array(person.tilt) * (depth - heart.length / 2)
        canvas = Canvas(scanner.shape[:2], scanner.pixel_mm, scanner.middle)
        paint_surroundings(canvas, person, depth, breath)
        for double in person.doubles:
            like = double.heart if heart is person.heart else double.heart.contracted()
            deep = depth - double.base
            paint_heart(
                canvas, person, like, cut(like, deep, scanner.thickness_mm), deep, at + double.at, rng
            )
        seen = cut(heart, depth, scanner.thickness_mm)
        paint_heart(canvas, person, heart, seen, depth, at, rng)
        annotated = cut(heart, depth - base, scanner.thickness_mm)
        draw_labels(label[..., k], canvas, annotated, at, rng)
        clean = canvas.image
        if ghost > 0.02:
            clean = clean + np.float32(ghost) * np.roll(clean, ghost_at, axis=1)
        field = np.exp(_bias(canvas, coil))
        image[..., k] = noisy(clean * field, sigma, scanner.blur, person.texture, rng) * np.float32(bright)
    return image, label


def _bias(canvas: Canvas, coil: npt.NDArray[np.float64]) -> Floats:
    """How the coil's sensitivity falls off, as a logarithm."""
    x, y = canvas.x[:, None] / np.float32(100), canvas.y[None] / np.float32(100)
    a, b, c, d = (np.float32(n) for n in coil)
    total: Floats = np.clip(a * x + b * y + c * x * x + d * y * y, -2, 2)
    return total


def noisy(clean: Floats, sigma: float, blur: float, texture: float, rng: np.random.Generator) -> Floats:
    """The magnitude of what a coil receives, blurred as the scanner does."""
    grain = gaussian_filter(rng.standard_normal(clean.shape, np.float32), 2.0, truncate=2.5)
    real = clean * (1 + np.float32(7 * texture) * grain)
    real += np.float32(sigma) * rng.standard_normal(clean.shape, np.float32)
    real = gaussian_filter(real, blur, truncate=2.5) if blur > 0.4 else real
    floor = np.float32(0.6 * sigma) * rng.standard_normal(clean.shape, np.float32)
    return np.sqrt(real * real + floor * floor)


def paint_surroundings(
    canvas: Canvas, person: Patient, depth: float, breath: npt.NDArray[np.float64]
) -> None:
    """Trunk, lungs, spine, aorta, and below the heart liver, stomach and spleen; and rings."""
    greys, half = person.greys, 0.5 * breath

    def risen(begins: float) -> float:
        """How much of an organ that begins at a depth is seen: it widens downwards."""
        return float(np.sqrt(np.clip((depth - begins) / 35, 0, 1)))

    def paint(blob: Blob, value: float, **how: Any) -> None:
        canvas.paint(blob.moved(*half), value, **how)

    paint(person.trunk, greys.fat)
    paint(person.trunk.grown(-person.rim), greys.muscle)
    paint(person.trunk.grown(-person.rim - 11), greys.between)
    for lung in person.lungs:
        paint(lung, greys.lung, soft_mm=3)
    if size := risen(person.liver_from):
        a, b = person.liver.radii
        liver = replace(person.liver, radii=(a * size, b * size))
        paint(liver, greys.liver, soft_mm=4)
        for vein, drift in person.veins:
            moved = vein.moved(*(drift * (depth - 40)))
            inside = float(
                liver.distance(np.float32([[moved.centre[0]]]), np.float32([[moved.centre[1]]]))[0, 0]
            )
            if inside < -6:
                paint(moved, 0.95)
    if size := risen(person.stomach_from):
        a, b = person.stomach.radii
        stomach = replace(person.stomach, radii=(a * size, b * size))
        paint(stomach.grown(person.stomach_wall), greys.muscle, soft_mm=3)
        paint(stomach, greys.stomach, soft_mm=3)
        paint(person.spleen, greys.liver)
    x, y = person.spine
    paint(Blob((x, y), (21, 17), person.turn), greys.bone)
    paint(Blob((x, y - 26), (8, 7)), 1.05)
    paint(person.aorta.grown(2.5), greys.muscle)
    paint(person.aorta, 0.97)
    for ring in person.rings:
        if ring.depths[0] < depth < ring.depths[1]:
            paint(ring.bright.grown(ring.wall), greys.muscle, soft_mm=2)
            if ring.crescent is not None:
                a, _ = ring.bright.radii
                far = a + ring.wall + 0.5 * a
                beside = Blob(
                    (far * np.cos(ring.crescent), far * np.sin(ring.crescent)),
                    (0.6 * a, 1.1 * a),
                    ring.crescent,
                )
                paint(beside.moved(*ring.bright.centre), greys.right, soft_mm=2)
                paint(ring.bright.grown(ring.wall), greys.muscle, soft_mm=2)
            paint(ring.bright, 0.97, soft_mm=2)


def paint_heart(
    canvas: Canvas,
    person: Patient,
    heart: Heart,
    seen: Cut,
    depth: float,
    at: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """The ventricles, or above them the atria, in their fat."""
    greys, soft = person.greys, seen.soft_mm

    def paint(blob: Blob, value: float, **how: Any) -> None:
        canvas.paint(blob.moved(*at), value, **how)

    if depth < 0:  # the atria, with thin walls
        for blob, value in ((person.outflow, greys.right), (person.atrium, 0.98)):
            paint(blob.grown(3), greys.muscle)
            paint(blob, value, soft_mm=2)
        return
    if seen.outer:  # what fills the chest is around it wherever it is
        for blob in (seen.outer, *((seen.right,) if seen.right else ())):
            paint(blob.grown(person.fat_around + HALO_MM), greys.between, soft_mm=4)
    if seen.right:
        paint(seen.right.grown(4 + person.fat_around), person.around, soft_mm=3)
    if seen.outer:
        paint(seen.outer.grown(person.fat_around), person.around, soft_mm=3)
    if seen.right:
        paint(seen.right.grown(3.2), greys.muscle)
        paint(seen.right, greys.right, soft_mm=soft)
        _roughen(canvas, seen.right, at, greys.muscle, person.trabeculae, rng)
    if seen.outer:
        paint(seen.outer, greys.muscle, soft_mm=soft)
    if seen.left:
        paint(seen.left, 1.0, soft_mm=soft)
        _roughen(canvas, seen.left, at, greys.muscle, person.trabeculae, rng)
        inner = seen.left.radii[0]
        if 0.25 * heart.length < depth < 0.8 * heart.length and inner > 8:
            for angle in heart.papillary:
                place = 0.62 * inner * np.cos(angle), 0.62 * inner * np.sin(angle)
                paint(Blob(place, (0.2 * inner, 0.16 * inner), angle), greys.muscle, opacity=0.9)


def _roughen(
    canvas: Canvas,
    blob: Blob,
    at: npt.NDArray[np.float64],
    value: float,
    strength: float,
    rng: np.random.Generator,
) -> None:
    """Trabeculae: spots of muscle along the inside of a cavity's edge."""
    radius = min(blob.radii)
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(3, 9)):
        a, b = 0.85 * blob.radii[0], 0.85 * blob.radii[1]
        cos, sin = np.cos(blob.turn), np.sin(blob.turn)
        u, v = a * np.cos(angle), b * np.sin(angle)
        place = (blob.centre[0] + cos * u - sin * v + at[0], blob.centre[1] + sin * u + cos * v + at[1])
        size = radius * rng.uniform(0.08, 0.2)
        canvas.paint(Blob(place, (size, 1.6 * size), angle), value, opacity=strength)


def draw_labels(
    label: npt.NDArray[np.uint8],
    canvas: Canvas,
    seen: Cut,
    at: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """The contours of an observer, whose hand is not quite steady."""
    for blob, name in ((seen.right, "right cavity"), (seen.outer, "myocardium"), (seen.left, "left cavity")):
        if blob is not None:
            drawn = blob.moved(*(at + rng.normal(0, 0.3, 2))).grown(rng.normal(0, 0.4))
            where = canvas.window(drawn, 1)
            label[where][canvas.distance(drawn, where) < 0] = LABELS[name]


def affine(scanner: Scanner, *, lost: bool) -> npt.NDArray[np.float64]:
    """Of the file; where spacing was lost, voxels are said to be 1 × 1 × 1 mm."""
    return np.diag([1.0, 1, 1, 1] if lost else [scanner.pixel_mm, scanner.pixel_mm, scanner.thickness_mm, 1])
