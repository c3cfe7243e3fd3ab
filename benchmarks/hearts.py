"""Synthetic short-axis MR of hearts among things of the same grey, so that only context tells them apart.

A patient is drawn in millimetres on the plane of a slice: x to the patient's left, y to the front, the middle
of the left cavity at 0; `depth` runs from the base of the heart at 0 to beyond its apex. Shapes are painted
one over another with soft edges, as wide as what a thick slice averages. Two frames of a patient, `ed` and
`es`, differ in how far the heart is contracted, in breath and in noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Floats = npt.NDArray[np.float32]
Point = tuple[float, float]

LABELS = {"background": 0, "right cavity": 1, "myocardium": 2, "left cavity": 3}
PHASES = ("ed", "es")
CLEAR_MM = 75.0
"""How far from the heart a thing that looks like one lies at least."""


@dataclass(frozen=True)
class Blob:
    """A turned ellipse whose radius waves: edge(angle) = 1 + Σ amplitude · cos(k · angle + phase)."""

    centre: Point
    radii: Point
    turn: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()

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


def wavy(
    rng: np.random.Generator, amplitude: float, highest: int = 4
) -> tuple[tuple[int, float, float], ...]:
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


@dataclass(frozen=True)
class Greys:
    """How bright each tissue is; blood in the left cavity is 1."""

    muscle: float
    fat: float
    lung: float
    between: float  # what fills the chest between the lungs
    right: float
    liver: float
    stomach: float
    bone: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Greys:
        muscle = rng.uniform(0.32, 0.72)
        return cls(
            muscle=muscle,
            fat=rng.uniform(0.55, 1.25),
            lung=rng.uniform(0.05, 0.25),
            between=rng.uniform(0.25, 0.95),
            right=rng.uniform(0.85, 1.06),
            liver=muscle * rng.uniform(0.8, 1.25),
            stomach=rng.uniform(0.7, 1.1),
            bone=rng.uniform(0.3, 0.7),
        )


@dataclass(frozen=True)
class Heart:
    """Sizes of one heart in mm, at the end of filling. `wall_waves`: its wall is not of one thickness."""

    length: float
    radius: float
    wall: float
    right_width: float
    right_height: float
    towards_right: float  # the angle at which the right cavity lies
    shrinks: float  # the left cavity's radius at the end of the beat, of that at its beginning
    thins: float  # of the wall, along part of its round
    left_waves: tuple[tuple[int, float, float], ...]
    wall_waves: tuple[tuple[int, float, float], ...]
    right_waves: tuple[tuple[int, float, float], ...]
    papillary: Point  # two angles

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Heart:
        """Normal, dilated, thick-walled, thinned by an infarct, or with a large right cavity."""
        kind = rng.integers(5)
        size = rng.normal(1, 0.09)
        radius, wall, right = rng.normal(22.5, 2), rng.normal(8.5, 1), rng.normal(27, 4)
        shrinks = rng.normal(0.66, 0.05)
        if kind == 1:
            radius, wall, shrinks = radius * 1.3, wall * 0.85, rng.normal(0.88, 0.04)
        elif kind == 2:
            radius, wall, shrinks = radius * 0.92, wall * 1.6, rng.normal(0.5, 0.06)
        elif kind == 4:
            right *= 1.4
        return cls(
            length=size * rng.normal(84, 7),
            radius=size * radius,
            wall=size * max(wall, 5.5),
            right_width=size * max(right, 15),
            right_height=size * rng.normal(36, 4) * (1.15 if kind == 4 else 1),
            towards_right=np.pi + rng.normal(0, 0.25),
            shrinks=float(np.clip(shrinks, 0.38, 0.95)),
            thins=rng.uniform(0.3, 0.55) if kind == 3 else 0.0,
            left_waves=wavy(rng, 0.05),
            wall_waves=((1, rng.normal(0, 0.12), rng.uniform(0, 6.28)), *wavy(rng, 0.1, 3)),
            right_waves=wavy(rng, 0.1, 5),
            papillary=(rng.uniform(-0.9, -0.3), rng.uniform(1.6, 2.4)),
        )

    def contracted(self) -> Heart:
        """The same at the end of the beat: its muscle keeps about its area."""
        inner = self.radius * self.shrinks
        outer = np.sqrt(inner**2 + 1.03 * ((self.radius + self.wall) ** 2 - self.radius**2))
        how = 1 - 0.8 * (1 - self.shrinks)
        return replace(
            self,
            length=self.length * (1 - 0.35 * (1 - self.shrinks)),
            radius=inner,
            wall=float(outer - inner),
            right_width=self.right_width * how,
            right_height=self.right_height * (1 - 0.4 * (1 - self.shrinks)),
        )


@dataclass(frozen=True)
class Cut:
    """The heart where one slice meets it: None for what is not there."""

    left: Blob | None
    outer: Blob | None
    right: Blob | None
    soft_mm: float


def cut(heart: Heart, depth: float, thickness: float) -> Cut:
    """`depth` mm below the base, which is at 0."""

    inner = heart.radius * _taper(depth, heart.length)
    outer = (heart.radius + heart.wall) * _taper(depth, heart.length + heart.wall)
    right = _taper(depth, 0.88 * heart.length)
    slope = abs(inner - heart.radius * _taper(depth + 1, heart.length))
    soft = float(min(0.6 * thickness * slope, 7.0))
    if depth < 0 or depth > heart.length + heart.wall:
        return Cut(None, None, None, soft)
    thinner = ((1, -heart.thins * 0.5, 0.7),) if heart.thins else ()
    share = heart.wall / (heart.radius + heart.wall)
    around = tuple((k, share * amplitude, phase) for k, amplitude, phase in (*heart.wall_waves, *thinner))
    left_blob = Blob((0.0, 0.0), (inner, inner), 0.0, heart.left_waves) if inner > 2.5 else None
    outer_blob = Blob((0.0, 0.0), (outer, outer), 0.0, (*heart.left_waves, *around)) if outer > 4 else None
    width, height = heart.right_width * right, heart.right_height * (0.35 + 0.65 * right)
    away = outer - 0.3 * width
    at = (away * np.cos(heart.towards_right), away * np.sin(heart.towards_right))
    right_blob = (
        Blob(at, (1.3 * width, height), heart.towards_right, heart.right_waves) if width > 5 else None
    )
    return Cut(left_blob, outer_blob, right_blob, soft)


def _taper(depth: float, length: float) -> float:
    """Of the radius at the base, what is left of it at `depth`: less and less quickly, to 0 at `length`."""
    share = max(depth, 0.0) / length
    if share > 0.55:
        return float(np.sqrt(max(0.0, 1 - share)))
    return float(1 - (1 - np.sqrt(0.45)) * (share / 0.55) ** 2)


@dataclass(frozen=True)
class Ring:
    """Something bright with a grey wall, like the left side of a heart, between two depths."""

    bright: Blob
    wall: float
    depths: Point
    crescent: float | None  # the angle of a second bright thing beside it


class Patient:
    """A heart, what lies around it, and how this scanner sees it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.heart, self.greys = Heart.draw(rng), Greys.draw(rng)
        self.turn = rng.normal(0, 0.25)
        self.trunk = Blob(self._at(rng, -25, -15, 8), (rng.normal(172, 14), rng.normal(122, 11)), self.turn)
        self.rim = rng.uniform(7, 30)
        self.lungs = [
            Blob(self._at(rng, x, -8, 8), (rng.normal(48, 6), rng.normal(72, 8)), self.turn, wavy(rng, 0.06))
            for x in (-122, 88)
        ]
        self.spine = self._at(rng, -38, -92, 6)
        self.aorta = Blob(self._at(rng, -5, -72, 6), (rng.uniform(9, 15),) * 2)
        self.liver = Blob(
            self._at(rng, -95, -20, 12), (rng.normal(78, 8), rng.normal(66, 8)), self.turn, wavy(rng, 0.1)
        )
        self.liver_from = rng.uniform(5, 50)
        self.veins = [
            (
                Blob(
                    self._at(rng, *rng.normal((-90, -15), (35, 30)), 0),
                    (rng.uniform(3, 11), rng.uniform(3, 9)),
                    rng.uniform(0, 3.1),
                ),
                rng.uniform(-0.5, 0.5, 2),
            )
            for _ in range(rng.integers(5, 11))
        ]
        self.stomach = Blob(
            self._at(rng, 82, -22, 10), (rng.uniform(20, 42), rng.uniform(18, 34)), 0.4, wavy(rng, 0.12)
        )
        self.stomach_from, self.stomach_wall = rng.uniform(10, 55), rng.uniform(3, 9)
        self.spleen = Blob(self._at(rng, 112, -55, 8), (rng.uniform(16, 28), rng.uniform(30, 48)), 0.5)
        self.rings = [self._ring(rng) for _ in range(rng.integers(2, 6))]
        self.fat_around = rng.uniform(1, 12)
        self.around = 0.5 * (self.greys.between + rng.uniform(0.3, 1) * self.greys.fat)
        self.atrium = Blob(
            self._at(rng, 4, -6, 5), (rng.uniform(24, 38), rng.uniform(20, 30)), 0.3, wavy(rng, 0.08)
        )
        self.outflow = Blob(
            self._at(rng, -30, 22, 6), (rng.uniform(14, 24), rng.uniform(12, 22)), 0.6, wavy(rng, 0.08)
        )
        self.tilt = rng.uniform(-0.12, 0.12, 2)  # mm that the heart's axis moves across a mm of depth
        self.trabeculae = rng.uniform(0.2, 0.6)
        self.texture = rng.uniform(0.02, 0.1)

    def _at(self, rng: np.random.Generator, x: float, y: float, spread: float) -> Point:
        """A place in the trunk, which is turned about the heart."""
        x, y = x + rng.normal(0, spread), y + rng.normal(0, spread)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return float(cos * x - sin * y), float(sin * x + cos * y)

    def _ring(self, rng: np.random.Generator) -> Ring:
        """Somewhere in the trunk, clear of the heart."""
        inner, inside = self.trunk.grown(-self.rim - 25), 1.0
        while inside > 0:
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(CLEAR_MM, 150)
            at = float(far * np.cos(angle)), float(far * np.sin(angle))
            inside = float(inner.distance(np.float32([[at[0]]]), np.float32([[at[1]]]))[0, 0])
        radius = rng.uniform(9, 26)
        first = rng.uniform(-20, 60)
        return Ring(
            Blob(at, (radius, radius * rng.uniform(0.8, 1.2)), 0.0, wavy(rng, 0.06)),
            rng.uniform(5, 13),
            (first, first + rng.uniform(25, 90)),
            rng.uniform(-1.2, 1.2) if rng.random() < 0.5 else None,
        )


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
        """Fields of view differ by a factor of two; one stack in twelve has pixels of half the size."""
        pixel = rng.uniform(1.2, 1.8)
        interpolated = rng.random() < 1 / 12
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
    bright, sigma = rng.uniform(120, 700), rng.uniform(0.05, 0.16)
    coil = rng.normal(0, (0.22, 0.22, 0.1, 0.1))
    ghost, ghost_at = max(0.0, rng.normal(0.0, 0.05)), int(rng.integers(20, 60))
    base = rng.normal(0, 3.5)  # where this observer says that the ventricles begin
    for k in range(scanner.shape[2]):
        depth = scanner.first_mm + k * scanner.thickness_mm
        breath = rng.normal(0, 1.8, 2)
        at = breath + np.array(person.tilt) * (depth - heart.length / 2)
        canvas = Canvas(scanner.shape[:2], scanner.pixel_mm, scanner.middle)
        paint_surroundings(canvas, person, depth, breath)
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
            drawn = blob.moved(*(at + rng.normal(0, 0.5, 2))).grown(rng.normal(0, 0.6))
            where = canvas.window(drawn, 1)
            label[where][canvas.distance(drawn, where) < 0] = LABELS[name]


def affine(scanner: Scanner, *, lost: bool) -> npt.NDArray[np.float64]:
    """Of the file; where spacing was lost, voxels are said to be 1 × 1 × 1 mm."""
    return np.diag([1.0, 1, 1, 1] if lost else [scanner.pixel_mm, scanner.pixel_mm, scanner.thickness_mm, 1])
