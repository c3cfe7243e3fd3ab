"""A case onto the network's grid: normalised, turned to RAS+, resampled."""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry, Turn
from medfuse.core.memory import bytes_text, free_memory
from medfuse.core.prepared import Outlook, Prepared
from medfuse.core.text import by
from medfuse.data.disk import DiskImage
from medfuse.data.images import ImageSlabs, limits_of, open_image, read_case_labels
from medfuse.data.plan import DataPlan, Normalization, resampled_shape
from medfuse.data.profile import Sampler
from medfuse.data.resample import Floats, SlabResampler
from medfuse.volumes.dicom.index import modality_of
from medfuse.volumes.read import read_labels
from medfuse.volumes.volume import slabs_of, smallest_integer

_SCORES = ("zscore", "nonzero_zscore")
_ENDS = {"unit": (0.5, 0.0), "symmetric": (0.05, -1.0)}
"""The percentile that becomes the least value, and that value; the most is 1."""
_TURNED = 64  # voxels along two axes of what is turned at once
_MOST_SAMPLES = 2**20  # voxels that percentiles are taken of

Shape = tuple[int, int, int]
Read = Callable[[], Iterator[tuple[int, int, Floats]]]
"""Slabs of an image with their channel and first row; see ImageSlabs.read."""


@dataclass(frozen=True)
class Preprocessor:
    """What a plan does to a case. Training and inference use the same one.

    `shown`: case → the label map of an earlier stage, where these lie on disk, as those of training do.
    """

    plan: DataPlan
    tolerance_mm: float = 1e-3
    shown: Mapping[str, Path] = field(default_factory=dict)

    def look(self, case: Case) -> Outlook:
        """What preparing a case will take, from the headers of its files.

        Raises DataError, also where neither memory nor disk could hold it.
        """
        source = self._open(case)
        shape = self._shape(source.geometry)
        reading = source.slab_bytes + self._resampling_bytes(source.geometry, shape)
        disk = shutil.disk_usage(tempfile.gettempdir()).free
        self._check_room(case.images[0], source.geometry, shape, max(free_memory(), disk), "memory or disk")
        return Outlook(
            case.name,
            source.geometry,
            (self.plan.image.channels, *shape),
            reading,
            source.limits,
            tuple(modality_of(path) for path in case.images),
        )

    def prepare(self, case: Case, *, scratch: Path | None = None) -> Prepared:
        """The image on the network's grid. Raises DataError that names the file.

        With `scratch`, a folder, the image lies in a file there, without a name, and in no memory.
        """
        source = self._open(case)
        shape = self._shape(source.geometry)
        if scratch is None:
            reading = source.slab_bytes + self._resampling_bytes(source.geometry, shape)
            self._check_room(case.images[0], source.geometry, shape, free_memory() - reading, "memory")
        else:
            free = shutil.disk_usage(scratch).free
            self._check_room(case.images[0], source.geometry, shape, free, "disk")
        some = Sampler(source.geometry.shape)
        image = self._streamed(source.read, source.geometry, scratch, some)
        if case.name in self.shown:
            labels = read_labels(self.shown[case.name]).array
            image = self.with_stage(image, labels, source.geometry)
        return Prepared(case.name, image, source.geometry, case.images[0], some.profiles())

    def prepare_array(self, array: npt.NDArray[Any], geometry: Geometry) -> npt.NDArray[np.float32]:
        """(channels, x, y, z) of voxels (channels, i, j, k) that lie in memory, otherwise as `prepare`."""

        def read() -> Iterator[tuple[int, int, Floats]]:
            for number, channel in enumerate(array):
                for first, slab in slabs_of(channel):
                    yield number, first, slab.astype(np.float32)

        self._check_room(Path("array"), geometry, self._shape(geometry), free_memory(), "memory")
        return self._streamed(read, geometry, None, Sampler(geometry.shape))

    def look_at_array(self, array: npt.NDArray[Any], geometry: Geometry) -> Outlook:
        """As `look`, of voxels (channels, i, j, k) in memory."""
        shape = (self.plan.image.channels, *self._shape(geometry))
        return Outlook("array", geometry, shape, 0, (limits_of(array.dtype),) * len(array))

    def _open(self, case: Case) -> ImageSlabs:
        return open_image(
            case,
            len(self.plan.channels),
            tolerance_mm=self.tolerance_mm,
            pixel_mm=self.plan.pixel_mm,
            by_model=True,
        )

    def _resampling_bytes(self, geometry: Geometry, shape: Shape) -> int:
        together = max(len(how.inputs) for how in self.plan.normalization)
        return together * SlabResampler.bytes_for(geometry.shape, geometry.turn.undo_shape(shape))

    def _check_room(self, path: Path, geometry: Geometry, shape: Shape, free: int, where: str) -> None:
        """Raises DataError where the prepared image is larger than what is `free`."""
        size = 4 * self.plan.image.channels * prod(shape)
        if size > free:
            grids = (geometry.shape, geometry.spacing_mm), (shape, self.plan.spacing_mm)
            source, target = (f"{by(voxels)} at a spacing of {_by(mm)} mm" for voxels, mm in grids)
            raise DataError(
                f"{path}: its voxels, {source}, become {target}: {bytes_text(size)}, and "
                f"{bytes_text(max(0, free))} of {where} are free; mend its spacing if it is wrong, or crop it"
            )

    def _shape(self, geometry: Geometry) -> Shape:
        return resampled_shape(geometry.ras_shape, geometry.ras_spacing_mm, self.plan.spacing_mm)

    @np.errstate(invalid="ignore")  # voxels that are not finite are told of when all are read
    def _streamed(self, read: Read, geometry: Geometry, scratch: Path | None, some: Sampler) -> Floats:
        """Read once, and once before where a channel is scaled by numbers of its own.

        The image as its file has it is never whole in memory: each slab is scaled and resampled as it comes.
        """
        scales = self.plan.normalization
        if any(how.kind in (*_SCORES, *_ENDS) for how in scales):
            scales = measured(read(), scales)
        inputs = [(channel, one) for channel, how in enumerate(scales) for one in how.inputs]
        image, view = _blank(len(inputs), self._shape(geometry), geometry.turn, scratch)
        for channel, first, slab in read():
            some.add(channel, slab)
            own = [number for number, (of, _) in enumerate(inputs) if of == channel]
            if first == 0:
                resamplers = {number: SlabResampler(geometry, view[number]) for number in own}
            for number in own:
                voxels = slab if number == own[-1] else slab.copy()
                scale(voxels, inputs[number][1])
                resamplers[number].add(first, voxels)
            if isinstance(image, DiskImage):
                image.forget()
        return image

    def with_stage(
        self, image: Floats, labels: npt.NDArray[np.integer[Any]], geometry: Geometry
    ) -> npt.NDArray[np.float32]:
        """`image` and, for each value of `plan.before`, where an earlier stage's `labels` (i, j, k) have it.

        A mask is 1 and 0 on the image's grid, as nnU-Net's cascades have it.
        """
        x, y, z = image.shape[1:]
        numbers = np.zeros(labels.shape, smallest_integer(len(self.plan.before) + 1))
        for number, value in enumerate(self.plan.before, 1):
            numbers[labels == value] = number
        there = resample_labels(geometry.turn.apply(numbers), (x, y, z), range(len(self.plan.before) + 1))
        masks = [there == number for number in range(1, len(self.plan.before) + 1)]
        return np.concatenate([image, np.stack(masks).astype(np.float32)])

    def prepare_label(self, case: Case, like: Prepared) -> npt.NDArray[np.integer[Any]]:
        """(x, y, z) numbers of label values (see DataPlan) on the grid of `like`. Raises DataError."""
        ignore = () if self.plan.ignore is None else (self.plan.ignore,)
        classes = {value: number for number, value in enumerate((*self.plan.values, *ignore))}
        labels = read_case_labels(case, like.geometry, classes, tolerance_mm=self.tolerance_mm)
        numbers = renumbered(labels, classes)
        x, y, z = like.image.shape[1:]
        return resample_labels(like.geometry.turn.apply(numbers), (x, y, z), range(len(classes)))


def _by(numbers: Sequence[float]) -> str:
    return "×".join(f"{number:.4g}" for number in numbers)


def _blank(channels: int, shape: Shape, turn: Turn, scratch: Path | None) -> tuple[Floats, Floats]:
    """An image (channels, x, y, z) to fill, and a view of it in the file's axes."""
    if scratch is None:
        image = np.empty((channels, *shape), np.float32)
        return image, turn.undo(image)
    image = DiskImage.blank(channels, shape, turn, scratch)
    return image, turn.undo(image.view(np.ndarray))


def measured(
    slabs: Iterable[tuple[int, int, Floats]], scales: Sequence[Normalization]
) -> tuple[Normalization, ...]:
    """The scales of the channels, with the numbers of their voxels where these are each volume's own."""
    known, box = [_Moments() for _ in scales], _Box()
    some = [_Some() for _ in scales]
    for channel, first, slab in slabs:
        filled = slab != 0
        box.add(first, filled)
        if scales[channel].kind in _SCORES:
            known[channel].add(slab[filled])
        if scales[channel].kind in _ENDS:
            some[channel].add(slab)
    for how, moments in zip(scales, known):
        if how.kind == "zscore":
            moments.merge(box.voxels - moments.count, 0.0, 0.0)
    return tuple(
        replace(how, mean=m.mean, std=m.std)
        if how.kind in _SCORES
        else _between(how, ends.voxels)
        if how.kind in _ENDS
        else how
        for how, m, ends in zip(scales, known, some)
    )


def _between(how: Normalization, voxels: Floats) -> Normalization:
    """With numbers by which percentiles become 0 and 1, or -1 and 1."""
    share, lowest = _ENDS[how.kind]
    low, high = (float(v) for v in np.percentile(voxels, (share, 100 - share))) if voxels.size else (0.0, 0.0)
    std = (high - low) / (1 - lowest)
    return replace(how, lower=low, upper=high, mean=low - lowest * std, std=std)


@dataclass
class _Some:
    """Every voxel of a channel or, of a large one, every second, fourth, … in a fixed order.

    Which they are depends on the channel alone, and not on the slabs that it comes in.
    """

    kept: list[Floats] = field(default_factory=list)
    seen: int = 0
    step: int = 1

    def add(self, slab: Floats) -> None:
        rows = slab.transpose(2, 0, 1).reshape(-1)
        self.kept.append(rows[-self.seen % self.step :: self.step].copy())
        self.seen += rows.size
        while sum(part.size for part in self.kept) > _MOST_SAMPLES:
            self.kept = [self.voxels[::2].copy()]
            self.step *= 2

    @property
    def voxels(self) -> Floats:
        return np.concatenate(self.kept) if self.kept else np.empty(0, np.float32)


@dataclass
class _Box:
    """The smallest box around voxels that come in slabs (i, j, rows)."""

    low: list[int] = field(default_factory=lambda: [sys.maxsize] * 3)
    high: list[int] = field(default_factory=lambda: [-1] * 3)

    def add(self, first: int, filled: npt.NDArray[np.bool_]) -> None:
        for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
            at = np.flatnonzero(filled.any(others)) + (first if axis == 2 else 0)
            if at.size:
                self.low[axis] = min(self.low[axis], int(at[0]))
                self.high[axis] = max(self.high[axis], int(at[-1]))

    @property
    def voxels(self) -> int:
        return prod(max(0, high - low + 1) for low, high in zip(self.low, self.high))


@dataclass
class _Moments:
    """Mean and standard deviation of numbers that come in parts (Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, part: Floats) -> None:
        if part.size:
            self.merge(part.size, float(part.mean(dtype=np.float64)), float(part.var(dtype=np.float64)))

    def merge(self, count: int, mean: float, variance: float) -> None:
        """A part of which these are known."""
        if not count:
            return
        total, shift = self.count + count, mean - self.mean
        self.squares += count * variance + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        return (self.squares / max(self.count, 1)) ** 0.5


def normalize(channel: Floats, how: Normalization) -> None:
    """Scale one whole channel in place."""
    scale(channel, measured([(0, 0, channel)], [how])[0])


def scale(voxels: Floats, how: Normalization) -> None:
    """Scale some voxels of a channel in place, by the mean and deviation of `how`."""
    if how.kind == "none":
        return
    inside = voxels != 0 if how.kind == "nonzero_zscore" else np.ones((), bool)
    if how.kind not in _SCORES:
        np.clip(voxels, how.lower, how.upper, out=voxels)
    np.subtract(voxels, how.mean, out=voxels, where=inside)
    np.divide(voxels, max(how.std, 1e-8), out=voxels, where=inside)


def resample_image(image: Floats, shape: Shape) -> Floats:
    """(channels, x, y, z) → (channels, *shape), linear, about the volume's outer edges."""
    made = np.empty((len(image), *shape), np.float32)
    x, y, z = image.shape[1:]
    for channel, out in zip(image, made):
        SlabResampler(Geometry((x, y, z), np.eye(4)), out).add(0, channel)
    return made


def renumbered(
    labels: npt.NDArray[np.integer[Any]], numbers: Mapping[int, int]
) -> npt.NDArray[np.integer[Any]]:
    """Label values (i, j, k), none but those of `numbers`, as their numbers, in the order of the file."""
    kind = smallest_integer(len(numbers))
    if all(value == number for value, number in numbers.items()):
        return labels.astype(kind, copy=False)
    made = np.zeros(labels.shape[::-1], kind).T
    for first, slab in slabs_of(labels):
        rows = made[:, :, first : first + slab.shape[2]]
        for value, number in numbers.items():
            if number:
                rows[slab == value] = number
    return made


def _as_they_are_read(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """The same, z fastest; in blocks, as memory is slow where neighbours lie far from each other."""
    if labels.flags.c_contiguous:
        return labels
    made = np.empty(labels.shape, labels.dtype)
    for x, y in itertools.product(*(range(0, n, _TURNED) for n in labels.shape[:2])):
        block = slice(x, x + _TURNED), slice(y, y + _TURNED)
        made[block] = labels[block]
    return made


def resample_labels(
    labels: npt.NDArray[np.integer[Any]], shape: Shape, values: Sequence[int]
) -> npt.NDArray[np.integer[Any]]:
    """(x, y, z) → `shape`: each value's mask is interpolated linearly, and the largest wins.

    Between equals the earlier of `values` wins. Takes three float volumes of memory however many values
    there are.
    """
    if labels.shape == shape:
        return _as_they_are_read(labels)
    import torch
    from torch.nn.functional import interpolate

    present = set(np.unique(labels).tolist())
    result = np.zeros(shape, labels.dtype)
    best = torch.zeros(shape)
    for value in values:
        if value not in present:
            continue
        mask = torch.from_numpy(np.ascontiguousarray(labels == value, dtype=np.float32))[None, None]
        share = interpolate(mask, shape, mode="trilinear", align_corners=False)[0, 0]
        wins = share > best
        result[wins.numpy()] = value
        torch.maximum(best, share, out=best)
    return result
