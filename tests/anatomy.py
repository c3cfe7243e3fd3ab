"""A tiny made-up anatomy, in as many patients as a test wants: two organs in a body, unlike in brightness."""

from pathlib import Path

import nibabel
import numpy as np

SHAPE = (30, 34, 26)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def patient(seed: int, *, ct: bool = False, shape=SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map (1, 2), RAS+. MR has a gain of its own, CT is in Hounsfield units."""
    random = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")
    moved = random.normal(0, 0.6, 3)
    size = random.uniform(0.93, 1.07, 3)

    def ball(centre, radii) -> np.ndarray:
        c, r = np.array(centre) + moved, np.array(radii) * size
        return ((x - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + ((z - c[2]) / r[2]) ** 2 < 1

    image = np.full(shape, 0.0 if not ct else -1000.0)
    image[ball((0, 0, 0), (13, 15, 12))] = 0.4 if not ct else 0
    image[ball((0, -11, 0), (3, 3, 9))] = 1.2 if not ct else 600
    label = np.zeros(shape, np.uint8)
    for value, where, bright in (
        (1, ball((5, 3, 2), (6, 8, 6)), 0.8 if not ct else 120),
        (2, ball((-6, 4, -3), (4, 5, 5)), 0.6 if not ct else 60),
    ):
        label[where], image[where] = value, bright
    if ct:
        return (image + random.normal(0, 12, shape)).astype(np.int16), label
    return ((image + random.normal(0, 0.04, shape)) * random.uniform(100, 1000)).astype(np.float32), label


def write(root: Path, name: str, image: np.ndarray, label: np.ndarray, affine=AFFINE) -> None:
    for folder, voxels in (("images", image), ("labels", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, affine), root / folder / f"{name}.nii.gz")


def dataset(root: Path, cases: int, *, ct: bool = False) -> Path:
    for seed in range(cases):
        write(root, f"p{seed:02d}", *patient(seed, ct=ct))
    return root
