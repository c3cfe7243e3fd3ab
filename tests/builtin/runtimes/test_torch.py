"""The torch runtime gives what the network gives, in fp32, whatever it computes in."""

import logging
from typing import Any

import pytest
import torch
from clock import Clock
from torch import Tensor, nn

from medfuse import registry
from medfuse.api import Runtime
from medfuse.core import device


def prepared(model: nn.Module, example: Tensor, **options: Any) -> Any:
    runtime = registry.get(Runtime.group, "torch")(**options)
    assert isinstance(runtime, Runtime)
    return runtime.prepare(model, example)


def network(dims: int = 3) -> nn.Module:
    torch.manual_seed(0)
    conv, norm = (nn.Conv3d, nn.InstanceNorm3d) if dims == 3 else (nn.Conv2d, nn.InstanceNorm2d)
    return nn.Sequential(conv(1, 8, 3, padding=1), norm(8), nn.LeakyReLU(), nn.Dropout(0.5), conv(8, 3, 1))


def windows(dims: int = 3) -> Tensor:
    return torch.randn((2, 1, *[8] * dims), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fp32_gives_what_the_network_gives_in_evaluation(dims: int, channels_last: bool) -> None:
    model = network(dims)
    run = prepared(model, windows(dims), precision="fp32", channels_last=channels_last)
    with torch.no_grad():
        expected = network(dims).eval()(windows(dims))
    assert run(windows(dims)).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_logits_come_as_computed_and_near_those_of_fp32(precision: str, dtype: torch.dtype) -> None:
    expected = prepared(network(), windows(), precision="fp32")(windows())
    logits = prepared(network(), windows(), precision=precision)(windows())
    assert logits.dtype == dtype
    assert (logits - expected).norm() < 0.05 * expected.norm()


def test_bf16_computes_in_bf16() -> None:
    seen = []
    model = network()
    model[0].register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    run = prepared(model, windows(), precision="bf16")
    run(windows())
    assert seen[-1] == torch.bfloat16


def test_a_pause_of_the_machine_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    class Pauses(nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            if not torch.is_autocast_enabled("cpu"):
                clock.now += 5
            else:
                self.passes += 1
                clock.now += 30 if self.passes == 2 else 1
            return x + 1

    monkeypatch.setattr(device, "time", clock)
    monkeypatch.setattr(device, "_has_bf16", lambda _: True)
    assert device.choose_precision("auto", Pauses(), windows(), backward=False).kind == "bf16"


def test_auto_takes_fp32_where_bf16_gives_other_results(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, -x if torch.is_autocast_enabled("cpu") else x + 1], dim=1)

    with caplog.at_level(logging.INFO):
        run = prepared(Wrong(), windows())
    assert torch.equal(run(windows()), torch.cat([windows(), windows() + 1], dim=1))
    assert "fp32" in caplog.text


def test_channels_last_reaches_the_weights_and_the_windows() -> None:
    model = network()
    layouts = []
    model[0].register_forward_pre_hook(
        lambda module, given: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last_3d))
    )
    run = prepared(model, windows(), precision="fp32")
    run(windows())
    assert layouts[-1]
    assert model[4].weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_model_that_was_prepared_in_inference_mode_can_be_trained_again() -> None:
    model = network()
    with torch.inference_mode():
        prepared(model, windows(), precision="auto")(windows())
    model.train()(windows()).sum().backward()
    assert model[0].weight.grad is not None


def test_a_last_batch_may_be_smaller() -> None:
    run = prepared(network(), windows(), precision="fp32")
    assert run(windows()[:1]).numpy() == pytest.approx(run(windows())[:1].numpy(), abs=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_cuda_graph_gives_what_the_network_gives(
    dims: int, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    example = windows(dims).cuda()
    run = prepared(network(dims).cuda(), example, precision=precision)
    assert "captures no CUDA graph" not in caplog.text
    with torch.no_grad():
        expected = network(dims).eval()(windows(dims))
    for batch in (example, example[:1], example.repeat(2, *[1] * (dims + 1))[:3]):
        assert (run(batch)[:1].cpu() - expected[:1]).norm() < 0.02 * expected[:1].norm()


@pytest.mark.gpu
def test_logits_of_a_cuda_graph_outlive_the_next_windows() -> None:
    example = windows().cuda()
    run = prepared(network().cuda(), example, precision="fp32")
    first = run(example)
    kept = first.clone()
    run(example + 1)
    assert torch.equal(first, kept)


@pytest.mark.gpu
def test_auto_is_half_precision_or_says_why_not_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logits = prepared(network().cuda(), windows().cuda())(windows().cuda())
    assert logits.dtype in (torch.float32, torch.bfloat16, torch.float16)
    assert "torch runs the network in" in caplog.text
