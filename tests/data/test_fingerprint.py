import json

import numpy as np
import pytest

from medfuse.core.errors import DataError
from medfuse.data.fingerprint import Fingerprint, take_fingerprint


def fingerprint_of(info):
    return take_fingerprint(info.cases, info, tolerance_mm=1e-3, progress=lambda done, total: None)


def test_a_fingerprint_reads_back_from_json(make_case, info_of):
    found = fingerprint_of(info_of(make_case("a"), make_case("bb")))
    assert Fingerprint.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_volumes_are_voxels_times_their_size(make_case, info_of):
    found = fingerprint_of(info_of(make_case(spacing=(1, 2, 5))))
    assert found.cases[0].volumes_ml["organ"] == pytest.approx(27 * 10 / 1000)


def test_intensities_are_those_of_the_foreground(make_case, info_of, write):
    case = make_case()
    image = np.zeros((8, 9, 10), np.int16)
    image[2:5, 2:5, 2:5] = 40
    write(case.images[0], image)
    channel = fingerprint_of(info_of(case)).channels[0]
    assert (channel.lower, channel.median, channel.mean, channel.std) == (40, 40, 40, 0)
    assert fingerprint_of(info_of(case)).cases[0].medians == (40,)
    assert channel.zeros == pytest.approx(1 - 27 / 720)


def test_shape_and_spacing_are_in_ras_order(make_case, info_of, write, tmp_path):
    case = make_case()
    turned = np.array([[0, 0, 3, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]])  # i→y, j→z, k→x
    for path, dtype in ((case.images[0], np.float32), (case.label, np.uint8)):
        write(path, (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype), affine=turned)
    facts = fingerprint_of(info_of(case)).cases[0]
    assert facts.shape == (4, 2, 3)
    assert facts.spacing_mm == (3, 1, 2)


def test_progress_reaches_the_number_of_cases(make_case, info_of):
    info, seen = info_of(make_case("a"), make_case("bb")), []
    take_fingerprint(info.cases, info, tolerance_mm=1e-3, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (2, 2)


def test_every_fault_of_every_case_is_listed(make_case, info_of, write):
    cut, foreign, moved = make_case("cut"), make_case("foreign"), make_case("moved")
    cut.images[0].write_bytes(cut.images[0].read_bytes()[:2000])
    write(foreign.label, np.full((8, 9, 10), 9, np.uint8))
    write(moved.label, np.zeros((8, 9, 11), np.uint8))
    with pytest.raises(DataError) as caught:
        fingerprint_of(info_of(cut, foreign, make_case("whole"), moved))
    at_fault = [line.split(":")[0] for line in caught.value.lines]
    assert at_fault == [str(cut.images[0]), str(foreign.label), str(moved.label)]


def test_an_image_of_one_value_is_refused(make_case, info_of, write):
    case = make_case()
    write(case.images[0], np.zeros((8, 9, 10), np.uint8))
    with pytest.raises(DataError, match="every voxel of MR has one value"):
        fingerprint_of(info_of(case))


def test_label_maps_of_background_alone_are_refused(make_case, info_of):
    with pytest.raises(DataError, match="none of the 1 label maps"):
        fingerprint_of(info_of(make_case(label=np.zeros((8, 9, 10), np.uint8))))
