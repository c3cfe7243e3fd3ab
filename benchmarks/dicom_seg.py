"""How long a DICOM object of many labels takes to write, and how much memory beside the label map.

python benchmarks/dicom_seg.py                                   # 117 labels, 512 × 512 × 400
python benchmarks/dicom_seg.py --labels 117 --size 512 512 400 --seg-type binary
python benchmarks/dicom_seg.py --size 512 512 200 --seg-type rtstruct --rough

Labels are balls in a body, so that a slice has some tens of them, as in a scan of the trunk. With --rough
their borders are frayed, as those of a network that is unsure, which the contours of an RTSTRUCT feel.
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
from medfuse.volumes.dicom.rtstruct import write_rtstruct
from medfuse.volumes.dicom.seg import write_seg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--labels", type=int, default=117)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 400))
    parser.add_argument("--seg-type", choices=("labelmap", "binary", "rtstruct"), default="labelmap")
    parser.add_argument("--rough", action="store_true")
    given = parser.parse_args()
    labels = organs(tuple(given.size), given.labels)
    if given.rough:
        labels = frayed(labels)
    entries = entries_of({"background": 0, **{f"organ {n}": n for n in range(1, given.labels + 1)}})
    with tempfile.TemporaryDirectory() as folder:
        index = series(Path(folder), tuple(given.size))
        path = Path(folder) / "x.dcm"
        few = labels[:, :, :2], series(Path(folder), (*given.size[:2], 2)), entries, About()
        write_seg(path, *few)  # imports
        write_rtstruct(path, *few)
        with memory_growth() as growth:
            began = time.perf_counter()
            if given.seg_type == "rtstruct":
                write_rtstruct(path, labels, index, entries, About())
            else:
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


def frayed(labels: np.ndarray) -> np.ndarray:
    """Each voxel takes the label of one that is up to two voxels away."""
    random = np.random.default_rng(1)
    made = labels.copy(order="F")
    for k in range(labels.shape[2]):
        i, j = np.indices(labels.shape[:2])
        i = np.clip(i + random.integers(-2, 3, i.shape), 0, i.shape[0] - 1)
        j = np.clip(j + random.integers(-2, 3, j.shape), 0, j.shape[1] - 1)
        made[:, :, k] = labels[i, j, k]
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
