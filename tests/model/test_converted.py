"""A network is converted to OpenVINO once; what is kept is that network's, whole, and never another's."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino", reason="what it converts to is not installed")

from medfuse.model import converted as kept
from medfuse.model import known, openvino
from medfuse.model.converted import converted

WINDOWS = torch.randn((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path))
    return tmp_path / "openvino"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that are converted from now on."""
    made: list[nn.Module] = []
    real = openvino.convert

    def convert(model: nn.Module, example: Tensor) -> object:
        made.append(model)
        return real(model, example)

    monkeypatch.setattr(openvino, "convert", convert)
    return made


def network(seed: int = 0, slope: float = 0.01) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(slope), nn.Conv3d(4, 2, 1))
    return nn.Sequential(*layers).eval()


def logits(model: nn.Module, windows: Tensor = WINDOWS) -> Tensor:
    return openvino.compiled(converted(model, windows), windows, "fp32")(windows)


def test_the_second_call_converts_nothing_and_answers_the_same_to_the_last_bit(
    conversions: list[nn.Module],
) -> None:
    first = logits(network())
    assert torch.equal(logits(network()), first)
    assert len(conversions) == 1


@pytest.mark.parametrize("other", [network(seed=1), network(slope=0.2)], ids=["weights", "a layer"])
def test_another_network_is_never_answered_for(conversions: list[nn.Module], other: nn.Module) -> None:
    logits(network())
    with torch.inference_mode():
        assert torch.allclose(logits(other), other(WINDOWS), atol=1e-5)
    assert len(conversions) == 2


def test_other_windows_and_other_versions_are_converted_for_themselves(
    conversions: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(network())
    logits(network(), WINDOWS[..., :4])
    logits(network(), WINDOWS[:1])  # one window or two is the same network
    assert len(conversions) == 2
    monkeypatch.setattr(known, "_installed", lambda: ["another"])
    logits(network())
    assert len(conversions) == 3


@pytest.mark.parametrize("ending", [".xml", ".bin"])
def test_what_is_damaged_is_converted_anew(conversions: list[nn.Module], cache: Path, ending: str) -> None:
    first = logits(network())
    (path,) = cache.glob(f"*{ending}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.equal(logits(network()), first)
    assert len(conversions) == 2
    logits(network())
    assert len(conversions) == 2


def test_a_cache_that_cannot_be_written_keeps_nothing_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "file"))
    assert logits(network()).shape == (2, 2, 8, 8, 8)


def test_what_was_not_used_for_longest_goes_first(
    conversions: list[nn.Module], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(network(0))
    logits(network(1))
    for age, path in enumerate(sorted(cache.glob("*.xml"), key=lambda one: one.stat().st_mtime)):
        os.utime(path, (age, age))
    logits(network(0))  # used again
    monkeypatch.setattr(kept, "_MOST_BYTES", sum(one.stat().st_size for one in cache.iterdir()))
    logits(network(2))
    assert len([*cache.glob("*.xml")]) == len([*cache.glob("*.bin")]) == 2
    logits(network(0))
    assert len(conversions) == 3
