"""What scans take, by windows and by what is around them."""

from itertools import pairwise

import pytest

from medfuse.data.fingerprint import CaseFacts
from medfuse.infer.windows import plan_grid
from medfuse.planning.scans import Around, scan_seconds, windows_of

SHAPES = [(100, 90, 40), (120, 110, 50), (200, 180, 90), (256, 256, 20), (30, 30, 30)]
CASES = [CaseFacts(f"{n}", shape, (1.0, 1.0, 2.0), {}, {}) for n, shape in enumerate(SHAPES)]
AROUND = Around(0.5, 100 * 90 * 40)


@pytest.mark.parametrize("window", [(32, 32, 16), (64, 48), (128, 128, 64), (48, 48, 2)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.75])
def test_windows_are_counted_as_inference_lays_them(window, overlap):
    for shape in SHAPES:
        assert windows_of(shape, window, overlap) == len(plan_grid(shape, window, overlap))


@pytest.mark.parametrize("window", [(32, 32, 16), (64, 48)])
def test_less_overlap_and_coarser_voxels_never_take_longer(window):
    overlaps = [
        scan_seconds(CASES, (1.0, 1.0, 2.0), window, o, 0.1, AROUND).median for o in (0.5, 0.4, 0.3, 0.2, 0)
    ]
    spacings = [
        scan_seconds(CASES, (s, s, 2.0), window, 0.5, 0.1, AROUND).median for s in (1, 1.25, 1.5, 2, 4)
    ]
    for found in (overlaps, spacings):
        assert all(a >= b for a, b in pairwise(found))
        assert found[0] > found[-1]


def test_median_ninth_and_largest_are_of_the_scans_and_in_that_order():
    found = scan_seconds(CASES, (1.0, 1.0, 2.0), (32, 32, 16), 0.5, 0.1, AROUND)
    each = [scan_seconds([case], (1.0, 1.0, 2.0), (32, 32, 16), 0.5, 0.1, AROUND).median for case in CASES]
    assert found.median == sorted(each)[2]
    assert found.median <= found.ninth <= found.largest == max(each)
    assert found.median == pytest.approx(found.windows + found.around)


def test_what_is_around_windows_grows_with_the_file():
    (small, large) = (
        scan_seconds([case], (9.0, 9.0, 9.0), (64, 64, 64), 0.5, 0.0, AROUND) for case in (CASES[0], CASES[2])
    )
    assert small.median == pytest.approx(0.5)
    assert large.around / small.around == pytest.approx(200 * 180 * 90 / (100 * 90 * 40))
