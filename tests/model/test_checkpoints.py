"""Checkpoints of other tools: tensors come back, and nothing else is believed."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medfuse.core.errors import CheckpointError
from medfuse.model.checkpoints import read_checkpoint, read_plain


class Runs:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    return line


def test_tensors_numbers_and_nesting_come_back(tmp_path):
    kept = {
        "state_dict": {"a": torch.ones(2, 3)},
        "epoch": 3,
        "best": np.float64(0.5),
        "list": [1, None, "x"],
    }
    torch.save(kept, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert torch.equal(read["state_dict"]["a"], torch.ones(2, 3))
    assert (read["epoch"], read["best"], read["list"]) == (3, 0.5, [1, None, "x"])
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors")["a"], torch.ones(2))


@pytest.mark.parametrize("save", [torch.save, lambda v, p: p.write_bytes(pickle.dumps(v))])
@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin"])
def test_code_in_a_pickle_is_not_run(tmp_path, save, name):
    save({"a": Runs(tmp_path / "trace")}, tmp_path / name)
    refusal(tmp_path / name)
    assert not (tmp_path / "trace").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_age_is_one_line_without_advice_to_run_it(tmp_path, protocol):
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"a": Runs(tmp_path / "trace")}, protocol=protocol))
    said = refusal(tmp_path / "a.bin")
    assert "which is code" in said or "a pickle of other things" in said
    assert "weights_only" not in said


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**40),
        torch.zeros(2**10).as_strided((2**20, 2**10), (0, 1)),
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(4, device="meta"),
    ],
)
def test_tensors_that_claim_more_than_the_file_has_are_refused(tmp_path, tensor):
    torch.save({"a": [{"b": tensor}]}, tmp_path / "a.pt")
    refusal(tmp_path / "a.pt")


def test_damaged_files_are_one_line(tmp_path):
    torch.save({"a": torch.ones(50)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for content in (
        b"",
        b"\x80",
        whole[:100],
        whole[:-50],
        whole[100:],
        bytes(len(whole)),
        b"PK\3\4" + bytes(90),
    ):
        (tmp_path / "a.pt").write_bytes(content)
        refusal(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/data.pkl", b"(" * 100_000)
    refusal(tmp_path / "b.pt")


def test_pipes_folders_and_files_that_are_not_there_are_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", tmp_path, tmp_path / "absent.pt", tmp_path / "absent.safetensors"):
        refusal(path)


@pytest.mark.parametrize("held", [{"state_dict": {"a": torch.zeros(2)}}, [torch.zeros(2)], {"a": 3}])
def test_of_a_file_of_tensors_by_name_nothing_else_is_taken(tmp_path, held):
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pt")
    assert torch.equal(read_plain(tmp_path / "plain.pt")["a"], torch.ones(2))
    torch.save(held, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: holds more than tensors by name"):
        read_plain(tmp_path / "other.pt")
