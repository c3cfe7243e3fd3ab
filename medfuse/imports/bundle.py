"""A MONAI bundle as medfuse's own: its network, its transforms as a data plan, its labels.

What its configuration says is read as plain data; of code in it nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse import registry
from medfuse.api import Backbone
from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import read_json, shortened
from medfuse.data.plan import DataPlan, Normalization
from medfuse.imports.archives import opened
from medfuse.imports.bundle_config import Config

if TYPE_CHECKING:
    from torch import Tensor, nn

REMEDY = "give a bundle as MONAI writes them, with configs/metadata.json, configs/inference.json and models"
CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
NETWORKS = "monai.networks.nets"
NO_CHANGE = (
    *(
        "LoadImage",
        "EnsureChannelFirst",
        "EnsureType",
        "ToTensor",
        "ToDevice",
        "AddChannel",
        "AsChannelFirst",
    ),
    *("CastToType", "SelectItems", "Identity", "CopyItems"),
)
MOST = 1e9  # beyond any intensity: where a scale does not clip


@dataclass(frozen=True)
class Bundle:
    """What a bundle says. weights: its file. overlap, batch, stepped: of its sliding window. notes: what is
    not done here as it is there, a line each."""

    folder: Path
    name: str
    network: str
    parameters: Mapping[str, Any]
    plan: DataPlan
    weights: Path
    overlap: float
    batch: int
    stepped: str
    notes: Sequence[str] = field(default_factory=list)

    def backbone(self) -> dict[str, Any]:
        return {"use": "module", "target": f"{NETWORKS}:{self.network}", "parameters": dict(self.parameters)}

    def facts(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """What inference needs beside the tensors."""
        return {
            "medfuse": medfuse.__version__,
            "name": self.name,
            "fold": None,
            "model": dict(model),
            "watched": [],
            "infer": {"overlap": self.overlap, "batch_size": self.batch, "stepped": self.stepped},
            "data": self.plan.to_json(),
        }


@contextmanager
def read_bundle(
    source: Path,
    *,
    config: str = "",
    weights: str = "",
    spacing_mm: tuple[float, float, float] | None = None,
    said_alone: bool = False,
) -> Iterator[Bundle]:
    """The bundle in a folder or a zip file, for as long as its files are needed. Raises CheckpointError.

    config: which of its configurations, if not that of inference. weights: which file in its `models`.
    spacing_mm: of voxels, where the bundle resamples nothing. said_alone: what it says is enough, without its
    weights.
    """

    def said(name: PurePosixPath) -> bool:
        return "configs" in name.parts

    with opened(source, said if said_alone else is_of_bundle) as around:
        folder = _root(around, source)
        about = read_json(folder / "configs/metadata.json", raises=CheckpointError, remedy=REMEDY)
        chosen = _config(folder, config)
        reading = _Reading(folder, about if isinstance(about, dict) else {}, chosen, said_alone)
        yield reading.bundle(weights, spacing_mm)


def is_of_bundle(name: PurePosixPath) -> bool:
    """Whether a file of a bundle is needed to import it."""
    return bool({"configs", "models"} & {*name.parts}) or name.suffix in (".pt", ".pth")


def _root(around: Path, source: Path) -> Path:
    for folder in (around, *sorted(path for path in around.iterdir() if path.is_dir())):
        if (folder / "configs/metadata.json").is_file():
            return folder
    raise CheckpointError(f"{source}: holds no configs/metadata.json; {REMEDY}")


def _config(folder: Path, wanted: str) -> Config:
    names = (wanted,) if wanted else CONFIGS
    for name in names:
        if (path := folder / "configs" / name).is_file():
            return Config.read(path)
    raise CheckpointError(f"{folder / 'configs'}: holds no {' or '.join(names)}; {REMEDY}")


@dataclass
class _Reading:
    """One bundle while it is read. `kept`: what becomes of each channel; `notes` as in Bundle."""

    folder: Path
    about: Mapping[str, Any]
    config: Config
    said_alone: bool = False
    notes: list[str] = field(default_factory=list)
    spacing: tuple[float, float, float] | None = None
    turned: bool = False
    scales: tuple[Normalization, ...] = ()

    def bundle(self, weights: str, spacing_mm: tuple[float, float, float] | None) -> Bundle:
        network, parameters = self._network()
        channels = self._channels(parameters)
        self.scales = (Normalization("none"),) * len(channels)
        self._preprocessing()
        spacing = spacing_mm or self.spacing
        if spacing is None and self.said_alone:
            spacing = (1.0, 1.0, 1.0)
            self.notes.append("its preprocessing resamples nothing, so the size of voxels is not told")
        if spacing is None:
            raise CheckpointError(
                f"{self.config.path}: its preprocessing has no Spacingd, so the size of voxels is not told; "
                "give that of its training images, as --spacing 1,1,1"
            )
        if not self.turned:
            self.notes.append("images are turned to RAS+, which its preprocessing does not ask for")
        patch, overlap, batch, stepped = self._windows()
        labels, order = self._labels(parameters)
        plan = DataPlan(
            spacing_mm=spacing,
            patch_size=patch,
            batch_size=1,
            channels=channels,
            normalization=self.scales,
            labels=labels,
            reasons={},
            region_order=order,
        )
        name = str(self.about.get("name") or self.folder.name)
        return Bundle(
            self.folder,
            re.sub(r"[^\w .-]+", "_", name)[:100],
            network,
            parameters,
            plan,
            self._weights(weights),
            overlap,
            batch,
            stepped,
            self.notes,
        )

    # ---- the network

    def _network(self) -> tuple[str, dict[str, Any]]:
        """The class in monai.networks.nets, and its arguments. Raises CheckpointError for another."""
        key = next((key for key in ("network_def", "net", "network") if self.config.has(key)), "")
        said = self.config.raw(key)
        if not isinstance(said, Mapping) or not isinstance(said.get("_target_"), str):
            raise self.config.fault(key or "network_def", "names no class by _target_", said)
        target = str(said["_target_"])
        name = target.rpartition(".")[2]
        if target != name and not target.startswith(f"{NETWORKS}."):
            raise self.config.fault(
                f"{key}::_target_",
                f"is no network of {NETWORKS}, and no other code in a bundle is run",
                target,
            )
        arguments = {k: v for k, v in said.items() if not (k.startswith("_") and k.endswith("_"))}
        parameters = self.config.plain(arguments, key)
        if inner := _targets(parameters):
            raise self.config.fault(
                key, f"makes {inner} as an argument, and no code in a bundle is run", inner
            )
        if name == "SwinUNETR":  # MONAI has no more use for it
            parameters.pop("img_size", None)
        return name, parameters

    def _channels(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        image = self._format("inputs", "image")
        count = parameters.get("in_channels", image.get("num_channels", 1))
        count = count if isinstance(count, int) and 1 <= count <= 1000 else 1
        names = _names(image.get("channel_def"), count)
        modality = str(image.get("modality") or "")
        if count == 1:
            return (modality if modality and names[0] in ("", "image") else names[0] or "image",)
        return tuple(name or f"channel_{i}" for i, name in enumerate(names))

    def _format(self, side: str, usual: str) -> Mapping[str, Any]:
        """`network_data_format.inputs.image` or `….outputs.pred` of metadata.json."""
        found: Any = self.about.get("network_data_format")
        found = found.get(side) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping) and found:
            found = found.get(usual, next(iter(found.values())))
        return found if isinstance(found, Mapping) else {}

    def _labels(self, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Names and values, and the values of regions where each output is decided by itself."""
        pred = self._format("outputs", "pred")
        count = parameters.get("out_channels", pred.get("num_channels"))
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 10_000:
            raise CheckpointError(
                f"{self.config.path}: neither out_channels of its network nor metadata.json's "
                f"network_data_format tells how many outputs it has; {REMEDY}"
            )
        names = _names(pred.get("channel_def"), count)
        steps = [*self._transforms("postprocessing", told=True)]
        apart = any(name == "Activations" and how.get("sigmoid") is True for name, how, _ in steps)
        self.notes += [
            f"postprocessing by {name} is left out"
            for name, _, _ in steps
            if name not in ("Activations", "AsDiscrete", "Invert", "SaveImage", *NO_CHANGE)
        ]
        if count == 1 and not apart:
            raise CheckpointError(
                f"{self.config.path}: its network has one output, and its postprocessing no sigmoid; medfuse "
                "segments by several classes or by regions"
            )
        if apart:
            if count > 1:
                self.notes.append(
                    "each output is decided by itself: number i is written as i + 1, later ones over earlier"
                )
            named = _unlike([name or f"region_{i + 1}" for i, name in enumerate(names)], {"background"})
            labels = {"background": 0, **{name: i + 1 for i, name in enumerate(named)}}
            return labels, tuple(range(1, count + 1))
        named = _unlike([name or f"class_{i}" for i, name in enumerate(names[1:], 1)], {"background"})
        return {"background": 0, **{name: i + 1 for i, name in enumerate(named)}}, ()

    # ---- the transforms

    def _transforms(self, key: str, *, told: bool = False) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Name without its ending for dictionaries, arguments and place of each. Raises CheckpointError.

        told: of arguments that only code could tell nothing is said, as they are of no use here.
        """
        said = self.config.raw(key)
        listed = said.get("transforms") if isinstance(said, Mapping) else said
        if isinstance(listed, str):
            listed = self.config.plain(listed, key)
        for number, entry in enumerate(listed if isinstance(listed, list) else []):
            place = f"{key}::transforms::{number}"
            if not isinstance(entry, Mapping) or not isinstance(entry.get("_target_"), str):
                raise self.config.fault(place, "names no transform by _target_", entry)
            if entry.get("_disabled_") is True:
                continue
            target = str(entry["_target_"])
            name = target.rpartition(".")[2]
            if target != name and not target.startswith("monai.transforms.") and not told:
                raise self.config.fault(
                    f"{place}::_target_",
                    "is no transform of MONAI, and no other code in a bundle is run",
                    target,
                )
            arguments = {k: v for k, v in entry.items() if k not in ("_target_", "_disabled_", "_requires_")}
            yield (
                re.sub(r"(d|D|Dict)$", "", name),
                arguments if told else self._arguments(arguments, place),
                place,
            )

    def _arguments(self, arguments: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Those that matter are asked for by `_given`; what only code could tell stays as it stands."""
        made: dict[str, Any] = {}
        for key, value in arguments.items():
            try:
                made[key] = self.config.plain(value, f"{place}::{key}")
            except CheckpointError:
                made[key] = value
        return made

    def _preprocessing(self) -> None:
        """Every transform as a part of the plan. Raises CheckpointError for one that medfuse has not."""
        known: dict[str, Callable[[dict[str, Any], str], None]] = {
            "Orientation": self._orientation,
            "Spacing": self._spacing,
            "ScaleIntensityRange": self._range,
            "NormalizeIntensity": self._normalize,
            "CropForeground": self._crop,
        }
        for name, arguments, place in self._transforms("preprocessing"):
            if name in NO_CHANGE:
                continue
            if name not in known:
                raise self.config.fault(
                    place,
                    f"{name} is none of {', '.join(known)}, which medfuse has; without it labels differ",
                )
            known[name](arguments, place)

    def _orientation(self, how: dict[str, Any], place: str) -> None:
        if str(how.get("axcodes")).upper() != "RAS":
            raise self.config.fault(
                f"{place}::axcodes", "medfuse's networks see RAS alone", how.get("axcodes")
            )
        self.turned = True

    def _spacing(self, how: dict[str, Any], place: str) -> None:
        found = _numbers(how.get("pixdim"))
        if len(found) != 3 or min(found) <= 0:
            raise self.config.fault(f"{place}::pixdim", "is no spacing of three axes", str(how.get("pixdim")))
        self.spacing = (found[0], found[1], found[2])

    def _range(self, how: dict[str, Any], place: str) -> None:
        ends = _numbers([how.get(key) for key in ("a_min", "a_max")])
        given = [how.get(key) for key in ("b_min", "b_max")]
        onto = [0.0, 1.0] if None in given else _numbers(given)
        if len(ends) != 2 or len(onto) != 2 or ends[0] >= ends[1] or onto[0] >= onto[1]:
            raise self.config.fault(place, "its a_min, a_max, b_min and b_max are no two ranges")
        factor = (ends[1] - ends[0]) / (onto[1] - onto[0])
        clip = how.get("clip") is True and None not in given
        shift = ends[0] - onto[0] * factor
        if clip and onto == [0.0, 1.0]:
            scale = Normalization.window(ends[0], ends[1])
        elif clip:
            scale = Normalization("ct", ends[0], ends[1], shift, factor)
        else:
            scale = Normalization("ct", -MOST, MOST, shift, factor)
        self._scale(place, [scale] * len(self.scales))

    def _normalize(self, how: dict[str, Any], place: str) -> None:
        fixed = [_numbers(how.get(key)) for key in ("subtrahend", "divisor")]
        count = len(self.scales)
        if all(len(numbers) in (1, count) for numbers in fixed) and min(fixed[1]) > 0:
            if how.get("nonzero") is True:
                raise self.config.fault(place, "nonzero with numbers of its own is not what medfuse has")
            shifts, factors = (numbers * count if len(numbers) == 1 else numbers for numbers in fixed)
            return self._scale(
                place, [Normalization("ct", -MOST, MOST, s, f) for s, f in zip(shifts, factors)]
            )
        if any(how.get(key) is not None for key in ("subtrahend", "divisor")):
            raise self.config.fault(place, "subtrahend and divisor are not a number for each channel")
        if count > 1 and how.get("channel_wise") is not True:
            raise self.config.fault(
                place, "all channels together are normalised, and medfuse does it one by one"
            )
        nonzero = how.get("nonzero") is True
        if not nonzero:
            self.notes.append("mean and deviation are those without margins that are 0 in all channels")
        return self._scale(place, [Normalization("nonzero_zscore" if nonzero else "zscore")] * count)

    def _scale(self, place: str, scales: Sequence[Normalization]) -> None:
        if any(scale.kind != "none" for scale in self.scales):
            raise self.config.fault(place, "intensities are scaled a second time, and medfuse does it once")
        self.scales = tuple(scales)

    def _crop(self, how: dict[str, Any], place: str) -> None:
        self.notes.append("images are not cropped to their foreground, so that windows lie elsewhere")

    # ---- the sliding window

    def _windows(self) -> tuple[tuple[int, ...], float, int, str]:
        """Its size, overlap and batch, and how windows are weighed."""
        said = self.config.raw("inferer")
        how = said if isinstance(said, Mapping) else {}
        target = str(how.get("_target_", "")).rpartition(".")[2]
        if "SlidingWindow" not in target:
            shape = self._format("inputs", "image").get("spatial_shape")
            size = _sides(shape)
            if not size:
                raise self.config.fault("inferer", f"is {target or 'not there'}, and no sliding window")
            self.notes.append(
                f"a window of {list(size)} voxels slides over the image, which it sees at once there"
            )
            return size, 0.5, 1, "gaussian"
        size = _sides(self.config.plain(how.get("roi_size"), "inferer::roi_size"))
        if not size:
            raise self.config.fault("inferer::roi_size", "is no window of two or three sides")
        overlap = self.config.plain(how.get("overlap", 0.25), "inferer::overlap")
        batch = self.config.plain(how.get("sw_batch_size", 1), "inferer::sw_batch_size")
        mode = self.config.plain(how.get("mode", "constant"), "inferer::mode")
        stepped = "gaussian" if mode == "gaussian" else "constant"
        if stepped == "gaussian":
            self.notes.append(
                "its windows' gaussians are not cut off at a thousandth, where windows' corners meet"
            )
        if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap < 1:
            raise self.config.fault("inferer::overlap", "is no share of a window")
        return size, float(overlap), batch if isinstance(batch, int) and batch > 0 else 1, stepped

    # ---- the weights

    def _weights(self, wanted: str) -> Path:
        models = self.folder / "models"
        path = models / (wanted or "model.pt")
        if path.is_file() or self.said_alone:
            return path
        there = sorted(p.name for p in models.glob("*") if p.is_file()) if models.is_dir() else []
        said = f"it has {shortened(', '.join(there))}" if there else "it is empty, or not there"
        advice = "download the bundle's weights (`python -m monai.bundle download`)"
        if [name for name in there if name.endswith((".pt", ".pth"))]:
            advice = "name one by --weights"
        raise CheckpointError(f"{models}: has no {path.name}; {said}; {advice}")


def tensors_of(path: Path, state: Any) -> dict[str, Tensor]:
    """A network's tensors by name, of what its file holds. Raises CheckpointError."""
    from torch import Tensor

    for key in ("state_dict", "model", "network", "net", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    found = state.items() if isinstance(state, Mapping) else ()
    tensors = {str(k).removeprefix("module."): t for k, t in found if isinstance(t, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors by name; {REMEDY}")
    return tensors


def _targets(value: Any) -> str:
    """The first `_target_` in a value."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return str(value["_target_"])
        value = [*value.values()]
    return next(filter(None, map(_targets, value)), "") if isinstance(value, list) else ""


def _names(said: Any, count: int) -> list[str]:
    """One for each channel, "" where `channel_def` has none."""
    found = {str(k): v for k, v in said.items()} if isinstance(said, Mapping) else {}
    if isinstance(said, list):
        found = {str(i): v for i, v in enumerate(said)}
    return [shortened(str(found.get(str(i), "")).strip(), 60) for i in range(count)]


def _unlike(names: Sequence[str], taken: set[str]) -> list[str]:
    """The same names, numbered where one was there before."""
    made: list[str] = []
    for number, name in enumerate(names, 1):
        made.append(f"{name}_{number}" if name in taken else name)
        taken.add(made[-1])
    return made


def _numbers(value: Any) -> list[float]:
    """A number, or a list of them; empty for anything else."""
    listed = value if isinstance(value, list) else [value]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or abs(n) > MOST for n in listed):
        return []
    return [float(n) for n in listed]


def _sides(value: Any) -> tuple[int, ...]:
    """Whole sides of a window; empty for anything else, such as "8*n"."""
    listed = value if isinstance(value, list) else []
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 4096 for n in listed)
    return tuple(listed) if whole and len(listed) in (2, 3) else ()


def last_layers(bundle: Bundle) -> list[str]:
    """The layers whose output is the network's. Raises CheckpointError where none is.

    It makes the network, so ask whether its code is harmless before.
    """
    import torch

    made: dict[str, Any] = {}  # held, so that no two have one identity

    def note(name: str, module: nn.Module, given: Any, result: Any) -> None:
        made[name] = result

    said = {key: value for key, value in bundle.backbone().items() if key != "use"}
    plugin = registry.get(Backbone.group, "module").model_validate(said)
    assert isinstance(plugin, Backbone)
    image = bundle.plan.image
    with torch.device("meta"), torch.no_grad():
        network = plugin.build(image).eval()
        for name, module in network.named_modules():
            if name:
                module.register_forward_hook(partial(note, name))
        result = network(torch.empty(1, image.channels, *image.patch_size))
    found = [name for name, output in made.items() if output is result]
    if not found or not isinstance(result, torch.Tensor):
        raise CheckpointError(
            f"the output of {bundle.network} is that of none of its layers, and cannot be taken as logits"
        )
    return found
