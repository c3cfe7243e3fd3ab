"""Planning goes by some of many cases: the same each time, and like all of them."""

from pathlib import Path

import numpy as np
import pytest

from medfuse.api import Case
from medfuse.data.detect import detect
from medfuse.data.sampled import BYTES_A_SECOND, FEWEST_CASES, MOST_CASES, looked_at, sampled


@pytest.fixture
def many(tmp_path: Path) -> list[Case]:
    """1,000 cases whose label maps have 1 to 1,000 bytes, in no order."""
    cases = []
    for i, size in enumerate(np.random.default_rng(0).permutation(1000) + 1):
        label = tmp_path / f"{i}.seg"
        label.write_bytes(b"x" * int(size))
        cases.append(Case(f"case_{i}", (tmp_path / f"{i}.img",), label))
    return cases


def sizes(cases) -> list[int]:
    return sorted(case.label.stat().st_size for case in cases)


def test_a_sample_is_the_same_each_time_and_in_order(many):
    sample = sampled(many)
    assert sample == sampled(many)
    assert len(sample) == len({*sample}) == MOST_CASES
    assert sorted(sample, key=many.index) == [*sample]


def test_the_order_of_the_cases_changes_nothing(many):
    assert {*sampled(many)} == {*sampled(many[::-1])}


def test_a_sample_has_as_many_of_each_size_as_all_have(many):
    for share, size in zip((0.25, 0.5, 0.75), np.percentile(sizes(sampled(many)), (25, 50, 75))):
        assert size == pytest.approx(1000 * share, abs=8)


def test_the_largest_label_map_is_in_every_sample(many):
    for most in (1, 2, 7, 250, 999):
        sample = sampled(many, most)
        assert len(sample) == most
        assert sizes(sample)[-1] == 1000


@pytest.mark.parametrize(("cases_of_time", "taken"), [(100, 100), (1, FEWEST_CASES), (5000, MOST_CASES)])
def test_no_more_are_taken_than_the_time_allows(many, cases_of_time, taken):
    seconds = (cases_of_time + 0.5) * np.mean(sizes(many)) / BYTES_A_SECOND
    assert len(sampled(many, seconds=float(seconds))) == taken


def test_a_label_map_that_is_gone_stops_no_sample(many):
    many[3].label.unlink()
    assert len(sampled(many)) == MOST_CASES


def test_few_cases_are_all_taken_and_nothing_is_said(many):
    assert sampled(many[:MOST_CASES]) == tuple(many[:MOST_CASES])
    assert looked_at(many, many) == ""
    assert looked_at(many[:250], many * 4).startswith("looked at 250 of 4,000 labelled cases")


def test_labels_are_looked_for_in_a_sample_of_the_label_maps(tmp_path, make_case):
    label = np.zeros((8, 9, 10), np.uint8)
    for name in ("a", "bb", "ccc", "dddd"):
        label[2:5, 2:5, 2:5] = 1
        if name == "bb":
            label[1::2, ::3] = 2  # what is in few makes its file larger
        make_case(name, label=label.copy())
        label[:] = 0
    found = detect(tmp_path, most=2)
    assert found.info.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert "labels are those of 2 of its 4 label maps" in found.reason
    assert "label maps" not in detect(tmp_path).reason
