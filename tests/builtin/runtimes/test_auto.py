"""`auto` takes the fastest runtime that is right, remembers it, and goes on without those that fail."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from clock import Clock
from pydantic import ValidationError
from torch import Tensor, nn

from medfuse import registry
from medfuse.api import Runtime
from medfuse.core.errors import MedfuseError
from medfuse.testing import check_runtime

WINDOWS = torch.randn((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))


CLOCK = Clock()


class Fake(Runtime):
    """A runtime that takes its time.

    runtime: {use: fake}
    """

    name: str = "fake"
    seconds: float = 1.0
    error: str = ""
    factor: float = 1.0
    prepared: ClassVar[list[str]] = []

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        self.prepared.append(self.name)
        if self.error:
            raise {"missing": MedfuseError, "broken": RuntimeError}[self.error]("it is not here\nat all")

        def run(windows: Tensor) -> Tensor:
            CLOCK.now += self.seconds
            with torch.inference_mode():
                return self.factor * model(windows)

        return run


SLOW, QUICK = Fake(name="slow", seconds=2), Fake(name="quick")
WRONG, BROKEN, MISSING = Fake(name="wrong", factor=-1), Fake(error="broken"), Fake(error="missing")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """Where it remembers, still empty; and no clock of the machine's decides."""
    monkeypatch.setattr("medfuse.core.device.time", CLOCK)
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path))
    monkeypatch.setattr("medfuse.core.remembered._told", [])  # a line a process
    caplog.set_level(logging.INFO, logger="medfuse")
    Fake.prepared.clear()
    return tmp_path / "runtimes.json"


def network(channels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 3, 1)).eval()


def prepared(*candidates: Runtime, model: nn.Module | None = None) -> Callable[[Tensor], Tensor]:
    auto = registry.get(Runtime.group, "auto")(candidates=candidates)
    assert isinstance(auto, Runtime)
    return auto.prepare(model or network(), WINDOWS)


def test_the_fastest_is_taken_and_said(caplog: pytest.LogCaptureFixture) -> None:
    prepared(SLOW, QUICK)(WINDOWS)
    said = caplog.messages[-1]
    assert said.startswith('Fake {"name": "quick"} runs the network: a batch of windows takes Fake')
    assert said.index("quick") < said.index("slow")


def test_what_was_found_is_remembered_for_another_network_of_that_structure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepared(SLOW, QUICK)
    Fake.prepared.clear()
    other = network()
    nn.init.normal_(other[0].weight)
    prepared(SLOW, QUICK, model=other)
    assert Fake.prepared == ["quick"]
    assert "as was found before" in caplog.messages[-1]


class Counted(nn.Sequential):
    """A network that counts how often it was run by itself."""

    runs = 0

    def forward(self, windows: Tensor) -> Tensor:
        Counted.runs += 1
        return super().forward(windows)


class Elsewhere(Fake):
    """A runtime that does not run the network itself."""

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        super().prepare(model, example)
        twin = nn.Sequential(*model.children())

        def run(windows: Tensor) -> Tensor:
            with torch.inference_mode():
                return self.factor * twin(windows)

        return run


def counted(scale: float = 1) -> Counted:
    model = Counted(*network().children())
    with torch.no_grad():
        model[0].weight.mul_(scale)
    return model.eval()


def runs_of(model: nn.Module, candidate: Runtime) -> int:
    """How often the network itself was run to choose what runs it."""
    Counted.runs = 0
    prepared(candidate, model=model)
    return Counted.runs


def test_what_was_barely_right_is_held_against_fp32_each_time() -> None:
    assert [runs_of(counted(), Elsewhere(factor=1.03)) for _ in range(2)] == [1, 1]


def test_what_was_right_with_these_weights_is_not_held_against_fp32_again() -> None:
    assert [runs_of(counted(), Elsewhere()) for _ in range(2)] == [1, 0]


def test_other_weights_options_and_code_are_held_against_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_of(counted(), Elsewhere())
    assert runs_of(counted(scale=2), Elsewhere()) == 1
    assert runs_of(counted(), Elsewhere(name="with another option")) == 1
    assert runs_of(counted(), Elsewhere()) == 0
    monkeypatch.setattr("medfuse.model.identity.file_hash", lambda path: "as somebody has changed it")
    assert runs_of(counted(), Elsewhere()) == 1


def test_what_was_wrong_is_held_against_fp32_each_time() -> None:
    wrong = Elsewhere(factor=-1)
    assert [runs_of(counted(), wrong) > 0 for _ in range(2)] == [True, True]


def test_another_structure_or_candidate_is_tried_anew() -> None:
    prepared(SLOW, QUICK)
    Fake.prepared.clear()
    prepared(SLOW, QUICK, model=network(channels=5))
    prepared(QUICK, SLOW, Fake(name="third"))
    assert sorted(Fake.prepared) == ["quick", "quick", "slow", "slow", "third"]


def test_what_is_remembered_and_now_wrong_is_not_used(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared(SLOW, WRONG)
    entries = json.loads(cache.read_text())
    (entry,) = entries.values()
    entry["choice"] = 'Fake {"name": "wrong", "factor": -1.0}'
    cache.write_text(json.dumps(entries))
    assert torch.equal(prepared(SLOW, WRONG)(WINDOWS), prepared(SLOW)(WINDOWS))


@pytest.mark.parametrize(
    ("fault", "said"),
    [(WRONG, "its results change"), (BROKEN, "RuntimeError: it is not here"), (MISSING, "it is not here")],
)
def test_a_candidate_that_fails_is_left_out_with_a_line(
    fault: Runtime, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(fault, SLOW)
    with torch.no_grad():
        assert torch.equal(run(WINDOWS), network()(WINDOWS))
    assert any(line.startswith("not Fake") and said in line for line in caplog.messages)


def test_what_is_not_installed_is_told_once_and_not_for_each_precision(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepared(MISSING, Fake(name="in bf16", error="missing"), QUICK)
    assert sum(line.startswith("not Fake: it is not here") for line in caplog.messages) == 1


def test_where_all_fail_torch_in_fp32_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    run = prepared(WRONG, BROKEN)
    with torch.no_grad():
        assert torch.allclose(run(WINDOWS), network()(WINDOWS), atol=1e-6)
    assert caplog.messages[-1].startswith("torch in fp32 runs the network")


def test_a_hopeless_candidate_is_timed_once() -> None:
    passes = []

    class Counted(Fake):
        def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
            run = super().prepare(model, example)
            return lambda windows: (passes.append(self.name), run(windows))[1]

    prepared(Counted(name="hopeless", seconds=4), Counted(name="quick"))
    assert passes.count("hopeless") == 2  # is it right, and how long does it take
    assert passes.count("quick") > 2


def test_what_somebody_else_remembered_chooses_nothing_that_is_not_offered(cache: Path) -> None:
    prepared(SLOW, QUICK)
    (key,) = json.loads(cache.read_text())
    for foreign in (5, [], {}, {"choice": 5}, {"choice": ["quick"]}, {"choice": {}}, {"choice": "os.system"}):
        cache.write_text(json.dumps({key: foreign}))
        assert prepared(SLOW, QUICK)(WINDOWS).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("damage", ["{", "[]", "null", '{"a": '])
def test_a_damaged_file_is_told_of_and_ignored(
    damage: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text(damage)
    prepared(SLOW, QUICK)
    assert "is ignored" in caplog.text
    assert "quick" in caplog.messages[-1]
    assert len(json.loads(cache.read_text())) == 1


def test_a_cache_that_cannot_be_written_costs_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "file"))
    assert prepared(QUICK)(WINDOWS).shape == (2, 3, 8, 8)
    assert "not remembered" in caplog.text


def test_what_was_wrong_with_some_weights_is_tried_again_with_others() -> None:
    model, other = network(), network()
    with torch.no_grad():
        other[0].weight.mul_(2)
    tried = []
    for each in (model, model, other):
        Fake.prepared.clear()
        prepared(SLOW, WRONG, model=each)
        tried.append([*Fake.prepared])
    assert tried == [["slow", "wrong"], ["slow"], ["slow", "wrong"]]


def test_a_candidate_in_auto_precision_is_tried_in_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from medfuse.core import device

    monkeypatch.setattr(device, "_has_bf16", lambda _: True)
    torch_runtime = registry.get(Runtime.group, "torch")()
    assert isinstance(torch_runtime, Runtime)
    prepared(torch_runtime)
    assert "torch in fp32" in caplog.messages[-1]
    assert "torch in bf16" in caplog.messages[-1]


def test_without_bf16_units_only_fp32_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from medfuse.core import device

    monkeypatch.setattr(device, "_has_bf16", lambda _: False)
    torch_runtime = registry.get(Runtime.group, "torch")()
    assert isinstance(torch_runtime, Runtime)
    prepared(torch_runtime)
    assert "bf16" not in caplog.text


def test_in_fp32_nothing_shorter_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from medfuse.core import device

    monkeypatch.setattr(device, "_has_bf16", lambda _: True)
    auto = registry.get(Runtime.group, "auto")(candidates=["torch"], precision="fp32")
    assert isinstance(auto, Runtime)
    logits = auto.prepare(network(), WINDOWS)(WINDOWS)
    assert "torch in fp32 runs the network" in caplog.text
    assert "bf16" not in caplog.text
    assert logits.dtype == torch.float32


def test_a_candidate_that_changes_nothing_is_left_to_the_one_that_it_ends_with(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = registry.get(Runtime.group, "torch").model_validate({"precision": "fp32"})
    winograd = registry.get(Runtime.group, "torch_winograd")()
    assert isinstance(plain, Runtime)
    assert isinstance(winograd, Runtime)
    prepared(winograd, plain)
    assert "torch in fp32 runs the network" in caplog.messages[-1]
    assert "winograd" not in caplog.messages[-1]
    prepared(winograd)
    assert "nothing else" not in caplog.messages[-1]


def test_it_does_not_choose_itself() -> None:
    auto = registry.get(Runtime.group, "auto")
    with pytest.raises(ValidationError, match="leave it out"):
        auto(candidates=[auto()])


def test_it_keeps_the_contract() -> None:
    check_runtime(registry.get(Runtime.group, "auto")(candidates=["torch"]))
