"""OpenVINO and ONNX Runtime give what torch gives, for any number of windows."""

import ctypes
import gc
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medfuse import registry
from medfuse.api import ImageInfo, Runtime
from medfuse.core.errors import MedfuseError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.testing import check_runtime

NEEDS = {"openvino": ["openvino"], "onnxruntime": ["onnx", "onnxscript", "onnxruntime"]}


SLOW = pytest.param("onnxruntime", marks=pytest.mark.slow)  # torch takes half a minute to export a network


@pytest.fixture(params=["openvino", SLOW])
def engine(request: pytest.FixtureRequest) -> str:
    extra = {"openvino": "openvino", "onnxruntime": "onnx"}[request.param]
    for package in NEEDS[request.param]:
        pytest.importorskip(package, reason=f"pip install 'medfuse[{extra}]' to run on {request.param}")
    return str(request.param)


def prepared(name: str, model: nn.Module, example: Tensor, **options: Any) -> Any:
    runtime = registry.get(Runtime.group, name)(**options)
    assert isinstance(runtime, Runtime)
    return runtime.prepare(model, example)


def segmenter(dims: int, encoder: dict[str, Any], size: int = 16) -> nn.Module:
    settings = ModelSettings.model_validate(
        {
            "backbones": {"encoder": encoder},
            "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
            "head": {"input": "decoded"},
        }
    )
    torch.manual_seed(0)
    return build_segmenter(plan_graph(settings, ImageInfo(1, (size,) * dims, (1.0,) * dims), 3)).eval()


def windows(batch: int, dims: int, size: int = 16) -> Tensor:
    return torch.randn((batch, 1, *[size] * dims), generator=torch.Generator().manual_seed(0))


def in_torch(model: nn.Module, given: Tensor) -> Tensor:
    with torch.no_grad():
        return model(given)


UNET = {"use": "unet_encoder", "base_channels": 4, "stages": 3}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_gives_what_torch_gives_for_any_number_of_windows(engine: str, dims: int, batch: int) -> None:
    model = segmenter(dims, UNET)
    run = prepared(
        engine, model, windows(batch, dims), **({"precision": "fp32"} if engine == "openvino" else {})
    )
    for number in (1, 2, 3):
        torch.testing.assert_close(
            run(windows(number, dims)), in_torch(model, windows(number, dims)), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_slices_with_their_neighbours_go_through(engine: str, neighbours: int) -> None:
    encoder = {"use": "slices", "of": UNET, "neighbours": neighbours}
    model = segmenter(3, encoder)
    run = prepared(engine, model, windows(2, 3), **({"precision": "fp32"} if engine == "openvino" else {}))
    for number in (1, 2, 3):
        given = windows(number, 3)
        torch.testing.assert_close(run(given), in_torch(model, given), rtol=1e-3, atol=1e-3)


class Joining(nn.Module):
    """Takes and joins parts of its input in the ways that networks do, before any layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        turned = x[..., [15 - n for n in range(16)]] if self.way == "index" else x.flip(-1)
        x = torch.stack([x, turned], 1).flatten(1, 2) if self.way == "stack" else torch.cat([x, turned], 1)
        logits: Tensor = self.layer(x)
        return logits


@pytest.mark.parametrize("way", ["cat", "stack", "index"])
def test_what_is_joined_before_any_layer_goes_through(engine: str, way: str) -> None:
    torch.manual_seed(0)
    model = Joining(way).eval()
    run = prepared(engine, model, windows(2, 2), **({"precision": "fp32"} if engine == "openvino" else {}))
    for number in (1, 3):
        given = windows(number, 2)
        torch.testing.assert_close(run(given), in_torch(model, given), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_a_residual_network_with_hooks_goes_through(engine: str, dims: int) -> None:
    model, given = segmenter(dims, {"use": "resnet", "depth": 10}, 32), windows(1, dims, 32)
    run = prepared(engine, model, given, **({"precision": "fp32"} if engine == "openvino" else {}))
    torch.testing.assert_close(run(given), in_torch(model, given), rtol=1e-3, atol=1e-3)


def test_logits_outlive_the_next_windows(engine: str) -> None:
    run = prepared(engine, segmenter(2, UNET), windows(1, 2))
    first = run(windows(1, 2))
    kept = first.clone()
    run(windows(1, 2) + 1)
    assert torch.equal(first, kept)


def test_windows_may_lie_in_memory_in_any_order(engine: str) -> None:
    run = prepared(engine, model := segmenter(2, UNET), windows(2, 2))
    given = (windows(2, 2) + 1).transpose(2, 3)
    torch.testing.assert_close(run(given).float(), in_torch(model, given), rtol=0.05, atol=0.05)


def test_it_keeps_the_contract(engine: str) -> None:
    check_runtime(registry.get(Runtime.group, engine)())


def test_a_package_that_is_missing_is_asked_for_in_one_line(engine: str, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, NEEDS[engine][0], None)
    with pytest.raises(MedfuseError, match=r"pip install 'medfuse\[") as refused:
        prepared(engine, segmenter(2, UNET), windows(1, 2))
    assert len(refused.value.lines) == 1


def test_onnxruntime_runs_one_convolution() -> None:
    for package in NEEDS["onnxruntime"]:
        pytest.importorskip(package, reason="pip install 'medfuse[onnx]' to run on onnxruntime")
    model = nn.Conv2d(1, 3, 3, padding=1)
    run = prepared("onnxruntime", model, windows(1, 2))
    torch.testing.assert_close(run(windows(3, 2)), in_torch(model, windows(3, 2)), rtol=1e-3, atol=1e-3)


def test_openvino_in_bf16_is_near_fp32() -> None:
    pytest.importorskip("openvino", reason="pip install 'medfuse[openvino]' to run on openvino")
    model = segmenter(3, UNET)
    logits = prepared("openvino", model, windows(1, 3), precision="bf16")(windows(1, 3))
    expected = in_torch(model, windows(1, 3))
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).norm() < 0.05 * expected.norm()


class SignalStack(ctypes.Structure):
    """C's `stack_t`: where a thread handles signals."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")
def test_signals_can_still_be_handled_when_another_thread_drops_openvinos_last_network() -> None:
    pytest.importorskip("openvino", reason="pip install 'medfuse[openvino]' to run on openvino")
    example = windows(1, 2)
    held = [prepared("openvino", segmenter(2, UNET), example, precision="fp32")]
    thread = Thread(target=lambda: (held.clear(), gc.collect()))
    thread.start()
    thread.join()
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = [[int(n, 16) for n in line.split()[0].split("-")] for line in lines]
    assert not stack.start or any(first <= stack.start < end for first, end in mapped)
