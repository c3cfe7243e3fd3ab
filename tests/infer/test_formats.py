"""What a format of label maps takes while it is written stays within what is planned for it."""

import numpy as np
import pytest
import scanner

from medfuse.core.label_table import entries_of
from medfuse.core.memory import memory_growth
from medfuse.infer.formats import FORMATS, LabelFiles
from medfuse.volumes.dicom.index import as_volume_file, read_index

pytest.importorskip("highdicom", reason="highdicom comes with the extra dicom")
SHAPE = (256, 256, 120)
PLAIN = {"background": 0, **{f"organ {n}": n for n in range(1, 13)}}
REGIONS = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "inner": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "seg_type"), [(PLAIN, "labelmap"), (PLAIN, "binary"), (REGIONS, "labelmap")], ids=str
)
def test_a_segmentation_takes_no_more_memory_than_is_planned(labels, seg_type, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "cache"))
    scanner.write(tmp_path / "in", np.zeros(SHAPE, np.int16))
    index = read_index(as_volume_file(tmp_path / "in"))
    order = (1, 2, 3) if labels is REGIONS else ()
    how = LabelFiles(("dicom_seg",), seg_type, entries_of(labels, None, order))
    values = np.array([v if isinstance(v, int) else v[0] for v in labels.values()], np.uint8)
    i, j, k = np.ogrid[tuple(slice(n) for n in SHAPE)]
    array = np.asfortranarray(values[((i // 40 + j // 40 + k // 30) % len(values)).astype(np.uint8)])
    small = np.ascontiguousarray(array)[:, :, :1].T.copy().T
    write = FORMATS["dicom_seg"].write
    write(tmp_path / "first.dcm", np.broadcast_to(small, SHAPE), index, how)  # what is imported stays
    with memory_growth() as growth:
        write(tmp_path / "x.dcm", array, index, how)
        grown = growth()
    assert grown + array.nbytes <= how.bytes(SHAPE, 1) + 2**24
