"""Makes small synthetic CT volumes of an upper abdomen, with labels, as a Decathlon dataset.

    python sample_data/make_phantoms.py --out FOLDER --cases 12 --seed 1
    python sample_data/make_phantoms.py --out FOLDER --cases 1 --test-cases 0 --shape 512 512 300
    python sample_data/make_phantoms.py --out FOLDER --cases 40 --organs

An anatomy is a set of shapes in the patient's millimetres (x to the right, y to the front, z to the head,
nibabel's RAS+). A grid with any spacing, orientation or rotation is laid over it, so shape and scanner are
independent. Voxels average the tissue they cover; their label is that of the tissue at their centre.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

# float64 throughout: in float32 another processor's sine would round some voxels to another integer.
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LABELS = {"background": 0, "liver": 1, "tumour": 2}
FOLDS = 4
SUBVOXEL_MM = 2.2


class Tissue(IntEnum):
    """What a point in the patient is made of."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    LUNG = 3
    BONE = 4
    MARROW = 5
    BOWEL = 6
    STOMACH = 7
    HEART = 8
    BLOOD = 9
    SPLEEN = 10
    KIDNEY = 11
    KIDNEY_CORE = 12
    GALLBLADDER = 13
    LIVER = 14
    LIVER_VESSEL = 15
    TUMOUR = 16


# Mean HU of each tissue, and how far a patient's own mean may lie from it.
HU: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1000, 0),
    Tissue.FAT: (-95, 8),
    Tissue.MUSCLE: (50, 4),
    Tissue.LUNG: (-800, 30),
    Tissue.BONE: (420, 60),
    Tissue.MARROW: (170, 30),
    Tissue.BOWEL: (30, 8),
    Tissue.STOMACH: (18, 10),
    Tissue.HEART: (48, 5),
    Tissue.BLOOD: (110, 30),
    Tissue.SPLEEN: (55, 5),
    Tissue.KIDNEY: (90, 30),
    Tissue.KIDNEY_CORE: (35, 8),
    Tissue.GALLBLADDER: (10, 4),
    Tissue.LIVER: (62, 4),
    Tissue.LIVER_VESSEL: (88, 8),
    Tissue.TUMOUR: (26, 5),
}
# The same where organs can be told by their place alone: those of soft tissue are as dense as one another.
ALIKE: dict[Tissue, tuple[float, float]] = {
    **HU,
    Tissue.MUSCLE: (57, 8),
    Tissue.SPLEEN: (58, 9),
    Tissue.KIDNEY: (60, 9),
    Tissue.KIDNEY_CORE: (54, 9),
    Tissue.LIVER: (58, 9),
    Tissue.LIVER_VESSEL: (66, 9),
    Tissue.HEART: (58, 9),
    Tissue.BLOOD: (66, 12),
    Tissue.BOWEL: (45, 14),
    Tissue.STOMACH: (30, 20),
    Tissue.GALLBLADDER: (20, 8),
    Tissue.TUMOUR: (30, 8),
}
TEXTURED = [Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.TUMOUR, Tissue.SPLEEN, Tissue.MUSCLE]
LABEL_OF = np.zeros(len(Tissue), np.uint8)
LABEL_OF[[Tissue.LIVER, Tissue.LIVER_VESSEL]] = LABELS["liver"]
LABEL_OF[Tissue.TUMOUR] = LABELS["tumour"]


@dataclass(frozen=True)
class Waves:
    """A smooth random function of position: a sum of sines, of standard deviation about `amplitude`."""

    amplitude: float
    frequency: Floats  # (waves, 3), radians per mm
    phase: Floats  # (waves,)

    @classmethod
    def draw(
        cls, rng: np.random.Generator, amplitude: float, wavelength_mm: tuple[float, float], count: int = 4
    ) -> "Waves":
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        frequency = direction * (2 * np.pi / rng.uniform(*wavelength_mm, size=(count, 1)))
        return cls(amplitude, frequency, rng.uniform(0, 2 * np.pi, count))

    def __call__(self, x: Floats, y: Floats, z: Floats) -> Floats:
        total = np.zeros(x.shape)
        for (a, b, c), phase in zip(self.frequency, self.phase):
            total += np.sin(a * x + b * y + c * z + phase)
        return total * (self.amplitude * np.sqrt(2 / len(self.phase)))


@dataclass(frozen=True)
class Ellipsoid:
    """A turned ellipsoid, in mm."""

    centre: Floats
    inverse: Floats  # (3, 3): from the offset to the centre, to the unit ball

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        centre: npt.ArrayLike,
        radii: npt.ArrayLike,
        *,
        shift_mm: float = 6,
        tilt_degrees: float = 12,
    ) -> "Ellipsoid":
        turn = rotation(rng.normal(0, tilt_degrees, 3))
        size = np.asarray(radii) * rng.uniform(0.88, 1.12, 3)
        return cls(np.asarray(centre) + rng.normal(0, shift_mm, 3), turn / size[:, None])

    def __call__(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Squared distance from the centre in units of the radii: below 1 inside."""
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        squares = [(a * dx + b * dy + c * dz) ** 2 for a, b, c in self.inverse]
        return squares[0] + squares[1] + squares[2]


class Anatomy:
    """One patient: shapes drawn at random around a plausible upper abdomen."""

    def __init__(
        self,
        rng: np.random.Generator,
        tumours: int,
        *,
        hu: Mapping[Tissue, tuple[float, float]] = HU,
        tumour_mm: tuple[float, float] = (8, 22),
    ) -> None:
        def organ(*centre: float, radii: npt.ArrayLike, **spread: float) -> Ellipsoid:
            return Ellipsoid.draw(rng, centre, radii, **spread)

        self.mean_hu = np.array([rng.normal(mean, spread / 2) for mean, spread in hu.values()])
        self.size = rng.uniform(0.92, 1.08, 3)
        self.warp = [Waves.draw(rng, 2.5, (70, 160), count=3) for _ in range(3)]
        self.texture = Waves.draw(rng, 4.0, (9, 40), count=12)
        self.liver_bumps = Waves.draw(rng, 2.5, (40, 80))
        self.body_radii = np.array([165, 112]) * rng.uniform(0.96, 1.04, 2)
        self.fat_share = rng.uniform(0.86, 0.93)
        self.dome = {"right": rng.normal(72, 6), "left": rng.normal(58, 6)}
        self.liver_slope = rng.uniform(0.5, 0.85)
        self.liver_bottom = rng.normal(-72, 8)
        self.liver_body = organ(55, 12, 8, radii=(112, 92, 98), tilt_degrees=6)
        self.stomach = organ(-62, 25, 12, radii=(45, 38, 48))
        self.spleen = organ(-98, -42, 14, radii=(27, 40, 46))
        self.kidneys = [organ(side * 62, -55, -52, radii=(24, 22, 48)) for side in (-1, 1)]
        self.gallbladder = organ(45, 42, -32, radii=(14, 22, 16))
        self.heart = organ(-20, 25, 105, radii=(52, 42, 48))
        self.bowel = Waves.draw(rng, 1.0, (28, 60), count=6)
        self.disc_phase = rng.uniform(0, 35)
        porta = np.array([28.0, -5.0, 5.0]) + rng.normal(0, 4, 3)
        ends = [(105, -25, 10), (80, 45, 20), (70, 0, 50), (-15, 45, 30)]
        self.vessels = [(porta, np.array(end) + rng.normal(0, 8, 3), rng.uniform(2.5, 4.5)) for end in ends]
        self.tumours: list[Ellipsoid] = []
        for _ in range(tumours):
            self.tumours.append(self._draw_tumour(rng, tumour_mm))

    def _draw_tumour(self, rng: np.random.Generator, radii_mm: tuple[float, float]) -> Ellipsoid:
        """An ellipsoid that lies wholly in the liver and touches no other."""
        while True:
            radius = rng.uniform(*radii_mm)
            centre = rng.uniform((-50, -70, -80), (140, 90, 90))
            surface = rng.normal(size=(60, 3))
            surface *= radius / np.linalg.norm(surface, axis=1, keepdims=True)
            if np.isin(self.tissue(*(centre + surface).T), [Tissue.LIVER, Tissue.LIVER_VESSEL]).all():
                radii = radius * rng.uniform(0.75, 0.95, 3)
                # Shapes live behind the patient's own deformation, so the centre goes there first.
                return Ellipsoid.draw(rng, np.ravel(self._deform(*centre[:, None])), radii, shift_mm=0)

    def _deform(self, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
        moved = [(p + wave(x, y, z)) / size for p, wave, size in zip((x, y, z), self.warp, self.size)]
        return moved[0], moved[1], moved[2]

    def tissue(self, x: Floats, y: Floats, z: Floats) -> npt.NDArray[np.uint8]:
        """The Tissue at each point (mm, RAS+). Later shapes lie over earlier ones."""
        x, y, z = self._deform(x, y, z)
        trunk = np.sqrt((x / self.body_radii[0]) ** 2 + (y / self.body_radii[1]) ** 2)
        body = trunk < 1
        found = np.full(x.shape, Tissue.AIR, np.uint8)
        found[body] = self._tissue_of_body(x[body], y[body], z[body], trunk[body])
        return found

    def _tissue_of_body(self, x: Floats, y: Floats, z: Floats, trunk: Floats) -> npt.NDArray[np.uint8]:
        found = np.full(x.shape, Tissue.FAT, np.uint8)

        def paint(where: Mask, tissue: Tissue) -> None:
            found[where] = tissue

        wall = self.fat_share - 0.07
        cavity = trunk < wall
        paint(trunk < self.fat_share, Tissue.MUSCLE)
        paint(cavity, Tissue.FAT)
        loops = np.zeros(x.shape)
        belly = cavity & (z < 10) & (y > -35)
        loops[belly] = self.bowel(x[belly], y[belly], z[belly])
        paint(loops > 0.35, Tissue.BOWEL)
        paint((loops > 1.9) & (y > 10), Tissue.AIR)
        paint((((np.abs(x) - 34) / 24) ** 2 + ((y + 78) / 20) ** 2 < 1), Tissue.MUSCLE)
        paint(self.stomach(x, y, z) < 1, Tissue.STOMACH)
        paint((self.stomach(x, y, z) < 0.75) & (y > self.stomach.centre[1] + 12), Tissue.AIR)

        dome = self._dome(x, y)
        paint(self._liver(x, y, z, cavity & (trunk < wall - 0.015), dome), Tissue.LIVER)
        liver = found == Tissue.LIVER
        found[liver] = self._tissue_of_liver(x[liver], y[liver], z[liver])

        paint(self.gallbladder(x, y, z) < 1, Tissue.GALLBLADDER)
        paint((self.spleen(x, y, z) < 1) & cavity & (z < dome - 4), Tissue.SPLEEN)
        for kidney in self.kidneys:
            level = kidney(x, y, z)
            paint(level < 1.3, Tissue.FAT)
            paint(level < 1, Tissue.KIDNEY)
            paint(level < 0.3, Tissue.KIDNEY_CORE)
        paint(cavity & (z > dome) & (np.hypot(x, (y + 60) / 2) > 22), Tissue.LUNG)
        paint((self.heart(x, y, z) < 1) & (z > dome), Tissue.HEART)
        self._paint_bones_and_great_vessels(paint, x, y, z, trunk - wall)
        return found

    def _tissue_of_liver(self, x: Floats, y: Floats, z: Floats) -> npt.NDArray[np.uint8]:
        found = np.full(x.shape, Tissue.LIVER, np.uint8)
        for start, end, radius in self.vessels:
            found[segment_distance(x, y, z, start, end) < radius] = Tissue.LIVER_VESSEL
        for tumour in self.tumours:
            found[tumour(x, y, z) < 1] = Tissue.TUMOUR
        return found

    def _dome(self, x: Floats, y: Floats) -> Floats:
        """Height of the diaphragm above each (x, y)."""
        sides = [(80, self.dome["right"]), (-80, self.dome["left"])]
        right, left = (top - 75 * (((x - at) / 130) ** 2 + (y / 115) ** 2) for at, top in sides)
        return np.maximum(np.maximum(right, left), -60)

    def _liver(self, x: Floats, y: Floats, z: Floats, cavity: Mask, dome: Floats) -> Mask:
        bumps = self.liver_bumps(x, y, z)
        # The lower surface rises from the tip of the right lobe to the thin left lobe.
        floor = self.liver_bottom + self.liver_slope * np.maximum(100 - x, 0) + bumps
        behind = y > -62 + 0.35 * np.maximum(60 - x, 0)
        return cavity & behind & (z < dome - 4) & (z > floor) & (self.liver_body(x, y, z) < 1 + bumps / 40)

    def _paint_bones_and_great_vessels(
        self, paint: Callable[[Mask, Tissue], None], x: Floats, y: Floats, z: Floats, wall: Floats
    ) -> None:
        rib = np.cos(2 * np.pi * (z - 0.55 * y) / 30) > 0.72
        paint((np.abs(wall - 0.035) < 0.026) & rib & (z > -70 - 0.4 * y) & (np.abs(x) > 30), Tissue.BONE)
        vertebra = (x / 23) ** 2 + ((y + 62) / 19) ** 2
        height = (z + self.disc_phase) % 35
        paint(vertebra < 1, Tissue.BONE)
        paint((vertebra < 0.75) & (height > 3), Tissue.MARROW)
        paint((vertebra < 1) & (height > 29), Tissue.MUSCLE)
        arch = (x / 26) ** 2 + ((y + 92) / 14) ** 2
        paint(arch < 1, Tissue.BONE)
        paint(np.hypot(x, y + 88) < 9, Tissue.STOMACH)
        paint(np.hypot(x + 10, y + 32) < 10, Tissue.BLOOD)
        paint(np.hypot((x - 20) / 12, (y + 32) / 9) < 1, Tissue.BLOOD)

    def hu(self, tissue: npt.NDArray[np.uint8], x: Floats, y: Floats, z: Floats) -> Floats:
        """HU at each point, without noise."""
        values = self.mean_hu[tissue]
        textured = np.isin(tissue, TEXTURED)
        values[textured] += self.texture(x[textured], y[textured], z[textured])
        return values


@dataclass(frozen=True)
class Grid:
    """Where a scanner puts its voxels, and how the file stores them."""

    shape: tuple[int, ...]
    affine: Floats
    dtype: str = "int16"

    @property
    def spacing_mm(self) -> Floats:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def slice_points(self, k: int, parts: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
        """World coordinates of slice `k` of the last axis, each voxel cut into `parts` per axis."""
        axes = [(np.arange(n * p) + 0.5) / p - 0.5 for n, p in zip((*self.shape[:2], 1), parts)]
        i, j, d = np.meshgrid(*axes, indexing="ij")
        moved = [row[0] * i + row[1] * j + row[2] * (d + k) + row[3] for row in self.affine[:3]]
        return moved[0], moved[1], moved[2]


def rotation(degrees: npt.ArrayLike) -> Floats:
    """A (3, 3) rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one = np.eye(3)
        i, j = [n for n in range(3) if n != axis]
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        matrix = one @ matrix
    return matrix


def segment_distance(x: Floats, y: Floats, z: Floats, start: Floats, end: Floats) -> Floats:
    """Distance in mm from each point to the segment from `start` to `end`."""
    along = end - start
    dx, dy, dz = x - start[0], y - start[1], z - start[2]
    t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / (along @ along), 0, 1)
    return np.sqrt((dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2)


def draw_grid(rng: np.random.Generator, index: int, shape: tuple[int, ...] | None) -> Grid:
    """The grid of case `index`, around the whole trunk."""
    if shape:
        extent = np.array([380.0, 380.0, 300.0])
        spacing = extent / shape
        counts = np.array(shape)
    else:
        inplane = rng.uniform(3.2, 4.2)
        spacing = np.round([inplane, inplane, rng.uniform(4.0, 6.0)], 2)
        extent = np.array([rng.uniform(335, 380), rng.uniform(235, 280), rng.uniform(195, 230)])
        counts = np.round(extent / spacing).astype(int)
    return lay_grid(index, counts, spacing, np.array([0.0, 0.0, rng.uniform(-12, 8)]))


def draw_thick_grid(rng: np.random.Generator, index: int, shape: tuple[int, ...] | None) -> Grid:
    """Slices of 6 to 8 mm, and fields of view of which one may be twice as wide as another."""
    extent = np.array([rng.uniform(210, 390), rng.uniform(175, 290), rng.uniform(115, 230)])
    inplane = rng.uniform(2.2, 3.2)
    spacing = np.round([inplane, inplane, rng.uniform(6.0, 8.0)], 2)
    counts = np.array(shape) if shape else np.round(extent / spacing).astype(int)
    spacing = extent / counts if shape else spacing
    return lay_grid(index, counts, spacing, rng.normal((0.0, -5.0, -5.0), (22, 12, 15)))


def lay_grid(index: int, counts: Floats, spacing: Floats, centre: Floats) -> Grid:
    """Orientations and types take turns; case 4 of every 12 is oblique."""
    oblique = rotation((10, -7, 14)) if index % 12 == 4 else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = oblique * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((counts - 1) / 2)

    orientation = ("LPS", "RAS", "LPS", "LAS", "LPS", "PSR")[index % 6]
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    turned = affine @ inv_ornt_aff(turn, counts)
    order = np.argsort(turn[:, 0]).astype(int)
    stored = tuple(int(n) for n in counts[order])
    return Grid(stored, turned, ("int16", "int16", "int32", "float32")[index % 4])


@dataclass(frozen=True)
class Recipe:
    """What a dataset of phantoms is about: its labels, how dense tissues are, and how they are scanned.

    `right` and `left`: the label of each tissue in either half of the patient. `tumour_mm`: radii.
    """

    name: str
    labels: Mapping[str, int]
    right: npt.NDArray[np.uint8]
    left: npt.NDArray[np.uint8]
    hu: Mapping[Tissue, tuple[float, float]]
    tumour_mm: tuple[float, float]
    draw_grid: Callable[[np.random.Generator, int, tuple[int, ...] | None], Grid]

    @classmethod
    def of(cls, name: str, labels: Mapping[str, Sequence[Tissue]], **how: Any) -> "Recipe":
        """Labels are numbered in order; `left …` and `right …` name halves."""
        sides = {side: np.zeros(len(Tissue), np.uint8) for side in ("right", "left")}
        for value, (label, tissues) in enumerate(labels.items(), 1):
            for side, table in sides.items():
                if label.partition(" ")[0] in (side, label):
                    table[list(tissues)] = value
        numbers = {"background": 0, **{label: value for value, label in enumerate(labels, 1)}}
        return cls(name, numbers, sides["right"], sides["left"], **how)

    def label(self, tissue: npt.NDArray[np.uint8], x: Floats) -> npt.NDArray[np.uint8]:
        """The label of each tissue at `x` mm to the patient's right."""
        return np.where(x > 0, self.right[tissue], self.left[tissue])


PHANTOMS = Recipe("phantoms", LABELS, LABEL_OF, LABEL_OF, HU, (8, 22), draw_grid)
ORGANS = Recipe.of(
    "organs",
    {
        "liver": [Tissue.LIVER, Tissue.LIVER_VESSEL],
        "spleen": [Tissue.SPLEEN],
        "right kidney": [Tissue.KIDNEY, Tissue.KIDNEY_CORE],
        "left kidney": [Tissue.KIDNEY, Tissue.KIDNEY_CORE],
        "gallbladder": [Tissue.GALLBLADDER],
        "tumour": [Tissue.TUMOUR],
    },
    hu=ALIKE,
    tumour_mm=(4.5, 9),
    draw_grid=draw_thick_grid,
)
"""Organs that are told apart by where they are and not by how dense they are, in thick slices, and tumours of
about ten voxels."""


def render(
    anatomy: Anatomy, grid: Grid, rng: np.random.Generator, recipe: Recipe = PHANTOMS
) -> tuple[npt.NDArray, npt.NDArray[np.uint8]]:
    """The image in HU and its label map, slice by slice so that memory stays near the result's own size."""
    parts = tuple(int(np.clip(round(s / SUBVOXEL_MM), 1, 3)) for s in grid.spacing_mm)
    image = np.empty(grid.shape, grid.dtype)
    label = np.empty(grid.shape, np.uint8)
    sigma_hu = rng.uniform(8, 13)
    nx, ny = grid.shape[:2]
    for k in range(grid.shape[2]):
        points = grid.slice_points(k, parts)
        tissue = anatomy.tissue(*points)
        fine = anatomy.hu(tissue, *points)
        clean = fine.reshape(nx, parts[0], ny, parts[1], parts[2]).mean(axis=(1, 3, 4))
        white = rng.normal(0, sigma_hu, (nx + 1, ny + 1))
        noise = 0.8 * white[1:, 1:] + 0.42 * white[:-1, 1:] + 0.42 * white[1:, :-1]  # neighbours share some
        image[..., k] = np.clip(np.round(clean + noise), -1024, 3071)
        if parts != (1, 1, 1):
            points = grid.slice_points(k, (1, 1, 1))
            tissue = anatomy.tissue(*points)
        label[..., k] = recipe.label(tissue, points[0])[..., 0]
    return image, label


def make_case(
    seed: int, index: int, shape: tuple[int, ...] | None = None, recipe: Recipe = PHANTOMS
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image and label of case `index`: a pure function of its arguments."""
    rng = np.random.default_rng([seed, index])
    tumours = 0 if index % 6 == 2 else int(rng.integers(1, 4))
    anatomy = Anatomy(rng, tumours, hu=recipe.hu, tumour_mm=recipe.tumour_mm)
    grid = recipe.draw_grid(rng, index, shape)
    image, label = render(anatomy, grid, rng, recipe)
    return nifti(image, grid), nifti(label, grid)


def nifti(voxels: npt.NDArray, grid: Grid) -> nib.Nifti1Image:
    image = nib.Nifti1Image(voxels, grid.affine)
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def save(image: nib.Nifti1Image, path: Path) -> None:
    """Write with no time stamp or file name inside, so that the same voxels give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as file:
        file.write(image.to_bytes())


def folds(names: Sequence[str]) -> list[dict[str, list[str]]]:
    """Every FOLDS-th case is held out in turn."""
    parts = [names[k::FOLDS] for k in range(min(FOLDS, len(names)))] if len(names) > 1 else []
    return [{"train": [n for n in names if n not in held], "val": list(held)} for held in parts]


def make_dataset(
    out: Path,
    *,
    cases: int,
    test_cases: int,
    seed: int,
    shape: tuple[int, ...] | None = None,
    recipe: Recipe = PHANTOMS,
) -> None:
    """Write a dataset in the Medical Segmentation Decathlon's layout."""
    names = [f"phantom_{index:03d}" for index in range(cases + test_cases)]
    for index, name in enumerate(names):
        image, label = make_case(seed, index, shape, recipe)
        held_back = index >= cases
        save(image, out / ("imagesTs" if held_back else "imagesTr") / f"{name}.nii.gz")
        if not held_back:
            save(label, out / "labelsTr" / f"{name}.nii.gz")
        print(f"{name}: {image.shape}, {nib.aff2axcodes(image.affine)}, {image.get_data_dtype()}", flush=True)
    description = {
        "name": recipe.name,
        "description": "Synthetic CT of the upper abdomen; made by make_phantoms.py",
        "licence": "Apache-2.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in recipe.labels.items()},
        "numTraining": cases,
        "numTest": test_cases,
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names[:cases]
        ],
        "test": [f"./imagesTs/{n}.nii.gz" for n in names[cases:]],
    }
    (out / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    if splits := folds(names[:cases]):
        (out / "splits_final.json").write_text(json.dumps(splits, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes synthetic CT volumes with labels.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the dataset's folder")
    parser.add_argument("--cases", type=int, default=12, help="cases with a label")
    parser.add_argument("--test-cases", type=int, default=2, help="further cases without one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=3, help="voxels (x, y, z); varied where not given")
    parser.add_argument(
        "--organs",
        action="store_true",
        help="spleen, kidneys and more, all as dense, in thick slices and fields of view that vary",
    )
    given = parser.parse_args()
    shape = tuple(given.shape) if given.shape else None
    make_dataset(
        given.out,
        cases=given.cases,
        test_cases=given.test_cases,
        seed=given.seed,
        shape=shape,
        recipe=ORGANS if given.organs else PHANTOMS,
    )


if __name__ == "__main__":
    main()
