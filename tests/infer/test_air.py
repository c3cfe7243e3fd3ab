"""Air is what is dark in every channel; whatever may be more than that is body."""

import numpy as np
import pytest

from medfuse.infer.air import find_body


def scan(*channels: float) -> np.ndarray:
    """Air at -1000, with a cube as bright as said in each channel."""
    image = np.full((len(channels), 40, 32, 20), -1000.0, np.float32)
    for channel, value in zip(image, channels):
        channel[16:32, 8:24, :] = value
    return image


def test_the_body_is_what_is_brighter_than_air() -> None:
    blocks = find_body(scan(40)).blocks
    assert blocks.shape == (5, 4, 3)
    assert np.argwhere(blocks).min(0).tolist() == [2, 1, 0]
    assert np.argwhere(blocks).max(0).tolist() == [3, 2, 2]
    assert blocks.sum() == 2 * 2 * 3


def test_noise_is_air() -> None:
    noisy = scan(40) + np.random.default_rng(0).normal(0, 10, (1, 40, 32, 20)).astype(np.float32)
    assert np.array_equal(find_body(noisy).blocks, find_body(scan(40)).blocks)


def test_one_channel_is_enough_to_be_body() -> None:
    assert np.array_equal(find_body(scan(-1000, 40)).blocks, find_body(scan(40)).blocks)


def test_nan_is_not_taken_for_air() -> None:
    image = scan(40)
    image[0, 0, 0, 0] = np.nan
    assert find_body(image).blocks[0, 0, 0]


@pytest.mark.parametrize(("stop", "touches"), [(16, False), (17, True)])
def test_a_place_touches_the_body_from_its_first_block_on(stop: int, touches: bool) -> None:
    assert find_body(scan(40)).touches((slice(0, stop), slice(0, 32), slice(0, 20))) is touches
