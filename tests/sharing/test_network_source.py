"""A network as a Python file computes what the network does, to the last bit, whatever it is built of."""

from pathlib import Path

import pytest
import torch

from medfuse.core.errors import MedfuseError
from medfuse.core.features import ImageInfo
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.pipeline import load_pipeline
from medfuse.sharing.network_source import made_of, network_source

PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))
QUICK = ("liver", "image_level", "spp")


@pytest.mark.parametrize(
    "path",
    [path if path.stem in QUICK else pytest.param(path, marks=pytest.mark.slow) for path in PIPELINES],
    ids=lambda path: path.stem,
)
def test_every_network_of_the_pipelines_computes_the_same(path):
    pipeline, _ = load_pipeline(path)
    size = (32, 32, 32) if pipeline.sample.patch_size == "auto" else tuple(pipeline.sample.patch_size)
    image = ImageInfo(1, size, (1.0,) * len(size))
    torch.manual_seed(0)
    network = build_segmenter(plan_graph(pipeline.model, image, 3)).eval()
    written = made_of(network_source(network, torch.zeros((1, 1, *size))))
    windows = torch.randn((2, 1, *size))
    with torch.inference_mode():
        assert torch.equal(network(windows), written(windows))


def test_it_tells_of_no_file_of_this_machine():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.BatchNorm3d(2))
    text = network_source(network, torch.zeros((1, 1, 8, 8, 8))).text
    assert str(Path(torch.__file__).parent) not in text
    assert str(Path.home()) not in text


class Deciding(torch.nn.Module):
    """Computes by what it sees, which no program of plain calls does."""

    def forward(self, windows):
        return windows * 2 if windows.sum() > 0 else windows


def test_a_network_that_is_no_program_is_a_line():
    with pytest.raises(MedfuseError, match="docker") as told:
        network_source(Deciding(), torch.zeros((1, 1, 8, 8, 8)))
    assert len(told.value.lines) == 1


@pytest.mark.parametrize("kind", ["bundle", "slicer"])
def test_nothing_is_left_of_a_model_whose_network_is_none(kind, tmp_path, monkeypatch):
    from sharing.models import write_model

    from medfuse.model.segmenter import Segmenter
    from medfuse.sharing.formats import write_model as share

    weights = write_model(tmp_path / "small.safetensors")
    monkeypatch.setattr(
        Segmenter, "forward", lambda self, windows, *_: Deciding()(windows).repeat(1, 3, 1, 1, 1)
    )
    with pytest.raises(MedfuseError, match=r"small\.safetensors: its network"):
        share(weights, tmp_path / "out.zip", kind=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]
