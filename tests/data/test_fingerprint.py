import dataclasses
import json

import numpy as np
import pytest

from medfuse.core.errors import DataError
from medfuse.data import fingerprint as fingerprints
from medfuse.data.fingerprint import Fingerprint, take_fingerprint


def fingerprint_of(info, *, tolerance_mm=1e-3, progress=lambda done, total: None):
    return take_fingerprint(info.cases, info, tolerance_mm=tolerance_mm, progress=progress)


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


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Every case counts as a large one; the names of those that are measured from now on."""
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "WORTH_VOXELS", 1)
    measured, real = [], fingerprints._measure

    def measure(case, *given):
        measured.append(case.name)
        return real(case, *given)

    monkeypatch.setattr(fingerprints, "_measure", measure)
    return measured


def test_a_large_case_is_measured_once_and_found_the_same_to_the_last_bit(large, make_case, info_of):
    info = info_of(make_case("a"), make_case("bb"))
    first = fingerprint_of(info)
    assert fingerprint_of(info) == first
    assert sorted(large) == ["a", "bb"]


def test_a_look_that_was_ended_goes_on_where_it_was(large, make_case, info_of, monkeypatch):
    info = info_of(*(make_case(name) for name in ("a", "bb", "ccc")))
    monkeypatch.setattr("os.cpu_count", lambda: 1)

    def until_the_second(done, of):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fingerprint_of(info, progress=until_the_second)
    assert large == ["a", "bb"]
    fingerprint_of(info)
    assert large == ["a", "bb", "ccc"]


def test_other_content_labels_and_tolerance_are_measured_anew(large, make_case, info_of):
    case = make_case("a")
    info = info_of(case)
    fingerprint_of(info)
    fingerprint_of(dataclasses.replace(info, labels={**info.labels, "more": 77}))
    fingerprint_of(info, tolerance_mm=0.5)
    assert len(large) == 3
    case.images[0].write_bytes(make_case("bb").images[0].read_bytes())
    fingerprint_of(info)
    assert len(large) == 4


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-40], lambda content: b"", lambda content: b"{}"]
)
def test_what_is_kept_and_damaged_is_measured_anew(large, make_case, info_of, tmp_path, damage):
    case = make_case("a")
    first = fingerprint_of(info_of(case))
    (path,) = (tmp_path / "cache").rglob("*.npz")
    path.write_bytes(damage(path.read_bytes()))
    assert fingerprint_of(info_of(case)) == first
    assert large == ["a", "a"]


def test_a_cache_that_cannot_be_written_keeps_nothing_and_nothing_fails(
    large, make_case, info_of, monkeypatch, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "file"))
    case = make_case("a")
    fingerprint_of(info_of(case))
    assert large == ["a"]
