"""What a weights file says is typed and within limits, or it is refused in one line."""

import json
import struct

import pytest
import strangers
import torch

from medfuse.core.errors import CheckpointError
from medfuse.data.plan import DataPlan
from medfuse.model.bounded import Bounded
from medfuse.trained.facts import read_facts
from medfuse.trained.loading import load_trained


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_trained([path], device="cpu")
    (line,) = caught.value.lines
    assert line.startswith(f"{path}:")
    assert len(line) < 1000
    assert "\n" not in line
    return line


def test_a_good_file_is_taken(tmp_path):
    path = strangers.write(tmp_path / "w.safetensors", strangers.facts())
    assert load_trained([path], device="cpu").plan == strangers.PLAN
    assert DataPlan.from_json(strangers.facts()["data"]) == strangers.PLAN


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "null",
        "3",
        "{}",
        "",
        "{",
        "[" * 100_000,
        '{"a":' * 3000 + "1" + "}" * 3000,
        '{"a":' + "9" * 5000 + "}",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"sha256": 5}',
    ],
)
def test_what_is_no_mapping_of_facts_is_one_line(tmp_path, text):
    refusal(strangers.write(tmp_path / "w.safetensors", text))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing_mm", [0, 2, 3]),
        ("spacing_mm", [-2, 2, 3]),
        ("spacing_mm", [2, 3]),
        ("spacing_mm", ["2", 2, 3]),
        ("spacing_mm", [1e300, 2, 3]),
        ("spacing_mm", None),
        ("patch_size", [-16, 16, 8]),
        ("patch_size", [0, 16, 8]),
        ("patch_size", [10**9, 16, 8]),
        ("patch_size", [4096, 4096, 4096]),
        ("patch_size", [16]),
        ("patch_size", [16.5, 16, 8]),
        ("patch_size", "auto"),
        ("batch_size", 0),
        ("batch_size", "2"),
        ("channels", []),
        ("channels", "CT"),
        ("channels", ["CT"] * 2),
        ("channels", [5]),
        ("normalization", []),
        ("normalization", [{"kind": "exec"}]),
        ("normalization", [{"kind": "ct", "std": 0}]),
        ("normalization", [{"kind": "ct", "std": -1}]),
        ("normalization", [{"kind": "ct", "lower": 5, "upper": 1}]),
        ("normalization", [{"kind": "windows"}]),
        ("normalization", [{"kind": "unit", "windows": [[0, 1]]}]),
        ("normalization", [{"kind": "windows", "windows": [[1, 0]]}]),
        ("normalization", [{"kind": "windows", "windows": [[0, 1]] * 17}]),
        ("labels", {}),
        ("labels", {"background": 0}),
        ("labels", {"a": 1, "b": 2}),
        ("labels", {"background": 0, "a": 0}),
        ("labels", {"background": 0, "a": -1}),
        ("labels", {"background": 0, "a": 1.5}),
        ("labels", {"background": 0, "a": []}),
        ("labels", {"background": 0, "a": [1, 2]}),
        ("labels", {"background": 0, "a": 10**12}),
        ("labels", {str(i): i for i in range(20_000)}),
        ("region_order", [1, 2]),
        ("region_order", [7]),
        ("ignore", 1),
        ("ignore", -1),
        ("reasons", None),
        ("label_table", {"organ": {"code": "SCT 10200005"}}),
        ("label_table", {"organ": {"color": "red"}}),
        ("label_table", {"organ": 5}),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(tmp_path, key, value):
    said = strangers.changed(lambda f: f["data"].update({key: value}))
    assert "data: " in refusal(strangers.write(tmp_path / "w.safetensors", said))


@pytest.mark.parametrize("infinite", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["lower", "upper", "mean", "std"])
def test_numbers_that_are_none_are_refused(key, infinite, tmp_path):
    said = strangers.changed(lambda f: f["data"]["normalization"][0].update({key: infinite}))
    refusal(strangers.write(tmp_path / "w.safetensors", said))


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"base_channels": 10**9}, "is of no use in a network"),
        ({"base_channels": 60_000, "max_channels": 60_000}, "far larger than its weights"),
        ({"base_channels": 8}, "another model's weights"),
        ({"base_channels": 0}, "base_channels"),
        ({"base_channels": "x"}, "base_channels"),
        ({"stages": 60_000}, ""),
        ({"convs": 60_000}, "convs: input should be less than or equal to 100"),
        ({"convs": 100}, ""),
        ({"strides": [[1, 1, 1], [-2, 2, 2]]}, ""),
        ({"kernels": [[3, 3, 3], [65_535, 65_535, 65_535]]}, ""),
        ({"nothing": 1}, "unknown key"),
        ({"use": "no_such"}, "no backbone named"),
        ({"use": 5}, "use"),
    ],
)
def test_a_model_that_its_weights_are_not_of_is_one_line(tmp_path, parameters, word):
    said = strangers.changed(lambda f: f["model"]["backbones"]["encoder"].update(parameters))
    assert word in refusal(strangers.write(tmp_path / "w.safetensors", said))


def test_a_refusal_leaves_gradients_as_they_were():
    with pytest.raises(CheckpointError, match="far larger"), Bounded([]), torch.no_grad():
        torch.zeros(2**40)
    for calls in range(3):
        bounded = Bounded([])
        bounded.calls_left = calls
        with pytest.raises(CheckpointError, match="far more parts"), bounded, torch.no_grad():
            torch.stack([torch.zeros(1) for _ in range(5)])
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_a_network_of_far_more_parts_than_weights_is_not_made(tmp_path):
    sizes = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
    said = strangers.changed(
        lambda f: f["model"]["backbones"].update(
            encoder={
                "use": "module",
                "target": "monai.networks.nets:UNet",
                "parameters": {**sizes, "num_res_units": 60_000},
            }
        )
    )
    assert "far more parts" in refusal(strangers.write(tmp_path / "w.safetensors", said))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.update(name="../../elsewhere"),
        lambda f: f.update(name=5),
        lambda f: f.update(fold=-1),
        lambda f: f.update(watched=["x"] * 5000),
        lambda f: f.update(watched="x"),
        lambda f: f.update(infer={"overlap": 2}),
        lambda f: f.update(infer={"runtime": {"use": "no_such"}}),
        lambda f: f.update(infer=[]),
        lambda f: f.update(model=[]),
        lambda f: f["model"].update(head={"input": "no_such"}),
        lambda f: f["model"].update(head=None),
        lambda f: f["model"]["backbones"].update({f"b{i}": {"use": "resnet"} for i in range(50)}),
        lambda f: f["model"].update(
            fusion={str(i): {"use": "add", "inputs": ["image"] * 500} for i in range(50)}
        ),
        lambda f: f.pop("data"),
        lambda f: f.pop("model"),
    ],
)
def test_other_facts_that_cannot_be_are_one_line(tmp_path, change):
    refusal(strangers.write(tmp_path / "w.safetensors", strangers.changed(change)))


def header(length: int, text: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + text + rest


def tensor(shape, offsets, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def headed(entries: dict, data: bytes = bytes(64)) -> bytes:
    text = json.dumps({"__metadata__": {"medfuse": json.dumps(strangers.facts())}, **entries}).encode()
    return header(len(text), text, data)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        header(2**63, b"{}"),
        header(99 * 2**20, b"{}"),
        header(0, b""),
        header(2, b"{}"),
        header(2, b"[]"),
        header(4, b"\xff\xff\xff\xff"),
        header(40_000, b"[" * 40_000),
        headed({"a": tensor([4], [0, 8])}),
        headed({"a": tensor([2**40], [0, 2**42])}),
        headed({"a": tensor([2**62, 4], [0, 64])}),
        headed({"a": tensor([-1], [0, 64])}),
        headed({"a": tensor([16], [0, 64], "PICKLE")}),
        headed({"a": tensor([16], [0, 64]), "b": tensor([16], [0, 64])}),
        headed({"a": tensor([16], [32, 96])}),
        headed({"a": tensor([16], [64, 0])}),
        headed({"a": tensor([16], [0, 64])}, bytes(10)),
        headed({"__metadata__": {"medfuse": [1]}}),
        headed({"a": tensor([16], [0, 64])}),
    ],
)
def test_headers_that_lie_are_one_line(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_line(tmp_path, share):
    path = strangers.write(tmp_path / "w.safetensors", strangers.facts())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


def test_a_pipe_and_a_folder_are_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "w.safetensors")
    refusal(tmp_path / "w.safetensors")
    refusal(tmp_path)


def test_facts_are_read_before_anything_is_made(tmp_path):
    read = read_facts(tmp_path, strangers.facts())
    assert (read.name, read.plan, read.watched) == ("p", strangers.PLAN, ())
    assert not any(isinstance(value, torch.nn.Module) for value in vars(read).values())
