"""Weights on disk."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medfuse.core.errors import CheckpointError, OutputError
from medfuse.core.files import file_hash
from medfuse.model.weights import load_into, load_weights, save_weights


def network(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, channels, 3), nn.BatchNorm3d(channels))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, network(), {"name": "liver", "step": 3})
    return path


def test_tensors_and_facts_come_back(tmp_path):
    path, model, twin = tmp_path / "w.safetensors", network(), network()
    save_weights(path, model.to(memory_format=torch.channels_last_3d), {"name": "liver", "fold": None})
    state, facts = load_weights(path)
    load_into(twin, state, path)
    assert facts == {"name": "liver", "fold": None}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


def test_shared_tensors_are_written_twice(tmp_path):
    shared = nn.Linear(2, 2)
    save_weights(tmp_path / "w.safetensors", nn.ModuleDict({"a": shared, "b": shared}), {})
    state, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["a.weight"], state["b.weight"])


def test_a_truncated_file_is_told(saved):
    saved.write_bytes(saved.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"w\.safetensors: cannot be read as weights"):
        load_weights(saved)


def test_one_changed_bit_is_told(saved):
    data = bytearray(saved.read_bytes())
    data[-20] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: is damaged \(its hash"):
        load_weights(saved)


def test_a_pickle_is_not_opened(tmp_path):
    torch.save({"a": 1}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_weights(tmp_path / "w.pt")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(tmp_path / "w.safetensors")


def test_tensors_of_another_program_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="use weights that medfuse trained"):
        load_weights(tmp_path / "w.safetensors")


def test_another_models_weights_are_counted_and_named(saved):
    state, _ = load_weights(saved)
    state["extra"] = state.pop("0.bias")
    with pytest.raises(CheckpointError) as caught:
        load_into(network(4), state, saved)
    (line,) = caught.value.lines
    assert "1 missing (0.bias); 1 not of this model (extra); 5 of another shape" in line
    assert "0.weight 3×1×3×3×3 in place of 4×1×3×3×3" in line


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_weights(tmp_path / "file" / "w.safetensors", network(), {})


def test_the_hash_follows_the_bytes(saved):
    before = file_hash(saved)
    saved.write_bytes(saved.read_bytes() + b" ")
    assert len(before) == 64
    assert file_hash(saved) != before


def test_the_same_content_is_the_same_file(tmp_path):
    model, facts = nn.Linear(2, 1), {"name": "a", "numbers": (0.1, 1e-20), "labels": {0: "background"}}
    for number in range(12):
        save_weights(tmp_path / f"{number}.safetensors", model, facts)
    assert len({file_hash(path) for path in tmp_path.iterdir()}) == 1
    assert load_weights(tmp_path / "0.safetensors")[1]["labels"] == {"0": "background"}
