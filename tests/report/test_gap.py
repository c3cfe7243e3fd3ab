"""The share of a gap that is closed: told where there is a gap, and by the interval that differences have."""

import numpy as np
import pytest

from medfuse.report.candidates import MEAN, Candidate
from medfuse.report.gap import gap_closed


def model(name: str, dice, patients=None) -> Candidate:
    cases = {f"case_{n:02d}": [float(value)] for n, value in enumerate(dice)}
    return Candidate(name, {"liver": cases}, 1, patients=patients or {})


RANDOM = np.random.default_rng(3)
ALONE = 0.7 + 0.05 * RANDOM.standard_normal(20)
LARGE = ALONE + 0.06 + 0.02 * RANDOM.standard_normal(20)


def closed(share: float, noise: float = 0.0):
    taught = ALONE + share * (LARGE - ALONE) + noise * np.random.default_rng(5).standard_normal(20)
    return gap_closed(model("large", LARGE), model("alone", ALONE), model("taught", taught))


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.7, 1.0, 1.3])
def test_a_share_of_each_case_is_that_share(share):
    found = closed(share)
    assert found.share == pytest.approx(share, abs=1e-6)
    assert found.share_low == pytest.approx(share, abs=1e-3)
    assert found.share_high == pytest.approx(share, abs=1e-3)


def test_limits_hold_the_share_and_widen_with_chance():
    some, more = closed(0.7, 0.01), closed(0.7, 0.03)
    for found in (some, more):
        assert found.share_low < found.share < found.share_high
    assert more.share_high - more.share_low > some.share_high - some.share_low


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_is_above_0_exactly_where_the_gain_is(share, noise):
    from medfuse.report.compare import compare

    taught = ALONE + share * (LARGE - ALONE) + noise * np.random.default_rng(5).standard_normal(20)
    found = closed(share, noise)
    gain = compare([model("alone", ALONE), model("taught", taught)]).of("taught", MEAN)
    assert (found.share_low > 0) == (gain.low > 0)


def test_of_no_gap_no_share_is_told():
    even = ALONE + 0.02 * np.random.default_rng(9).standard_normal(20)
    found = gap_closed(model("large", even), model("alone", ALONE), model("taught", ALONE + 0.01))
    assert found.low < 0 < found.high
    assert found.share is None
    assert "no share of it can be told" in found.text("large", "alone")


def test_a_large_model_that_is_worse_is_said_to_be():
    found = gap_closed(model("large", ALONE - 0.05), model("alone", ALONE), model("taught", ALONE))
    assert found.high < 0
    assert "the larger model is worse" in found.text("large", "alone")


def test_one_patient_tells_of_no_gap():
    same = {f"case_{n:02d}": "one" for n in range(20)}
    found = gap_closed(
        *(model(n, d, same) for n, d in (("large", LARGE), ("alone", ALONE), ("taught", LARGE)))
    )
    assert found.patients == 1
    assert not found.is_told


def test_only_cases_that_all_three_have_count():
    few = gap_closed(model("large", LARGE), model("alone", ALONE[:12]), model("taught", LARGE[:8]))
    assert few.patients == 8
    assert few.share == pytest.approx(1.0)
    apart = Candidate("other", {"liver": {"elsewhere": [0.5]}}, 1)
    assert gap_closed(model("large", LARGE), model("alone", ALONE), apart) is None
