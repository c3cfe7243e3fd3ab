"""Amounts of memory, and how much something takes."""

import pytest
import torch

from medfuse.core.errors import MedfuseError
from medfuse.core.memory import PeakMemory, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * 2**30), ("800 MB", 800 * 10**6), ("1.5gib", 3 * 2**29)]
)
def test_a_size_has_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["8", "GiB", "0GiB", "-1GiB", "8 bananas"])
def test_anything_else_is_no_size(text):
    with pytest.raises(MedfuseError, match="such as 8GiB"):
        parse_size(text)


def test_a_size_is_written_in_the_larger_unit():
    assert (size_text(3 * 2**29), size_text(200 * 2**20)) == ("1.5 GiB", "200 MiB")


def test_the_peak_counts_what_was_freed_again():
    memory = PeakMemory(torch.device("cpu"))
    tensor = torch.ones(64 * 2**20)  # 256 MiB
    del tensor
    assert memory.grown() >= 250 * 2**20


def test_what_was_taken_before_does_not_count():
    tensor = torch.ones(64 * 2**20)
    memory = PeakMemory(torch.device("cpu"))
    assert memory.grown() < 100 * 2**20
    del tensor
