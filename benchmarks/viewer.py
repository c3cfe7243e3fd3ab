"""How long `medfuse view` takes for 512 × 512 × 400 voxels of 60 classes, and a browser to show its page.

    python benchmarks/viewer.py [FOLDER]

The browser is Chromium without a graphics card, as tests drive it; the page counts as shown once a frame with
three planes and the volume in 3-D has been drawn.
"""

import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

from medfuse.core.memory import bytes_text
from medfuse.core.reporter import Reporter
from medfuse.verbs.view import view

ROOT = Path(__file__).parents[1]
SHAPE, CLASSES = (512, 512, 400), 60
AFFINE = np.diag([-0.75, 0.75, 1.25, 1.0])


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))  # which are no package
    from chromium import chromium

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    scan, labels = folder / "scan.nii.gz", folder / "labels.nii.gz"
    if not labels.exists():
        make(scan, labels)
    began = time.perf_counter()
    view(
        scan,
        [labels],
        output=folder / "page.html",
        most_bytes=80_000_000,
        overwrite=True,
        reporter=Reporter(),
    )
    written = time.perf_counter() - began
    print(f"written in {written:.1f} s: {bytes_text((folder / 'page.html').stat().st_size)}")
    with chromium() as tab:
        tab.size(1280, 800)
        began = time.perf_counter()
        tab.open(folder / "page.html", timeout=300)
        tab.frames(1)
        print(f"shown in {time.perf_counter() - began:.1f} s")
        print(
            "asked for:", {url.partition(":")[0] for url in tab.requests}, "console:", tab.console or "empty"
        )


def make(scan: Path, labels: Path) -> None:
    """A noisy CT of blobs: every voxel's nearest centre, where it is near enough, is its class."""
    random = np.random.default_rng(0)
    coarse = tuple(n // 4 for n in SHAPE)
    centres = random.uniform(0.15, 0.85, (CLASSES, 3)) * coarse
    grid = np.stack(np.meshgrid(*map(np.arange, coarse), indexing="ij"), axis=-1)
    near, mark = np.full(coarse, 11.0), np.zeros(coarse, np.uint8)
    for number, centre in enumerate(centres, start=1):
        distance = np.sqrt(((grid - centre) ** 2).sum(axis=-1))
        inside = distance < near
        near[inside], mark[inside] = distance[inside], number
    body = (((grid / coarse - 0.5) ** 2)[..., :2].sum(axis=-1) < 0.2).astype(np.float32)
    values = gaussian_filter(body * 1050 + (mark > 0) * random.uniform(-60, 120, 61)[mark], 1) - 1000
    big = values.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.float32)
    big += random.standard_normal(SHAPE, dtype=np.float32) * 20
    nibabel.save(nibabel.Nifti1Image(big.round().astype(np.int16), AFFINE), scan)
    nibabel.save(nibabel.Nifti1Image(mark.repeat(4, 0).repeat(4, 1).repeat(4, 2), AFFINE), labels)


if __name__ == "__main__":
    main()
