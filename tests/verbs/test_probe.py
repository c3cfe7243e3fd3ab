"""`medfuse probe` on cubes of 20 voxels."""

import pytest

from medfuse.train.rate import RateSweep
from medfuse.verbs.probe import Probed


def test_a_probe_finds_a_rate_and_learns_one_case_and_keeps_nothing(finished_run, medfuse, tmp_path):
    words = ("probe", finished_run.pipeline, "--runs", tmp_path, "--steps", 20, "-q")
    said = medfuse(*words, "--set", "train.learning_rate=0.05")
    assert said.code == 0, said.err
    assert "learning rate: loss falls fastest at " in said.out
    assert "cube_00, 20 steps: loss " in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_an_unknown_case_is_one_line(finished_run, medfuse, tmp_path):
    said = medfuse("probe", finished_run.pipeline, "--runs", tmp_path, "--case", "cube_99", "-q")
    assert said.code == 2
    assert said.err.startswith("no training case is named 'cube_99'; did you mean 'cube_0")


@pytest.mark.parametrize(
    ("losses", "dice", "verdict"),
    [((1.0, 0.1), 0.9, "can be learned"), ((1.0, 0.4), 0.3, "Dice does not"), ((1, 0.9), 0.0, "not learned")],
)
def test_the_verdict_follows_loss_and_dice(losses, dice, verdict):
    sweep = RateSweep((0.1, 0.2), (1.0, 0.5), 0.2, None)
    assert verdict in Probed(sweep, 0.01, "a", 20, losses, (0.0, dice)).text()


def test_what_a_killed_probe_left_is_removed(finished_run, medfuse, tmp_path):
    (tmp_path / ".probe-killed" / "predictions").mkdir(parents=True)
    assert medfuse("probe", finished_run.pipeline, "--case", "none", "--runs", tmp_path, "-q").code == 2
    assert not [*tmp_path.glob(".probe-*")]
