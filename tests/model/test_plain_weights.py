"""What a file of weights says is read without torch, and as torch's reader says it."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medfuse.core.errors import CheckpointError
from medfuse.model.plain_weights import facts_of
from medfuse.model.weights import load_weights, save_tensors, save_weights

KINDS = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8),
    *(torch.int16, torch.int32, torch.int64, torch.bool),
)
FACTS = {"name": "größer", "inner": {"a": [1, 2.5, None]}}


def refused(path: Path) -> None:
    """Whoever reads a file refuses it: without torch, or with it where it is left to torch."""
    with pytest.raises(CheckpointError):
        load_weights(path)
    with suppress(CheckpointError):
        assert facts_of(path) is None


def test_the_facts_are_those_that_torch_reads(tmp_path: Path) -> None:
    tensors = {f"b.{kind}": torch.ones(2, 3).to(kind) for kind in KINDS}
    tensors |= {"a": torch.tensor(3.0), "empty": torch.zeros(0, 4)}
    save_tensors(tmp_path / "w.safetensors", tensors, FACTS)
    assert facts_of(tmp_path / "w.safetensors") == load_weights(tmp_path / "w.safetensors")[1] == FACTS


def test_it_imports_no_torch(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Conv3d(1, 2, 3), FACTS)
    code = (
        "import sys; from pathlib import Path; from medfuse.model.plain_weights import facts_of;"
        f"assert facts_of(Path({str(tmp_path / 'w.safetensors')!r}))['name'] == 'größer';"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_byte_that_changed_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, nn.Conv1d(1, 2, 1), FACTS)
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    for at in range(begin, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="is damaged"):
            facts_of(path)


def test_what_torch_tells_better_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(4)}, path, metadata={"medfuse": json.dumps(FACTS)})  # without a hash
    assert facts_of(path) is None
    save_weights(path, nn.Conv1d(1, 2, 1), FACTS)
    whole = path.read_bytes()
    for cut in (len(whole) - 4, 40):
        path.write_bytes(whole[:cut])
        refused(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b"[" * 5000,
        b'{"a": 1}',
        b'{"__metadata__": {"medfuse": "{}"}, "a": {"dtype": "F4", "shape": [], "data_offsets": [0, 1]}}',
        b'{"__metadata__": {"medfuse": "{\\"sha256\\": 1}"}, "a": {"dtype": "F32", "shape": 3}}',
    ],
)
def test_headers_of_strangers_are_refused_or_left_to_torch(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    refused(path)
