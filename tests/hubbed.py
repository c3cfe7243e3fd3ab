"""A backbone of another package whose width and weights lie in a folder, as those of a hub do."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medfuse import Backbone, FeatureInfo, ImageInfo, Origin, registry
from medfuse.core.errors import CheckpointError


class Net(nn.Module):
    def __init__(self, channels: int, dims: int, width: int) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
        self.stem = conv(channels, width, 3, padding=1)
        self.norm = norm(width)
        self.act = nn.ReLU()
        self.deep = conv(width, 2 * width, 3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.deep(self.act(self.norm(self.stem(x))))
        return made


class Hubbed(Backbone):
    """A small network that a folder describes and has weights for.

    backbones:
      encoder: {use: hubbed, folder: net}
    """

    folder: str = Field(description="where config.json and model.safetensors lie")
    config: dict[str, int] = Field(default_factory=dict, description="what config.json said, once it is read")
    normalize: tuple[str, ...] = Field((), description="what its weights were trained for")

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        width = self._config()["width"]
        return [
            FeatureInfo("norm", width, (1,) * image.dims),
            FeatureInfo("deep", 2 * width, (2,) * image.dims),
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        return Net(image.channels, image.dims, self._config()["width"])

    def origin(self) -> Origin | None:
        if not (Path(self.folder) / "config.json").is_file():
            raise CheckpointError(f"{self.folder}: no such folder; fetch it first")
        return Origin(f"{Path(self.folder).name}@1", "cc-by-nc-4.0", self.normalize)

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        return load_file(Path(self.folder) / "model.safetensors")

    def pinned(self) -> Backbone:
        return self.model_copy(update={"config": self._config()})

    def _config(self) -> dict[str, int]:
        if self.config:
            return self.config
        path = Path(self.folder) / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; fetch it first")
        return dict(json.loads(path.read_text()))


def write_hub(folder: Path, *, width: int = 4, channels: int = 1, dims: int = 3) -> dict[str, Tensor]:
    """A folder for the backbone above; its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"width": width}))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = Net(channels, dims, width)
        network.norm.running_mean.normal_()
    state = dict(network.state_dict())
    save_file(state, folder / "model.safetensors")
    return state


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """`use: hubbed` works while this is entered."""
    info = site / "hubbed_package-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hubbed-package\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[{Backbone.group}]\nhubbed = hubbed:Hubbed\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        registry.forget()
        try:
            yield
        finally:
            registry.forget()
