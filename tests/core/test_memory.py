import subprocess
import sys

import numpy as np
import pytest

from medfuse.core.errors import MedfuseError
from medfuse.core.memory import bytes_text, lacks_memory, memory_growth, parse_bytes, total_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 * 2**30), ("500 MB", 500 * 10**6), ("1.5gib", 3 * 2**29), ("64KiB", 2**16), ("1024 B", 1024)],
)
def test_amounts_are_read_in_every_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "8", "4 apples", "-1GiB", "0GB", "0.1B", "4,5GiB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(MedfuseError, match="such as 4GiB"):
        parse_bytes(text)


def test_text_can_be_read_again() -> None:
    assert parse_bytes(bytes_text(3 * 2**30)) == 3 * 2**30
    assert parse_bytes(bytes_text(700 * 2**20)) == 700 * 2**20


def test_growth_is_that_of_the_peak() -> None:
    with memory_growth() as growth:
        np.ones(2**23).sum()  # 64 MiB, given back at once
        grown = growth()
    assert 60 * 2**20 < grown < 200 * 2**20


def test_what_was_taken_before_does_not_count() -> None:
    taken = np.ones(2**25)  # 256 MiB
    with memory_growth() as growth:
        assert growth() < 100 * 2**20
    del taken


def test_free_memory_is_below_the_limit_of_the_process():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); "
        "from medfuse.core.memory import free_memory; print(free_memory())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(said.stdout) < 2**30


def test_memory_beyond_gigabytes_is_told_in_larger_units():
    assert bytes_text(3 * 2**40) == "3.0 TiB"
    assert bytes_text(2000 * 2**50) == "2,000.0 PiB"


def test_memory_below_a_megabyte_is_not_told_as_none():
    assert bytes_text(2**10) == "1 KiB"


def test_a_process_can_have_no_more_than_its_control_group(tmp_path, monkeypatch):
    import torch

    group = tmp_path / "memory.max"
    monkeypatch.setattr("medfuse.core.memory._GROUPS", ((str(tmp_path), "memory.max", "memory.current"),))
    machine = total_memory(torch.device("cpu"))
    for said, most in (("1048576", 2**20), ("max", machine), (str(2**62), machine)):
        group.write_text(f"{said}\n")
        assert total_memory(torch.device("cpu")) == most


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("memory"), False),
    ],
)
def test_what_lacks_memory_is_told_from_other_errors(error, lacks):
    assert lacks_memory(error) == lacks
