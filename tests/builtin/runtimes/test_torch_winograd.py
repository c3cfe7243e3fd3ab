"""The torch_winograd runtime runs what gains by it, and says why it does not run the rest."""

import logging
from unittest.mock import create_autospec

import pytest
import torch
from torch import nn

from medfuse import registry
from medfuse.api import ImageInfo, Runtime
from medfuse.core.errors import MedfuseError
from medfuse.model import winograd
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.winograd import with_winograd
from medfuse.testing import check_runtime

WINDOWS = torch.randn((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 16, 3, padding=1),
        nn.InstanceNorm3d(16),
        nn.LeakyReLU(),
        nn.Conv3d(16, 16, 3, padding=1),
        nn.Conv3d(16, 3, 1),
    )


def runtime() -> Runtime:
    made = registry.get(Runtime.group, "torch_winograd")()
    assert isinstance(made, Runtime)
    return made


def test_it_gives_what_the_network_gives_for_any_number_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    convolve = create_autospec(winograd._Winograd._convolve, side_effect=winograd._Winograd._convolve)
    monkeypatch.setattr(winograd._Winograd, "_convolve", convolve)
    run = runtime().prepare(network(), WINDOWS)
    convolve.reset_mock()
    with torch.inference_mode():
        expected = network().eval()(WINDOWS)
    for windows, wanted in ((WINDOWS, expected), (WINDOWS[:1], expected[:1])):
        torch.testing.assert_close(run(windows), wanted, rtol=1e-4, atol=1e-4)
    assert convolve.call_count == 3


def test_results_that_change_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(winograd, "_KERNELS", -winograd._KERNELS)
    with torch.inference_mode():
        torch.testing.assert_close(runtime().prepare(network(), WINDOWS)(WINDOWS), network().eval()(WINDOWS))
    assert "torch runs the network as it is: its results change" in caplog.text


def test_a_network_that_gains_nothing_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="medfuse")
    model = nn.Conv3d(1, 2, 1)
    with torch.inference_mode():
        torch.testing.assert_close(runtime().prepare(model, WINDOWS)(WINDOWS), model(WINDOWS))
    assert "no 3-D convolution that gains" in caplog.text


@pytest.mark.parametrize("taps", ["forward_hook", "sequential_truncation", "fx_graph"])
def test_taps_work_in_the_copy(taps: str) -> None:
    settings = {
        "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 16, "stages": 2}},
        "taps": {"encoder": {"use": taps}},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
        "head": {"input": "decoded"},
    }
    image = ImageInfo(1, (8, 8, 8), (1.0, 1.0, 1.0))
    model = build_segmenter(plan_graph(ModelSettings.model_validate(settings), image, 3)).eval()
    quick = with_winograd(model)
    assert quick is not None
    for windows in (WINDOWS, 2 - WINDOWS):
        with torch.inference_mode():
            torch.testing.assert_close(quick(windows), model(windows), rtol=1e-3, atol=1e-3)


def test_it_keeps_the_rules_of_runtimes() -> None:
    check_runtime(runtime())


def test_the_windows_must_lie_on_the_cpu() -> None:
    with pytest.raises(MedfuseError, match="for the CPU, and the windows lie on meta"):
        runtime().prepare(network(), WINDOWS.to("meta"))
