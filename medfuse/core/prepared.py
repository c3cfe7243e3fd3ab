"""A case on the network's grid: what preprocessing hands to inference."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medfuse.core.geometry import Geometry
from medfuse.core.region import Region


@dataclass(frozen=True, eq=False)
class Outlook:
    """What the headers of a case say of its preparation.

    `shape` is that of the prepared image (channels, x, y, z). `reading_bytes` is about the most memory that
    reading and resampling take beside it. `limits`: between which numbers the values of each channel can
    lie. `modalities`: what DICOM says of each file, else nothing.
    """

    name: str
    geometry: Geometry
    shape: tuple[int, int, int, int]
    reading_bytes: int
    limits: tuple[tuple[float, float], ...] = ()
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """`image` is (channels, x, y, z) float32: turned to RAS+, resampled to the target spacing, normalised.

    Resampling scales the grid about the volume's outer edges (voxel centres at half indices, as
    `torch.nn.functional.interpolate(align_corners=False)` does), so a result on `image`'s grid goes back
    to `geometry.ras_shape` by the same function, and to the file's own axes by `geometry.turn.undo`.
    `source` is the first image file: results overlay it. `profiles`: percentiles of each channel as it was
    before (see data.profile). `unlike`: in how far it is unlike what a model was trained on, in words;
    `distances`: in numbers (see data.usual). `region`: what alone is looked at, all where None. `stage`:
    what an earlier stage said, in words.
    """

    name: str
    image: npt.NDArray[np.float32]
    geometry: Geometry
    source: Path
    profiles: tuple[tuple[float, ...], ...] = ()
    unlike: tuple[str, ...] = ()
    distances: Mapping[str, float | None] = field(default_factory=dict)
    region: Region | None = None
    stage: str = ""
