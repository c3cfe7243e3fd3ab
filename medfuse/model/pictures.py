"""Networks that were trained on pictures, as plugins offer them: two axes, own channels, mean and std."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from medfuse.api import ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.model.around import Way

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std of each channel, or of all of them."""
NEITHER: Normalization = ((0.0,), (1.0,))
"""Mean and std that change nothing."""
SCALED = ("unit", "window", "windows")
"""Ways of `preprocess.normalize` that bring an image to [0, 1], for which mean and std are."""

# ---- parameters of such a plugin

Channels = Annotated[
    Way | None,
    Field(
        description="how the network sees an image of another number of channels than its own: `each` in "
        "turn, their maps side by side; their mean, repeated (`repeat`); the `first` so many. One channel is "
        "repeated in any case"
    ),
]
_Numbers = Annotated[tuple[float, ...], Field(min_length=1)]
Mean = Annotated[
    _Numbers | None, Field(description="of each channel, subtracted; that of the weights by default")
]
Std = Annotated[
    Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] | None,
    Field(description="of each channel, divided by; that of the weights by default"),
]
License = Annotated[
    str | None, Field(description="of the weights; what is said where they are from by default")
]
LocalFilesOnly = Annotated[bool, Field(description="take what is in the hub's cache, and ask no network")]


def refuse_half(mean: Mean, std: Std) -> None:
    """Raises ValueError, for a validator, where one of both is given."""
    if (mean is None) != (std is None):
        raise ValueError("give both of mean and std, or neither")


def normalization(
    mean: Mean, std: Std, of_weights: Callable[[], Normalization | None]
) -> Normalization | None:
    """What the plugin says, else what its weights were trained with; None where values stay as they are."""
    said = (mean, std) if mean is not None and std is not None else of_weights()
    return None if said == NEITHER else said


class OtherChannels(ShapeError):
    """The network sees another number of channels than it is given."""

    def __init__(self, sees: int, given: int, because: str = "") -> None:
        self.sees = sees
        super().__init__(
            f"the network sees {sees} channels, and is given {given}{because}; say how, by `channels: each` "
            f"(one after the other, their maps side by side), `channels: repeat` (their mean) or `channels: "
            f"first` (the first {sees})"
        )


def refuse_unlike(image: ImageInfo, channels: int, use: str) -> None:
    """Raises ShapeError where a network of so many channels, of the plugin `use`, cannot see the image."""
    if image.dims != 2:
        raise ShapeError(
            "the network has two axes, and the patch three; give it slices: "
            f"{{use: slices, of: {{use: {use}, …}}}}"
        )
    if image.channels not in (1, channels):
        raise OtherChannels(channels, image.channels)


def refuse_rest(image: ImageInfo, unit: tuple[int, ...] | None) -> None:
    """Raises ShapeError where a patch leaves a rest beside the network's own patches, of `unit` voxels."""
    if unit is None or not any(n % u for n, u in zip(image.patch_size, unit, strict=True)):
        return
    next_ = [-(-n // u) * u for n, u in zip(image.patch_size, unit, strict=True)]
    raise ShapeError(
        f"{[*image.patch_size]} voxels are no multiple of its patches of {unit[0]}×{unit[1]}; the next size "
        f"that fits is {next_}: set sample.patch_size to that, along x and y"
    )
