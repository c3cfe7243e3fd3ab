"""One pass over every labelled case: is it sound, and what is it like?"""

import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import medfuse
from medfuse.api import Case, DatasetInfo
from medfuse.core.errors import DataError
from medfuse.core.labels import map_values, members
from medfuse.data.images import read_case_labels, read_image
from medfuse.data.measures import WORTH_VOXELS, keep, key_of, recalled
from medfuse.data.parallel import in_threads
from medfuse.data.pieces import usual_pieces
from medfuse.data.profile import Profile, profile_of
from medfuse.volumes.dicom.index import modality_of
from medfuse.volumes.dicom.origins import volume_hash
from medfuse.volumes.read import slab_reader
from medfuse.volumes.volume import counts_of, places_of

FORMAT = 1
"""Of what is kept of a case: another, where anything else is measured."""
SAMPLES_PER_CASE = 10_000


@dataclass(frozen=True)
class ChannelFacts:
    """One channel: intensities in the foreground of all cases, and the share of voxels that are exactly 0."""

    name: str
    lower: float
    median: float
    upper: float
    mean: float
    std: float
    zeros: float


@dataclass(frozen=True)
class CaseFacts:
    """One case: shape and spacing in RAS+ order, millilitres per label, SHA-256 of each file.

    `values` are those of its label map; `intensities` the least and the most of each channel; `medians` that
    of each channel in the foreground, none where there is none; `percentiles` those of each channel
    (data.profile); `modalities` what DICOM says of each file, else nothing; `oblique_degrees` by how much its
    axes are turned against the patient's; `pieces_ml` how large the pieces of each label are that is there
    (data.pieces).
    """

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    volumes_ml: Mapping[str, float]
    files: Mapping[str, str]
    values: tuple[int, ...] = ()
    intensities: tuple[tuple[float, float], ...] = ()
    medians: tuple[float, ...] = ()
    percentiles: tuple[Profile, ...] = ()
    modalities: tuple[str, ...] = ()
    oblique_degrees: float | None = None
    pieces_ml: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, c: Mapping[str, Any]) -> "CaseFacts":
        return cls(
            c["name"],
            tuple(c["shape"]),
            tuple(c["spacing_mm"]),
            c["volumes_ml"],
            c["files"],
            tuple(c.get("values", ())),
            tuple((least, most) for least, most in c.get("intensities", ())),
            tuple(c.get("medians", ())),
            tuple(tuple(one) for one in c.get("percentiles", ())),
            tuple(c.get("modalities", ())),
            c.get("oblique_degrees"),
            c.get("pieces_ml", {}),
        )


@dataclass(frozen=True)
class Fingerprint:
    """What a dataset is like: everything that `auto` values are derived from.

    `lower` and `upper` of a channel are its 0.5 and 99.5 percentiles.
    """

    cases: tuple[CaseFacts, ...]
    channels: tuple[ChannelFacts, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Fingerprint":
        cases = tuple(CaseFacts.from_json(case) for case in data["cases"])
        return cls(cases, tuple(ChannelFacts(**c) for c in data["channels"]))


def take_fingerprint(
    cases: Sequence[Case],
    info: DatasetInfo,
    *,
    tolerance_mm: float,
    pixel_mm: tuple[float, float] | None = None,
    progress: Callable[[int, int], None],
) -> Fingerprint:
    """Read every case once, check it, measure it; what was found of a large one before is taken as it was.

    `progress(done, total)` counts cases. Raises DataError with every fault of every case: unreadable files,
    grids of image and label that differ by more than `tolerance_mm`, label values that `info` does not name,
    NaN voxels, empty images.
    """

    def measure(case: Case) -> _Measured | DataError:
        try:
            return _known_or_measured(case, info, tolerance_mm, pixel_mm)
        except DataError as error:
            return error
        except MemoryError:
            return DataError(
                f"{case.images[0]}: measuring it takes more memory than is free; crop it, or drop case "
                f"{case.name}"
            )

    found = in_threads(measure, cases, os.cpu_count() or 1, progress)
    faults = [line for result in found if isinstance(result, DataError) for line in result.lines]
    measured = [result for result in found if isinstance(result, _Measured)]
    if not faults and not any(m.foreground.size for m in measured):
        faults.append(f"none of the {len(cases)} label maps holds a voxel other than background; check them")
    if faults:
        raise DataError(*faults)
    foreground = np.concatenate([m.foreground for m in measured], axis=1)
    zeros = np.average(
        [m.zeros for m in measured], axis=0, weights=[np.prod(m.facts.shape) for m in measured]
    )
    channels = [_channel(*parts) for parts in zip(info.channels, foreground, zeros)]
    return Fingerprint(tuple(m.facts for m in measured), tuple(channels))


def hash_files(cases: Iterable[Case]) -> dict[str, str]:
    """Path → SHA-256 of every file of `cases`; nothing for a file that cannot be read, which matches none."""
    hashes = {}
    for path in (path for case in cases for path in case.files):
        try:
            hashes[str(path)] = volume_hash(path)
        except (OSError, DataError):
            hashes[str(path)] = ""
    return hashes


@dataclass(frozen=True, eq=False)
class _Measured:
    """Facts of one case; foreground intensities (channels, samples); share of zeros per channel."""

    facts: CaseFacts
    foreground: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.float64]


def _known_or_measured(
    case: Case, info: DatasetInfo, tolerance_mm: float, pixel_mm: tuple[float, float] | None
) -> _Measured:
    """As `_measure`, of a large case with such files once; so what was ended goes on where it was."""
    if _voxels(case) < WORTH_VOXELS:
        return _measure(case, info, tolerance_mm, pixel_mm)
    before, hashes = _stamps(case), _hashes(case)
    grid = [tolerance_mm, pixel_mm, info.channels, [*info.labels.items()], info.ignore]
    key = key_of(FORMAT, medfuse.__version__, case.name, [*hashes.values()], bool(case.label), grid)
    if kept := recalled(key):
        said, arrays = kept
        with suppress(KeyError, TypeError, ValueError):  # written by nobody here
            facts = replace(CaseFacts.from_json(said), files=hashes)
            return _Measured(facts, arrays["foreground"], arrays["zeros"])
    found = _measure(case, info, tolerance_mm, pixel_mm)
    if _stamps(case) == before and found.facts.files == hashes:  # what was measured is what was hashed
        keep(key, asdict(found.facts), {"foreground": found.foreground, "zeros": found.zeros})
    return found


def _voxels(case: Case) -> int:
    """Of its largest image; none where one of its files cannot be opened, which reading it tells."""
    try:
        shapes = [slab_reader(path).geometry.shape for path in case.files]
    except (DataError, OSError):
        return 0
    return max(map(prod, shapes), default=0)


def _stamps(case: Case) -> list[tuple[int, int]]:
    return [(about.st_mtime_ns, about.st_size) for about in map(Path.stat, case.files)]


def _hashes(case: Case) -> dict[str, str]:
    return {str(path): volume_hash(path) for path in case.files}


def _measure(
    case: Case, info: DatasetInfo, tolerance_mm: float, pixel_mm: tuple[float, float] | None
) -> _Measured:
    image, geometry = read_image(case, len(info.channels), tolerance_mm=tolerance_mm, pixel_mm=pixel_mm)
    ranges = tuple((float(channel.min()), float(channel.max())) for channel in image)
    if empty := [name for name, (least, most) in zip(info.channels, ranges) if least == most]:
        images = ", ".join(str(path) for path in case.images)
        raise DataError(
            f"{images}: every voxel of {', '.join(empty)} has one value; replace it, or drop case {case.name}"
        )
    known = {*map_values(info.labels.values()), *(() if info.ignore is None else (info.ignore,))}
    labels = read_case_labels(case, geometry, known, tolerance_mm=tolerance_mm)
    voxel_ml = abs(float(np.linalg.det(geometry.affine[:3, :3]))) / 1000
    volumes = {value: count * voxel_ml for value, count in counts_of(labels).items()}
    where = places_of((labels != 0) & (labels != (info.ignore or 0)))
    if len(where) > SAMPLES_PER_CASE:
        where = np.random.default_rng(zlib.crc32(case.name.encode())).choice(
            where, SAMPLES_PER_CASE, replace=False
        )
    i, j, k = np.unravel_index(where, labels.shape)
    foreground = image[:, i, j, k]
    return _Measured(
        CaseFacts(
            case.name,
            geometry.ras_shape,
            geometry.ras_spacing_mm,
            {name: sum(volumes.get(v, 0.0) for v in members(value)) for name, value in info.labels.items()},
            _hashes(case),
            tuple(volumes),
            ranges,
            tuple(map(float, np.median(foreground, axis=1))) if where.size else (),
            tuple(profile_of(channel) for channel in image),
            tuple(modality_of(path) for path in case.images),
            geometry.oblique_degrees,
            usual_pieces(labels, _foreground(info), voxel_ml),
        ),
        foreground,
        np.array([(channel.size - np.count_nonzero(channel)) / channel.size for channel in image]),
    )


def _foreground(info: DatasetInfo) -> dict[str, int | tuple[int, ...]]:
    return {name: value for name, value in info.labels.items() if members(value) != (0,)}


def _channel(name: str, foreground: npt.NDArray[np.float32], zeros: float) -> ChannelFacts:
    lower, median, upper = (float(v) for v in np.percentile(foreground, (0.5, 50, 99.5)))
    mean, std = float(foreground.mean(dtype=np.float64)), float(foreground.std(dtype=np.float64))
    return ChannelFacts(name, lower, median, upper, mean, std, float(zeros))
