"""The calibration error of probabilities that are what they say, and of others."""

import numpy as np
import pytest

from medfuse.report.calibration import BINS, calibration_error


def drawn(shift: float = 0.0):
    """Probabilities p and voxels that are the label's with p + shift."""
    random = np.random.default_rng(1)
    said = random.uniform(0.2, 0.8, (30, 30, 30))
    return said, random.random(said.shape) < said + shift


def test_probabilities_that_are_what_they_say_have_next_to_none():
    said, true = drawn()
    assert calibration_error(said, said > 0.5, true) < 0.02


@pytest.mark.parametrize("shift", [-0.1, 0.15])
def test_it_is_how_far_they_are_from_what_they_say(shift):
    said, true = drawn(shift)
    assert calibration_error(said, said > 0.5, true) == pytest.approx(abs(shift), abs=0.02)


def test_it_can_be_counted_by_hand():
    said = np.array([0.9, 0.9, 0.2, 0.2]).reshape(4, 1, 1)
    true = np.array([1, 0, 1, 0], bool).reshape(4, 1, 1)
    assert calibration_error(said, said > 0.5, true) == pytest.approx((2 * 0.4 + 2 * 0.3) / 4)


def test_it_is_monai_s_where_the_box_is_all():
    import torch
    from monai.metrics import CalibrationErrorMetric, CalibrationReduction

    said, true = drawn(0.1)
    theirs = CalibrationErrorMetric(
        num_bins=BINS, include_background=True, calibration_reduction=CalibrationReduction.EXPECTED
    )
    theirs(
        y_pred=torch.tensor(said, dtype=torch.float32)[None, None], y=torch.tensor(true)[None, None].float()
    )
    assert calibration_error(said, said > 0.5, true) == pytest.approx(theirs.aggregate().item(), abs=1e-5)


def test_what_is_far_away_is_not_judged():
    said, mask = np.zeros((2, 60, 60, 60))
    said[5:9, 5:9, 5:9] = mask[5:9, 5:9, 5:9] = 1
    far = said.copy()
    far[50, 50, 50] = 0.4  # not predicted
    mask = mask.astype(bool)
    assert calibration_error(far, mask, mask) == calibration_error(said, mask, mask) == 0


def test_what_nobody_annotated_is_not_judged():
    said, true = drawn(0.2)
    known = np.zeros(said.shape, bool)
    known[:2] = True
    alone = calibration_error(said[:2], said[:2] > 0.5, true[:2])
    assert calibration_error(said, said > 0.5, true, known) == alone
    assert calibration_error(said, said > 0.5, true, ~true & False) is None


def test_a_label_that_is_in_neither_has_none():
    empty = np.zeros((4, 4, 4), bool)
    assert calibration_error(empty, empty, empty) is None
