"""Who is seen in the synthetic MR of hearts: a heart, what lies around it, and things that look like one.

In millimetres on the plane of a slice: x to the patient's left, y to the front, the middle of the left cavity
at 0; `depth` runs from the base of the heart at 0 to beyond its apex.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from blobs import Blob, Point, Waves, wavy

CLEAR_MM, DOUBLE_MM = 75.0, 95.0
"""How far from the heart a ring lies at least, and a double of the heart."""


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
        muscle = rng.uniform(0.28, 0.55)
        return cls(
            muscle=muscle,
            fat=rng.uniform(0.5, 1.1),
            lung=rng.uniform(0.05, 0.25),
            between=rng.uniform(0.15, 0.65),
            right=rng.uniform(0.9, 1.05),
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
    left_waves: Waves
    wall_waves: Waves
    right_waves: Waves
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


@dataclass(frozen=True)
class Double:
    """Something that is a heart in all but its place: nothing within a hand's breadth tells it from one."""

    heart: Heart
    at: Point
    base: float  # its depth


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
        self.rings = [self._ring(rng) for _ in range(rng.integers(1, 4))]
        self.doubles = [
            Double(Heart.draw(rng), self._away(rng, DOUBLE_MM), rng.normal(10, 20))
            for _ in range((1, 1, 1, 2)[rng.integers(4)])
        ]
        self.fat_around = rng.uniform(1, 12)
        self.around = 0.5 * (self.greys.between + rng.uniform(0.2, 0.8) * self.greys.fat)
        self.atrium = Blob(
            self._at(rng, 4, -6, 5), (rng.uniform(24, 38), rng.uniform(20, 30)), 0.3, wavy(rng, 0.08)
        )
        self.outflow = Blob(
            self._at(rng, -30, 22, 6), (rng.uniform(14, 24), rng.uniform(12, 22)), 0.6, wavy(rng, 0.08)
        )
        self.tilt = rng.uniform(-0.12, 0.12, 2)  # mm that the heart's axis moves across a mm of depth
        self.trabeculae = rng.uniform(0.2, 0.5)
        self.texture = rng.uniform(0.01, 0.05)

    def _at(self, rng: np.random.Generator, x: float, y: float, spread: float) -> Point:
        """A place in the trunk, which is turned about the heart."""
        x, y = x + rng.normal(0, spread), y + rng.normal(0, spread)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return float(cos * x - sin * y), float(sin * x + cos * y)

    def _away(self, rng: np.random.Generator, clear_mm: float) -> Point:
        """Somewhere in the trunk, clear of the heart."""
        inner, inside = self.trunk.grown(-self.rim - 25), 1.0
        while inside > 0:
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(clear_mm, 160)
            at = float(far * np.cos(angle)), float(far * np.sin(angle))
            inside = float(inner.distance(np.float32([[at[0]]]), np.float32([[at[1]]]))[0, 0])
        return at

    def _ring(self, rng: np.random.Generator) -> Ring:
        at = self._away(rng, CLEAR_MM)
        radius = rng.uniform(9, 26)
        first = rng.uniform(-20, 60)
        return Ring(
            Blob(at, (radius, radius * rng.uniform(0.8, 1.2)), 0.0, wavy(rng, 0.06)),
            rng.uniform(5, 13),
            (first, first + rng.uniform(25, 90)),
            rng.uniform(-1.2, 1.2) if rng.random() < 0.5 else None,
        )
