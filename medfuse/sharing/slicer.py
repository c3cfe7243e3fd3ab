"""A zip file as the extension MONAIAuto3DSeg of 3D Slicer takes its models: model.pt and labels.csv.

That extension makes the network from what the checkpoint says by MONAI's configuration, and prepares images
in ways of its own. So the network is put in as TorchScript, its scaling of intensities in front of it; what
the extension cannot prepare is refused.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.core.device import disagreement
from medfuse.core.errors import MedfuseError
from medfuse.data.plan import Normalization
from medfuse.sharing.description import Description
from medfuse.sharing.formats import VERSION, slug
from medfuse.sharing.label_table import label_table
from medfuse.sharing.model import SharedModel, write_json
from medfuse.sharing.network_source import made_of, network_source, said_of

MOST_CHANNELS, MOST_LABELS = 4, 255
NORMALIZE = {"none": "none", "nonzero_zscore": "mri"}
"""What the extension does to intensities, for what medfuse does; fixed numbers are in the network."""


class Scaled(nn.Module):
    """Windows as the extension hands them over → logits of the network, which sees them scaled."""

    lower: Tensor
    upper: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, inputs: Sequence[tuple[int, Normalization]], dims: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("channel", torch.tensor([channel for channel, _ in inputs]))
        free = Normalization("ct", -3e38, 3e38, 0.0, 1.0)
        scales = [how if how.kind in ("ct", "window") else free for _, how in inputs]
        for name in ("lower", "upper", "mean", "std"):
            numbers = torch.tensor([getattr(how, name) for how in scales]).reshape(1, -1, *[1] * dims)
            self.register_buffer(name, numbers)

    def forward(self, windows: Tensor) -> Tensor:
        own = windows.float().index_select(1, self.get_buffer("channel"))
        scaled = (torch.minimum(torch.maximum(own, self.lower), self.upper) - self.mean) / self.std
        logits: Tensor = self.network(scaled)
        return logits


def write(folder: Path, model: SharedModel) -> None:
    """Raises MedfuseError, with all that the extension cannot do, for a model that it cannot run."""
    plan = model.trained.plan
    if faults := list(refusals(model)):
        raise MedfuseError(
            f"{model.weights}: Slicer's MONAIAuto3DSeg cannot run it: {'; '.join(faults)}; use "
            "`medfuse serve`, which Slicer's MONAILabel asks, or export a bundle"
        )
    window = torch.randn(
        (1, len(plan.channels), *plan.patch_size), generator=torch.Generator().manual_seed(0)
    )
    inputs = [(n, one) for n, how in enumerate(plan.normalization) for one in how.inputs]
    image = plan.image
    example = torch.zeros((1, image.channels, *image.patch_size))
    with said_of(model.weights):
        network = made_of(network_source(model.trained.segmenter(), example, flat=True))
        whole = Scaled(network, inputs, image.dims).eval()
        checkpoint = {"config": configuration(model, program_of(whole, window)), "state_dict": _plain(whole)}
        with (folder / "model.pt").open("wb") as file:  # a path would give its name to what is inside
            torch.save(checkpoint, file)
        if fault := disagreement(whole(window), load(folder / "model.pt")(window)):
            raise MedfuseError(f"as TorchScript {fault}; export it to another format")
    said = model.description
    model.write_about(folder, _how(said))
    numbers = {value: number for number, value in enumerate(plan.values)}
    labels = [label.model_copy(update={"value": numbers[label.value]}) for label in said.labels]
    (folder / "labels.csv").write_text(label_table(labels), encoding="utf-8")
    write_json(folder / "Models.json", {"models": [entry(said)]})


def refusals(model: SharedModel) -> Sequence[str]:
    """What the extension cannot do of what a model needs."""
    plan, said = model.trained.plan, model.description
    kinds = {how.kind for how in plan.normalization}
    able = {"ct", "window", "windows"} | {*NORMALIZE}
    found = []
    if said.dims == 2:
        found.append("it sees slices")
    if said.regions:
        found.append("its labels are regions, of which it shows one")
    if len(plan.channels) > MOST_CHANNELS:
        found.append(f"it has {len(plan.channels)} channels, of at most {MOST_CHANNELS}")
    if len(plan.values) > MOST_LABELS:
        found.append(f"it has {len(plan.values)} labels, of at most {MOST_LABELS}")
    if other := sorted(kinds - able):
        found.append(f"its images are scaled by {', '.join(other)}")
    return found


def configuration(model: SharedModel, program: bytes) -> dict[str, Any]:
    """What the extension reads: the network, and how images are prepared for it."""
    plan = model.trained.plan
    first, *others = (NORMALIZE.get(how.kind, "none") for how in plan.normalization)
    return {
        "network": {"_target_": "torch.jit.load", "f": {"_target_": "io.BytesIO", "initial_bytes": program}},
        "sigmoid": False,
        "normalize_mode": first,
        "intensity_bounds": [0.0, 1.0],
        "extra_modalities": dict(zip(plan.channels[1:], others)),
        "orientation_ras": True,
        "crop_foreground": False,
        "resample_resolution": list(plan.spacing_mm),
        "roi_size": list(plan.patch_size),
    }


def program_of(whole: nn.Module, window: Tensor) -> bytes:
    """The network as TorchScript with zeros in place of its weights, which stand beside it."""
    kept = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, which would rather export a program
        torch._C._jit_clear_class_registry()  # or the names of classes tell how many were made before
        traced = torch.jit.trace(whole, window.expand(2, *window.shape[1:]), check_trace=False)
        for tensor in traced.state_dict().values():
            tensor.zero_()
        content = io.BytesIO()
        torch.jit.save(traced, content)
    whole.load_state_dict(kept)
    return without_traces(content)


def without_traces(content: io.BytesIO) -> bytes:
    """A TorchScript file without the lines and files of this machine that it was made from."""
    made = io.BytesIO()
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(made, "w") as plain:
        for name in sorted(archive.namelist()):
            inner = name.partition("/")[2]
            if not inner.endswith((".debug_pkl", "serialization_id")):
                plain.writestr(zipfile.ZipInfo(f"program/{inner}"), archive.read(name))
    return made.getvalue()


def _plain(whole: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in whole.state_dict().items()}


def load(path: Path) -> nn.Module:
    """The network as the extension makes it."""
    from monai.bundle import ConfigParser

    read: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, which would rather load a program
        network: nn.Module = ConfigParser(dict(read["config"]["network"])).get_parsed_content()
    network.load_state_dict(read["state_dict"], strict=True)
    return network.eval()


def entry(said: Description) -> dict[str, Any]:
    """A model of the extension's list."""
    made = {
        "title": said.name,
        "description": f"{said.name}, trained by medfuse. It is for research, and no medical device.",
        "subject": "human",
        "imagingModality": "/".join(dict.fromkeys(said.modalities)),
        "versions": [{"url": f"https://HOST/{_id(said)}.zip"}],
        "segmentNames": [label.name for label in said.labels],
    }
    if said.license:
        made["license"] = said.license
    if len(said.channels) > 1:
        made["inputs"] = [{"title": one.name, "namePattern": f"*{one.name}*"} for one in said.channels]
    return made


def _id(said: Description) -> str:
    return f"{slug(said.name)}-v{VERSION}"


def _how(said: Description) -> Sequence[str]:
    return [
        "For the extension MONAIAuto3DSeg of [3D Slicer](https://slicer.org). Unzip it into "
        f"`.MONAIAuto3DSeg/models/{_id(said)}` in your home folder, and add the entry of `Models.json` to "
        "that of the extension (`Resources/Models.json`), with the address of the zip file.",
        "The extension prepares images by MONAI's own resampling and windows, and turns labels back by the "
        "nearest voxel: its labels are near those of `medfuse infer`, and not equal. Where they must be, "
        "`medfuse serve` works with Slicer's module MONAILabel.",
    ]
