"""MONAI's transforms by name: which of them may change a patch, and how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor

from medfuse.core.errors import MedfuseError, PipelineError, Problem, did_you_mean, reason
from medfuse.core.intensities import plain_tensors

_ROOMS = ("intensity", "spatial", "smooth_field")  # of monai.transforms, whose transforms keep the shape
_STILL = ("RandSimulateLowResolution", "SimulateLowResolution")  # of `spatial`: they move no voxel
_MOVING = ("RandSmoothDeform",)  # not of `spatial`
_LABEL_MODES = ("mode", "grid_mode")  # arguments that say how voxels are interpolated


def moves_voxels(name: str) -> bool:
    """Whether a transform moves voxels, so that the label has to follow."""
    room = getattr(getattr(monai.transforms, name, None), "__module__", "").split(".")[2:3]
    return name in _MOVING or (room == ["spatial"] and name not in _STILL)


class MonaiChange:
    """A transform with its arguments: (image, label, random) → (image, label).

    Raises PipelineError, at `name` or below `parameters`, where there is no such transform or argument.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self.name, self.moves = name, moves_voxels(name)
        kind = _find(name)
        known = _arguments(kind)
        unknown = [key for key in parameters if known is not None and key not in known]
        if unknown:
            raise PipelineError(
                [
                    Problem(
                        ("parameters", key),
                        f"MONAI's {name} has no argument {key!r}{did_you_mean(key, known or ())} "
                        f"(it has: {', '.join(known or ())})",
                        at_key=True,
                    )
                    for key in unknown
                ]
            )
        given = dict(parameters)
        if self.moves:
            given["keys"] = ("image", "label")
            arguments = inspect.signature(kind).parameters
            for mode in {*_LABEL_MODES} & {*arguments}:
                given[mode] = (given.get(mode, arguments[mode].default), "nearest")
        try:
            self.transform = kind(**given)
        except Exception as error:
            raise MedfuseError(f"MONAI's {name}: {_shorn(error)}") from error

    def __call__(self, image: Tensor, label: Tensor, random: np.random.RandomState) -> tuple[Tensor, Tensor]:
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(state=random)
        try:
            with plain_tensors():
                own = image.clone()  # as some of them write into what they are given
                if not self.moves:
                    return torch.as_tensor(self.transform(own)), label
                made = self.transform({"image": own, "label": label.float()})
        except Exception as error:
            raise MedfuseError(f"MONAI's {self.name}: {_shorn(error)}") from error
        return torch.as_tensor(made["image"]), torch.as_tensor(made["label"]).round().to(label.dtype)


def _find(name: str) -> Any:
    """The class that is called: of those that move voxels, the one for dictionaries, which keeps in step."""
    kind = getattr(monai.transforms, name, None)
    rooms = [getattr(monai.transforms, room).array for room in _ROOMS]
    known = sorted(
        {n for room in rooms for n in room.__all__ if n.startswith("Rand") and not n.endswith("Grid")}
    )
    if not (isinstance(kind, type) and issubclass(kind, Transform)):
        raise _refused(f"MONAI has no transform {name!r}{did_you_mean(name, known)} ({', '.join(known)})")
    if issubclass(kind, MapTransform):
        array = next((n for n in known if kind.__name__ == f"{n}d"), "the array transform")
        raise _refused(f"MONAI's {name} works on dictionaries; name {array} instead")
    if kind.__module__.split(".")[2] not in _ROOMS:
        raise _refused(
            f"MONAI's {name} neither changes intensities nor moves voxels within a patch; there are: "
            + ", ".join(known)
        )
    if not moves_voxels(name):
        return kind
    twin = getattr(monai.transforms, f"{name}d", None)
    if twin is None:
        raise _refused(
            f"MONAI's {name} cannot move an image and its label alike; there are: {', '.join(known)}"
        )
    return twin


def _arguments(kind: Any) -> list[str] | None:
    """The arguments of a transform that a file may give; None where it takes any."""
    parameters = inspect.signature(kind).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.name not in ("keys", "allow_missing_keys")]


def _refused(message: str) -> PipelineError:
    return PipelineError([Problem(("name",), message)])


def _shorn(error: Exception) -> str:
    """What an exception says, without the name of the constructor that Python puts in front."""
    return reason(error).replace("__init__() ", "")
