"""How long a DICOM segmentation of many labels takes to write, and how much memory beside the label map.

python benchmarks/dicom_seg.py                                   # 117 labels, 512 × 512 × 400
python benchmarks/dicom_seg.py --labels 117 --size 512 512 400 --seg-type binary

Labels are balls in a body, so that a slice has some tens of them, as in a scan of the trunk.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from medfuse.core.label_table import entries_of
from medfuse.core.memory import memory_growth
from medfuse.volumes.dicom.about import About
from medfuse.volumes.dicom.index import FrameRecord, Index, Source
from medfuse.volumes.dicom.seg import write_seg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--labels", type=int, default=117)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 400))
    parser.add_argument("--seg-type", choices=("labelmap", "binary"), default="labelmap")
    given = parser.parse_args()
    labels = organs(tuple(given.size), given.labels)
    entries = entries_of({"background": 0, **{f"organ {n}": n for n in range(1, given.labels + 1)}})
    with tempfile.TemporaryDirectory() as folder:
        index = series(Path(folder), tuple(given.size))
        path = Path(folder) / "x.dcm"
        write_seg(
            path, labels[:, :, :2], series(Path(folder), (*given.size[:2], 2)), entries, About()
        )  # imports
        with memory_growth() as growth:
            began = time.perf_counter()
            write_seg(path, labels, index, entries, About(), kind=given.seg_type)
            seconds = time.perf_counter() - began
            grown = growth()
        print(
            f"{given.labels} labels, {' × '.join(map(str, given.size))}, {given.seg_type}: {seconds:.1f} s, "
            f"{grown / 2**20:.0f} MiB beside the label map, {path.stat().st_size / 2**20:.0f} MiB on disk"
        )


def organs(size: tuple[int, int, int], count: int) -> np.ndarray:
    """A label map (i, j, k) of balls in the middle of each slice."""
    random = np.random.default_rng(0)
    made = np.zeros(size, np.uint8 if count < 256 else np.uint16, order="F")
    for label in range(1, count + 1):
        radius = random.uniform(0.03, 0.09) * size[0]
        middle = [random.uniform(0.2, 0.8) * n for n in size]
        box = tuple(slice(max(0, int(m - radius)), int(m + radius) + 1) for m in middle)
        grid = np.ogrid[tuple(slice(b.start, min(b.stop, n)) for b, n in zip(box, size))]
        made[box][sum((g - m) ** 2 for g, m in zip(grid, middle)) < radius**2] = label
    return made


def series(folder: Path, size: tuple[int, int, int]) -> Index:
    """What medfuse keeps of a series of one file a slice; the first file is there."""
    from pydicom import Dataset
    from pydicom.uid import CTImageStorage, generate_uid

    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = CTImageStorage, generate_uid(), "CT"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    d.ImagePositionPatient = [0, 0, 0]
    file = folder / "0.dcm"
    d.save_as(file, implicit_vr=False, little_endian=True)
    return Index(
        format="", name="x", says={"Modality": "CT"}, class_uid=CTImageStorage, shape=size,
        affine=((-0.7, 0, 0, 0), (0, -0.7, 0, 0), (0, 0, 1.5, 0)), size=size[:2], syntaxes=(), photometric="",
        bits=(16, 16, 15), limits=(0, 1), table=False, turned=False, spaced=True, units="",
        sources=(Source(file=str(file), member=None, bytes=0, modified_ns=0),),
        frames=tuple(
            FrameRecord(source=0, number=0, uid=generate_uid(), slope=1, intercept=0) for _ in range(size[2])
        ),
        planes=None, notes=(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
