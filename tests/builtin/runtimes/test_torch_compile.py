"""The torch_compile runtime compiles the network, or runs it as it is and says why."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medfuse import registry
from medfuse.api import Runtime

WINDOWS = torch.randn((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(8, 3, 1))


def prepared(name: str) -> Any:
    runtime = registry.get(Runtime.group, name)(precision="fp32")
    assert isinstance(runtime, Runtime)
    return runtime.prepare(network(), WINDOWS)


def test_compiling_that_fails_falls_back_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(model: nn.Module, dynamic: bool) -> Any:
        def run(x: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    assert torch.equal(prepared("torch_compile")(WINDOWS), prepared("torch")(WINDOWS))
    assert "does not compile the network: RuntimeError: no C++ compiler" in caplog.text
    assert "long story" not in caplog.text


def test_compiling_that_changes_results_falls_back_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: lambda x: -model(x))
    assert torch.equal(prepared("torch_compile")(WINDOWS), prepared("torch")(WINDOWS))
    assert "its results change" in caplog.text


def test_compiled_code_sees_one_shape_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()

    def compiled(model: nn.Module, dynamic: bool) -> Any:
        def run(x: Tensor) -> Tensor:
            shapes.add(tuple(x.shape))
            return model(x)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    run = prepared("torch_compile")
    expected = prepared("torch")(WINDOWS)
    assert torch.allclose(run(WINDOWS[:1]), expected[:1], atol=1e-5)
    assert torch.allclose(run(torch.cat([WINDOWS, WINDOWS[:1]])), expected[[0, 1, 0]], atol=1e-5)
    assert shapes == {tuple(WINDOWS.shape)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
def test_a_compiled_network_gives_what_the_plain_one_gives() -> None:
    expected = prepared("torch")(WINDOWS)
    assert prepared("torch_compile")(WINDOWS).numpy() == pytest.approx(expected.numpy(), abs=1e-4)
