"""How rough an image is: noise and blur move it apart, and no unit does."""

from dataclasses import replace

import numpy as np
import pytest

from medfuse.quality.calibration import JudgedCase, by_name
from medfuse.quality.grain import FEWEST, grain_of, usual_grain
from medfuse.quality.judge import Judge, rough_of
from medfuse.quality.stored import StoredCalibration, read_calibration, write_calibration


def image(seed: int = 0, *, noise: float = 0.0, channels: int = 1) -> np.ndarray:
    """Soft blobs of some size, (channels, 24, 20, 12)."""
    random = np.random.default_rng(seed)
    x, y, z = np.meshgrid(np.arange(24), np.arange(20), np.arange(12), indexing="ij")
    phase = random.uniform(0, 6, 3)
    soft = np.sin(x / 3 + phase[0]) + np.sin(y / 4 + phase[1]) + np.sin(z / 5 + phase[2])
    made = np.stack([soft] * channels)
    return (made + random.normal(0, 0.1 + noise, made.shape)).astype(np.float32)


def blurred(one: np.ndarray) -> np.ndarray:
    return (one + np.roll(one, 1, 1) + np.roll(one, -1, 1) + np.roll(one, 1, 2) + np.roll(one, -1, 2)) / 5


def test_noise_makes_it_larger_and_blur_smaller():
    plain = grain_of(image())
    assert grain_of(blurred(image())) < plain - 0.3
    assert plain < grain_of(image(noise=0.3)) - 0.3


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (0.01, 50.0), (-3.0, -7.0)])
def test_no_unit_changes_it(scale, shift):
    assert grain_of(scale * image().astype(np.float64) + shift) == pytest.approx(grain_of(image()), abs=1e-6)


def test_a_large_image_is_told_by_some_of_its_planes(monkeypatch):
    whole = grain_of(image())
    monkeypatch.setattr("medfuse.quality.grain._MOST_VOXELS", image()[0].size // 4)
    assert grain_of(image()) == pytest.approx(whole, abs=0.1)


@pytest.mark.parametrize(
    "odd",
    [
        np.ones((1, 8, 8, 8), np.float32),
        np.zeros((1, 2, 8, 8), np.float32),
        np.full((1, 8, 8, 8), np.nan, np.float32),
        np.stack([image()[0], np.zeros((24, 20, 12), np.float32)]),
    ],
    ids=["one value", "two voxels wide", "no numbers", "an empty channel"],
)
def test_what_has_none_has_none(odd):
    assert grain_of(odd) is None


def test_of_too_few_cases_nothing_is_usual():
    assert usual_grain([-1.0] * (FEWEST - 1)) is None
    assert usual_grain([-1.0] * FEWEST) is not None


@pytest.mark.parametrize(
    ("other", "said"), [(image(9, noise=1.0), "noisier"), (blurred(blurred(image(9))), "more blurred")]
)
def test_another_kind_of_image_is_said_and_has_no_bound(other, said):
    usual = usual_grain([float(grain_of(image(n))) for n in range(20)])
    cases = [JudgedCase(f"{n}", {"entropy": n / 40}, 0.9 - n / 100, f"{n}", f"{n % 5}") for n in range(40)]
    judge = Judge(calibration=by_name({"liver": cases}), grain=usual)
    scores = {"liver": {"entropy": 0.5, "volume_ml": 3.0}}
    one = judge.of_case(scores, {"grain": grain_of(image(9))})["liver"]
    assert one.lower is not None
    two = judge.of_case(scores, {"grain": grain_of(other)})["liver"]
    assert two.lower is None
    assert two.expected == one.expected
    assert two.look == one.look
    assert said in two.reasons[0]
    assert replace(judge, grain=None).of_case(scores, {"grain": grain_of(other)})["liver"].lower is not None


def test_it_is_kept_with_the_calibration(tmp_path):
    usual = usual_grain([float(grain_of(image(n))) for n in range(20)])
    cases = [JudgedCase(f"{n}", {"entropy": n / 40}, 0.9 - n / 100, f"{n}", f"{n % 5}") for n in range(40)]
    stored = StoredCalibration(by_name({"liver": cases}), ("abc",), {}, grain=usual)
    write_calibration(tmp_path / "quality.json", stored, by="1.0")
    assert read_calibration(tmp_path / "quality.json").grain == usual


def test_without_what_is_usual_it_says_nothing():
    assert rough_of({"grain": 5.0}, None) == ()
    assert rough_of({"grain": None}, usual_grain([0.0] * 20)) == ()
