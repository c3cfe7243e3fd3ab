"""The digest of a network: another one for all that changes its answers; none where that cannot be told."""

import importlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medfuse.model import known as module
from medfuse.model.known import known


class Settings:
    def __init__(self, gain: float) -> None:
        self.gain = gain


class Slotted:
    __slots__ = ("gain",)

    def __init__(self, gain: float) -> None:
        self.gain = gain


class Scaled(nn.Module):
    """Whose answers depend on what nothing but an attribute says."""

    def __init__(self, gain: Any = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv3d(1, 2, 1)
        self.gain = gain

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(image) * self.gain
        return made


def by(gain: float) -> Any:
    return lambda image: image * gain


def with_default(gain: float) -> Any:
    def scaled(image: torch.Tensor, gain: float = gain) -> torch.Tensor:
        return image * gain

    return scaled


def hooked(gain: float) -> nn.Module:
    made = Scaled()
    made.layer.register_forward_hook(partial(lambda gain, layer, given, answer: answer * gain, gain))
    return made


def of_itself(gain: float) -> nn.Module:
    """A hook that holds the network, as taps do."""
    made = Scaled(gain)
    made.layer.register_forward_hook(partial(type(made)._apply, made))
    made.layer.register_forward_hook(lambda *_: made.gain)
    return made


def unseen_layer(gain: float) -> nn.Module:
    return Scaled([Scaled(gain)])  # in a list


def of_weights(gain: float) -> nn.Module:
    made = Scaled()
    with torch.no_grad():
        made.layer.weight.mul_(gain)
    return made


WAYS = {
    "weights": of_weights,
    "an attribute": Scaled,
    "in a list": lambda gain: Scaled([1, {"gain": (gain,)}]),
    "in an object": lambda gain: Scaled(Settings(gain)),
    "in slots": lambda gain: Scaled(Slotted(gain)),
    "a tensor": lambda gain: Scaled(torch.tensor(gain)),
    "an array": lambda gain: Scaled(np.array([gain])),
    "a closure": lambda gain: Scaled(by(gain)),
    "a default": lambda gain: Scaled(with_default(gain)),
    "a method": lambda gain: Scaled(Scaled(gain).forward),
    "a hook": hooked,
    "a hook of itself": of_itself,
    "a layer that torch does not see": unseen_layer,
    "the size of a set": lambda gain: Scaled({str(gain)}),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_the_same_is_known_again_and_what_is_not_never(way: str) -> None:
    make: Any = WAYS[way]
    first, again, other = known(make(2.0)), known(make(2.0)), known(make(3.0))
    assert first is not None
    assert first == again
    assert first != other


@pytest.mark.parametrize("way", ["weights", "an attribute", "in an object", "a hook of itself"])
def test_another_process_knows_it_again(way: str) -> None:
    code = (
        f"import test_known as t; from medfuse.model.known import known; print(known(t.WAYS[{way!r}](2.0)))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    # as the module has another name in the tests' own process, both are asked elsewhere
    assert len(done.stdout.strip()) == 16, done.stderr
    again = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    "value",
    [
        torch.Generator(),
        iter([1]),
        {object()},
        np.array([Settings(1.0)], dtype=object),
        memoryview(b"1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_told_leaves_no_digest(value: Any) -> None:
    assert known(Scaled(value)) is None


def test_code_without_a_file_leaves_none() -> None:
    names: dict[str, Any] = {"__name__": "typed_in"}
    exec("def scaled(image):\n    return 2 * image", names)
    assert known(Scaled(names["scaled"])) is None


def test_a_package_that_changes_makes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys").mkdir()
    helper = tmp_path / "somebodys" / "helper.py"
    helper.write_text("GAIN = 2\n")
    (tmp_path / "somebodys" / "__init__.py").write_text(
        "from somebodys.helper import GAIN\n\ndef scaled(image):\n    return image * GAIN\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scaled = importlib.import_module("somebodys").scaled
    try:
        first = known(Scaled(scaled))
        assert first is not None
        module._source.cache_clear()
        assert known(Scaled(scaled)) == first
        helper.write_text("GAIN = 30\n")
        module._source.cache_clear()
        assert known(Scaled(scaled)) not in (None, first)
    finally:
        module._source.cache_clear()
        for name in ("somebodys", "somebodys.helper"):
            sys.modules.pop(name)


def test_what_is_installed_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = known(Scaled())
    monkeypatch.setattr(module, "_installed", lambda: ["torch-9.dist-info"])
    assert known(Scaled()) != first
