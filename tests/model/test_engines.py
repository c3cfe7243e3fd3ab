"""Who runs a network is told, and is the same as before where it can be."""

import logging
import re
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from medfuse import registry
from medfuse.api import Runtime
from medfuse.builtin.runtimes.auto import Auto
from medfuse.builtin.runtimes.torch import Torch
from medfuse.core.engine import Running, differences, label, told_by, told_once
from medfuse.core.errors import MedfuseError
from medfuse.model.engines import engine_of, prepare_as

WINDOWS = torch.randn((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))


class Plain(Runtime):
    """A runtime of somebody else, which tells nothing."""

    factor: float = 1.0
    missing: bool = False

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        if self.missing:
            raise MedfuseError("runtime plain: it is not installed")
        return lambda windows: self.factor * model(windows).detach()


class Talking(Plain):
    """One that has a choice of its own, and tells what cannot be written down."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        kind = "fp32" if self.precision == "auto" else self.precision
        return Running(super().prepare(model, example), precision=kind, built=torch.float32)


@pytest.mark.parametrize("name", [n for n in registry.names(Runtime.group) if n != "torch_compile"])
def test_every_runtime_tells_its_name_precision_and_versions(name: str) -> None:
    runtime = registry.get(Runtime.group, name)()
    assert isinstance(runtime, Runtime)
    try:
        run = prepare_as(runtime, network(), WINDOWS)
    except MedfuseError as error:
        pytest.skip(str(error))  # it says which package or device is not here
    assert run.engine["runtime"] in {*registry.names(Runtime.group)} - {"auto"}
    assert run.engine["precision"] in ("fp32", "bf16")
    assert run.engine["device"] == "cpu"
    assert run.engine["threads"] == torch.get_num_threads()
    package = {"openvino": "openvino", "onnxruntime": "onnxruntime"}.get(str(run.engine["runtime"]), "torch")
    assert {"medfuse", "torch", package} <= {*run.engine["versions"]}
    assert all(run.engine["versions"].values())


def test_what_does_not_compile_is_told_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from medfuse.builtin.runtimes.torch_compile import TorchCompile

    def broken(windows: Tensor) -> Tensor:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: broken)
    assert label(prepare_as(TorchCompile(precision="fp32"), network(), WINDOWS).engine) == "torch in fp32"
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    assert (
        label(prepare_as(TorchCompile(precision="fp32"), network(), WINDOWS).engine)
        == "torch_compile in fp32"
    )


def test_a_runtime_that_tells_nothing_is_named_with_its_parameters() -> None:
    assert engine_of(Plain(factor=2.0), lambda windows: windows) == {
        "runtime": "Plain",
        "factor": 2.0,
        "versions": {},
    }


def test_what_cannot_be_written_down_is_told_as_text() -> None:
    assert prepare_as(Talking(), network(), WINDOWS).engine["built"] == "torch.float32"
    assert told_by(lambda windows: windows) == {}


def test_auto_tells_what_it_chose() -> None:
    auto = Auto(candidates=(Plain(factor=-1.0), Torch(precision="fp32")))
    engine = prepare_as(auto, network(), WINDOWS).engine
    assert label(engine) == "torch in fp32"
    assert "candidates" not in engine


def test_a_choice_is_kept_whatever_the_clock_says() -> None:
    auto = Auto(candidates=(Torch(precision="fp32"), Torch(precision="bf16")))
    for kind in ("fp32", "bf16"):
        engine = prepare_as(auto, network(), WINDOWS, {"runtime": "torch", "precision": kind}).engine
        assert engine["precision"] == kind
    assert label(
        prepare_as(Talking(), network(), WINDOWS, {"runtime": "Talking", "precision": "fp32"}).engine
    ) == ("Talking in fp32")


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        ({"runtime": "gone", "precision": "bf16"}, "gone in bf16, which made .* is not to be had here"),
        ({"runtime": "Plain", "factor": -1.0}, "Plain, .* is not used: its results change"),
        ({"runtime": "Plain", "missing": True}, "Plain, .* is not used: runtime plain: it is not installed"),
    ],
)
def test_an_engine_that_cannot_be_kept_is_told_with_its_reason(
    kept: dict[str, object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="medfuse.model.engines")
    auto = Auto(candidates=(Torch(precision="fp32"), Plain(factor=-1.0), Plain(missing=True)))
    assert prepare_as(auto, network(), WINDOWS, kept).engine["runtime"] == "torch"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "medfuse.model.engines"]
    assert re.search(why, line)


def test_differences_name_what_changed() -> None:
    before = {
        "runtime": "openvino",
        "precision": "bf16",
        "threads": 4,
        "versions": {"torch": "2.8", "openvino": "1"},
    }
    now = {"runtime": "torch", "precision": "fp32", "threads": 4, "versions": {"torch": "2.9"}}
    assert differences(before, before) == []
    assert differences(before, now) == ["openvino in bf16 → torch in fp32", "torch 2.8 → 2.9"]
    assert differences(before, {**before, "threads": 2}) == ["threads 4 → 2"]


def test_engines_that_are_alike_are_told_once() -> None:
    one, other = {"runtime": "a"}, {"runtime": "b"}
    assert told_once([one, dict(one)]) == [one]
    assert told_once([one, other]) == [one, other]
    assert told_once([{}, {}]) == []
