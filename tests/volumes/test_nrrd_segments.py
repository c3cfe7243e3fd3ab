"""Label maps in NRRD tell Slicer what their values are."""

import numpy as np
import pytest
import SimpleITK as sitk

from medfuse.core.label_table import LabelSays, entries_of
from medfuse.volumes.nrrd_segments import segments
from medfuse.volumes.read import read_labels
from medfuse.volumes.write import open_volume

SHAPE = (3, 4, 5)
LABELS = {"background": 0, "kidney_left": 1, "liver_tumour": 7, "肝": 9, "a:=b\nc": 12}


@pytest.fixture
def written(tmp_path):
    image = tmp_path / "image.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.int16)), str(image))
    path = tmp_path / "labels.nrrd"
    entries = entries_of(LABELS, {"肝": LabelSays("FMA 7197 Li^v~e|r", "#010203")})
    with open_volume(path, SHAPE, np.uint8, image, entries=entries) as slabs:
        slabs.write(2, 0, np.full(SHAPE, 7, np.uint8))
    return path


def test_another_reader_finds_names_values_colours_and_codes(written):
    read = sitk.ReadImage(str(written))
    said = {key: read.GetMetaData(key) for key in read.GetMetaDataKeys()}
    assert [said[f"Segment{n}_LabelValue"] for n in range(4)] == ["1", "7", "9", "12"]
    assert [said[f"Segment{n}_Name"] for n in range(3)] == ["kidney_left", "liver_tumour", "肝"]
    assert np.allclose(
        [float(x) for x in said["Segment2_Color"].split()], np.array([1, 2, 3]) / 255, atol=1e-5
    )
    assert "SCT^64033007^Kidney~SCT^7771000^Left~" in said["Segment0_Tags"]
    assert (
        "SCT^108369006^Neoplasm~^^~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^|"
        in (said["Segment1_Tags"])
    )
    assert "FMA^7197^Li v e r" in said["Segment2_Tags"]
    assert "Segment3_Tags" not in said


def test_medfuse_reads_its_voxels(written):
    assert np.array_equal(read_labels(written).array, np.full(SHAPE, 7))


def test_regions_are_not_named_by_a_value_that_is_a_part_of_them():
    regions = entries_of({"background": 0, "whole": (1, 2), "core": 2}, None, (1, 2))
    assert segments(regions, SHAPE) == {}
