"""Strides as the shapes of maps tell them."""

import pytest

from medfuse.model.maps import Shown, read_map


@pytest.mark.parametrize(
    ("images", "stride"), [((32, 48), 32), ((64, 48), 32), ((40, 80), 16), ((28, 56), 14), ((30, 60), 4)]
)
def test_the_stride_of_a_small_map_is_the_one_of_halvings(images, stride):
    """As every strided layer with padding rounds up."""
    shown = [Shown((2, 7, -(-n // stride), -(-2 * n // stride)), (n, 2 * n)) for n in images]
    assert read_map(shown).stride == (stride, stride)
