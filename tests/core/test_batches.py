"""An engine of one batch size takes any number of windows."""

import pytest
import torch

from medfuse.core.batches import in_batches_of


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_any_number_of_windows_is_answered_in_order(number):
    sizes = []

    def run(windows):
        sizes.append(len(windows))
        return windows + 1

    given = torch.arange(number * 6.0).reshape(number, 1, 2, 3)
    assert torch.equal(in_batches_of(2, run)(given), given + 1)
    assert set(sizes) == {2}
