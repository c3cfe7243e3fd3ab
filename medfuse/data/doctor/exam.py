"""A case is read once, and what is to be known of it for any fault is kept, small."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.api import Case, DatasetInfo
from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.labels import map_values, members
from medfuse.data.doctor.edges import Edges, edges_of
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.frame import Frame, frame_of
from medfuse.data.doctor.shrink import spread_out
from medfuse.data.doctor.structures import Structure, structures_of
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.images import read_image
from medfuse.data.profile import profile_of
from medfuse.volumes.dicom.index import modality_of
from medfuse.volumes.dicom.origins import place_of, volume_hash
from medfuse.volumes.read import read_labels

GRAINS = 16
"""Voxels along each axis by which copies of an image are known."""
WHOLE = 12
"""Samples along each axis of the whole image."""


@dataclass(frozen=True, eq=False)
class Exam:
    """What is known of a case. `faults` are those that it shows by itself; with some of them it has no
    `facts`. Arrays are RAS+; `structures`: value → label, 0 all together. `grains` and `whole`: of each
    channel, some voxels as they are, and its percentiles as bytes.
    """

    case: Case
    faults: tuple[Finding, ...] = ()
    facts: CaseFacts | None = None
    structures: Mapping[int, Structure] = field(default_factory=dict)
    means: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    frame: Frame | None = None
    edges: Edges | None = None
    grains: npt.NDArray[np.float32] | None = None
    whole: npt.NDArray[np.uint8] | None = None

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def image(self) -> str:
        return place_of(self.case.images[0])

    @property
    def label(self) -> str:
        return place_of(self.case.label) if self.case.label else ""


def examine(case: Case, info: DatasetInfo, *, tolerance_mm: float) -> Exam:
    """Read a case. What cannot be read is a fault of it; nothing is raised but for want of memory."""
    try:
        image, geometry = read_image(case, len(info.channels), tolerance_mm=tolerance_mm)
    except DataError as error:
        return Exam(case, tuple(_unreadable(case, line) for line in error.lines))
    faults: list[Finding] = []
    labels: npt.NDArray[Any] | None = None
    if case.label is not None:
        labels, faults = _labels(case, info, geometry, tolerance_mm)
    turned = geometry.turn.apply(image)
    there = None if labels is None else geometry.turn.apply(labels)
    parts: dict[str, Any] = {}
    if there is not None:
        structures = structures_of(there)
        parts["structures"] = structures
        box = structures[0].box if structures else None
        if box is not None:
            grey = as_bytes(turned)
            seed = zlib.crc32(case.name.encode())
            parts["frame"], parts["edges"] = frame_of(grey, there, box), edges_of(grey, there, box, seed)
            parts["whole"] = np.stack([spread_out(channel, WHOLE) for channel in grey])
    facts = _facts(case, info, image, geometry, parts.get("structures", {}), labels)
    grains = np.stack([spread_out(channel, GRAINS).ravel() for channel in turned])
    return Exam(case, tuple(faults), facts, grains=grains, **parts)


def as_bytes(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Each channel from its 1st to its 99th percentile, in 255 steps."""
    grey = np.empty(image.shape, np.uint8)
    for channel, made in zip(image, grey):
        some = channel.reshape(-1)[:: max(1, channel.size // 200_000)]
        low, high = (float(v) for v in np.percentile(some, (1, 99)))
        scale = 255 / (high - low) if high > low else 0.0
        made[...] = np.clip((channel - low) * scale, 0, 255)
    return grey


def _labels(
    case: Case, info: DatasetInfo, geometry: Geometry, tolerance_mm: float
) -> tuple[npt.NDArray[Any] | None, list[Finding]]:
    assert case.label is not None
    try:
        volume = read_labels(case.label)
    except DataError as error:
        return None, [_unreadable(case, line) for line in error.lines]
    faults = []
    if differences := geometry.differences(volume.geometry, tolerance_mm):
        image = Path(place_of(case.images[0])).name
        what = f"the label's grid is not the image's: {'; '.join(differences)} of {image}"
        remedy = geometry.remedy(
            volume.geometry, "resample the label to the image's grid, or mend its header"
        )
        faults.append(Finding("grid", case.name, place_of(case.label), what, "certain", remedy))
        if volume.array.shape != geometry.shape:
            return None, faults
    known = {*map_values(info.labels.values()), *(() if info.ignore is None else (info.ignore,))}
    values, counts = np.unique(volume.array, return_counts=True)
    if unknown := {int(v): int(n) for v, n in zip(values, counts) if int(v) not in known}:
        told = ", ".join(f"{v} ({n} voxels)" for v, n in list(unknown.items())[:6])
        what = f"holds values that no label has: {told}"
        remedy = "name them in the dataset's labels, or set them to another value"
        faults.append(Finding("value", case.name, place_of(case.label), what, "certain", remedy))
    array = volume.array
    if info.ignore is not None:
        array = np.where(array == info.ignore, 0, array)
    return array, faults


def _unreadable(case: Case, line: str) -> Finding:
    """A line of an error, which begins with its file and ends with what to do."""
    file, _, what = line.partition(": ")
    what, _, remedy = what.rpartition("; ")
    remedy = remedy or "copy it again from its source"
    return Finding("unreadable", case.name, file, what or line, "certain", remedy)


def _facts(
    case: Case,
    info: DatasetInfo,
    image: npt.NDArray[np.float32],
    geometry: Geometry,
    structures: Mapping[int, Structure],
    labels: npt.NDArray[Any] | None,
) -> CaseFacts:
    voxels = {value: one.voxels for value, one in structures.items() if value}
    inside = None if labels is None else np.flatnonzero(labels)[:: max(1, np.count_nonzero(labels) // 10_000)]
    foreground = image.reshape(len(image), -1)[:, inside] if inside is not None and inside.size else None
    return CaseFacts(
        case.name,
        geometry.ras_shape,
        geometry.ras_spacing_mm,
        {
            name: sum(voxels.get(v, 0) for v in members(value)) * geometry.voxel_ml
            for name, value in info.labels.items()
        },
        {str(path): _hash(path) for path in case.images},
        tuple(voxels),
        tuple((float(channel.min()), float(channel.max())) for channel in image),
        tuple(map(float, np.median(foreground, axis=1))) if foreground is not None else (),
        tuple(profile_of(channel) for channel in image),
        tuple(modality_of(path) for path in case.images),
        geometry.oblique_degrees,
    )


def _hash(path: Path) -> str:
    try:
        return volume_hash(path)
    except (OSError, DataError):
        return ""
