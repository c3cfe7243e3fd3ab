"""An engine of one batch size takes any number of windows."""

import threading

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


def test_threads_take_turns():
    inside, most = [], []

    def run(windows):
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.02)
        inside.pop()
        return windows

    run_any = in_batches_of(1, run)
    threads = [threading.Thread(target=run_any, args=(torch.zeros(1, 1, 2, 2),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
