"""Logits of a whole volume from a network that sees windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfuse.core.errors import DataError, ShapeError
from medfuse.core.region import Region
from medfuse.infer.air import Body, find_body
from medfuse.infer.bricks import Brick
from medfuse.infer.decide import Kind
from medfuse.infer.draft import Draft, first_pass
from medfuse.infer.flips import flip_combinations
from medfuse.infer.shelf import Shelf
from medfuse.infer.stitch import Stitcher, Where, are_large, carry_bytes
from medfuse.infer.windows import AxisName, Grid, Stepped, Window, plan_grid
from medfuse.quality.agreement import Agreement, Pass

Network = Callable[[Tensor], Tensor]
"""Windows (batch, channels, *patch_size) → logits (batch, classes, *patch_size)."""

Voxels = npt.NDArray[np.float32]

KNOWN_BYTES = 64 * 2**20
"""How much the answers to constant windows may take, if they are more than one."""


class Image(Protocol):
    """Voxels (channels, x, y, z): an array, a tensor, or what reads a file by slices of all four axes."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, where: tuple[slice, slice, slice, slice], /) -> Any: ...


@dataclass
class WindowCount:
    """What became of an image's windows: seen by the network, answered from memory, or not asked about.

    `sums`: as what their unfinished sums are kept.
    """

    run: int = 0
    reused: int = 0
    skipped: int = 0
    sums: torch.dtype = torch.float32


def predict_logits(
    image: Image,
    networks: Network | Sequence[Network],
    *,
    patch_size: Sequence[int],
    classes: int,
    overlap: float = 0.5,
    batch_size: int = 1,
    mirror: Sequence[str] = (),
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Logits (classes, x, y, z) in float32 for an image (channels, x, y, z): all bricks of `predict_bricks`.

    They lie on `device`, or in main memory where they would take more than half of what is free there.
    """
    bricks = predict_bricks(
        image,
        networks,
        patch_size=patch_size,
        classes=classes,
        overlap=overlap,
        batch_size=batch_size,
        mirror=mirror,
        device=device,
        progress=progress,
    )
    shape = (classes, *image.shape[1:])
    logits = torch.empty(shape, device=_roomy(torch.device(device), 4 * math.prod(shape)))
    for brick in bricks:
        logits[(slice(None), *brick.where)] = brick.logits.to(logits.device)
    return logits


def predict_bricks(
    image: Image,
    networks: Network | Sequence[Network],
    *,
    patch_size: Sequence[int],
    classes: int,
    overlap: float = 0.5,
    batch_size: int = 1,
    mirror: Sequence[str] = (),
    device: torch.device | str = "cpu",
    sums: torch.dtype | None = None,
    sums_on: torch.device | str | None = None,
    shelf: Shelf | None = None,
    sweep: AxisName | None = None,
    stepped: Stepped | None = None,
    skip_air: bool = False,
    adaptive_overlap: float | None = None,
    kind: Kind = "softmax",
    region: Region | None = None,
    count: WindowCount | None = None,
    progress: Callable[[int, int], None] | None = None,
    heads: int = 1,
    agreement: Agreement | None = None,
) -> Iterator[Brick]:
    """Logits of an image (channels, x, y, z), in bricks that tile it, each with its last window.

    The image is read window by window, so that it may be a file that is mapped or streamed. Where it is
    smaller than a window it stands in the middle of zeros. Windows, and so bricks, come row by row along
    `sweep` (see `plan_grid`). What is unfinished is held as `sums` (see `Stitcher`); where that is not said
    in float32, but in float16 if it is large and the networks answer in 16 bits. It is held on the device
    `sums_on`; where that is not said on `device`, or in main memory if it would take more than half of what
    is free. With a `shelf`, what no further window of a row touches lies there until the next row.

    Windows are weighted by a gaussian, and spread, unless `stepped` (see `plan_grid`). Where `mirror` names
    axes (of "x", "y", "z") each window is seen in every combination of flips; several networks are the folds
    of one model. Over flips and folds it is logits that are averaged, as nnU-Net does: a mean is linear, so
    the order of averaging, stitching and resampling does not matter. A `patch_size` of two numbers sends (x,
    y) slices through a 2-D network. A forward pass takes at most `batch_size` windows, each flip of a window
    counted as one. A window whose channels are constant is answered as an earlier one of the same constants;
    as many answers are kept as fit into KNOWN_BYTES, and at least one where there is no shelf. With
    `skip_air` the network is not asked about a window that has no body within half a window of it (see
    `find_body`): its logits say class 0. Nor is it about one that does not touch `region`, so that in all of
    a region logits are what they are without. With `adaptive_overlap`, which is below `overlap`, windows that
    overlap by that much come first; the others are only asked about where those decide differently on some
    voxel, by the largest logit or as `kind` says (see `Draft`), and elsewhere say what they decided. An image
    that takes no fewer windows so is seen as without.

    `count` is kept up to date, and `progress` is told (windows done, windows in all). With several
    `heads` the networks answer with the logits of each, the main one's first, which alone counts. `agreement`
    is told what each pass decides of each voxel, by the window whose middle is nearest; its passes are as
    `passes_of` says.

    Raises ShapeError where a network does not answer with logits of the window's size, and DataError
    where they are not finite.
    """
    networks = networks if isinstance(networks, Sequence) else (networks,)
    flips, flat = flip_combinations(mirror, len(patch_size)), len(patch_size) == 2
    ensemble = _Ensemble(
        networks,
        flips,
        classes=classes,
        batch_size=batch_size,
        flat=flat,
        heads=heads,
        agreement=agreement,
    )
    grid = plan_grid(image.shape[1:], patch_size, overlap, sweep, stepped)
    reader = _Reader(image, grid, torch.device(device), find_body(image) if skip_air else None, region)
    dtype, free = sums or torch.float32, sums is None and are_large(grid, classes)
    held_on = sums_on or _roomy(reader.device, carry_bytes(grid, classes, dtype.itemsize))
    stitcher = Stitcher(grid, device=held_on, dtype=dtype, shelf=shelf)
    count = WindowCount() if count is None else count
    count.sums = dtype
    few, draft = first_pass(grid, adaptive_overlap), None
    answers_of = partial(
        _answers, reader=reader, ensemble=ensemble, count=count, least_known=0 if shelf else 1
    )
    windows = len(few or ()) + len(grid)

    def tell(before: int, done: int) -> None:
        if progress is not None:
            progress(before + done, windows)

    def stitched(logits: Tensor) -> Brick:
        if free and ensemble.short:
            stitcher.dtype = count.sums = torch.float16
        return stitcher.add(logits)

    if few is not None:
        draft = Draft(few, classes, kind)
        for logits in answers_of(few, progress=partial(tell, 0)):
            draft.add(_finite(logits))  # what it settles shows no NaN later
    answers = answers_of(grid, progress=partial(tell, windows - len(grid)), draft=draft)
    return map(reader.in_image, map(_checked_finite, map(stitched, answers)))


def window_logits(
    window: Image,
    networks: Sequence[Network],
    *,
    patch_size: Sequence[int],
    classes: int,
    mirror: Sequence[str] = (),
    device: torch.device | str = "cpu",
    heads: int = 1,
) -> Tensor:
    """Logits (classes, *window) of an image that one window holds, as they are before they are weighted.

    Raises as `predict_bricks` does.
    """
    flips, flat = flip_combinations(mirror, len(patch_size)), len(patch_size) == 2
    ensemble = _Ensemble(networks, flips, classes=classes, batch_size=1, flat=flat, heads=heads)
    reader = _Reader(window, grid := plan_grid(window.shape[1:], patch_size, 0.0), torch.device(device))
    (place,) = grid
    made, _ = ensemble.logits(reader.to_device([reader.read(place)]))
    return _finite(made[0])


def windows_of(
    image: Image, patch_size: Sequence[int], overlap: float, stepped: Stepped | None = None
) -> Iterator[Voxels]:
    """Every window of an image (channels, x, y, z) as a network is shown it: (channels, *patch_size)."""
    grid = plan_grid(image.shape[1:], patch_size, overlap, stepped=stepped)
    reader = _Reader(image, grid, torch.device("cpu"), None)
    for window in grid:
        yield reader.read(window).reshape(image.shape[0], *patch_size)


def passes_of(
    networks: Sequence[Network], mirror: Sequence[str], dims: int, heads: int = 1
) -> tuple[Pass, ...]:
    """Each way in which a window is looked at, in the order in which it is."""
    numbers = (range(len(networks)), range(len(flip_combinations(mirror, dims))), range(heads))
    return tuple(Pass(*one) for one in itertools.product(*numbers))


@dataclass(eq=False)
class _Answer:
    """Logits (classes, *window) of a window, or where they will be, or what makes them when they are needed.

    `kept`: for other windows too. `own`: the part of the window that no other is nearer to. `decided`: what
    each pass decides there, where that is asked for; of one that is kept in the whole window.
    """

    logits: Tensor | None = None
    kept: bool = False
    made: Callable[[], Tensor] | None = None
    own: Where | None = None
    decided: Tensor | None = None


def _answers(
    grid: Grid,
    reader: _Reader,
    ensemble: _Ensemble,
    count: WindowCount,
    progress: Callable[[int], None],
    draft: Draft | None = None,
    *,
    least_known: int = 1,
) -> Iterator[Tensor]:
    """Logits (classes, *window) of every window of the grid, in its order, `draft`'s where it settles them.

    Of answers to constant windows at least `least_known` are kept. `progress` is told how many windows are
    done.
    """
    background = ensemble.background(grid.window, reader.device)
    known: dict[tuple[float, ...] | None, _Answer] = {}
    at_most = max(least_known, KNOWN_BYTES // (4 * ensemble.classes * math.prod(grid.window)))
    asked: list[tuple[Voxels, _Answer]] = []
    waiting: list[tuple[_Answer, Where]] = []
    for number, (window, index) in enumerate(zip(grid, grid.indices()), 1):
        own = reader.inside(grid.own(index), window)
        if reader.passes_over(window):
            waiting.append((_Answer(background), own))
            count.skipped += 1
        elif draft is not None and draft.settles(window):
            waiting.append((_Answer(made=partial(draft.logits, window, reader.device)), own))
            count.skipped += 1
        else:
            voxels = reader.read(window)
            constants = _constants(voxels)
            if constants in known:
                count.reused += 1
            else:
                asked.append((voxels, _Answer(kept=constants is not None and at_most > 0, own=own)))
                count.run += 1
            answer = known[constants] if constants in known else asked[-1][1]
            waiting.append((answer, own))
            if constants is not None:
                known[constants] = known.pop(constants, answer)  # the last to be given up
                if len(known) > at_most:
                    del known[next(iter(known))]
        if not asked or len(asked) == ensemble.windows_at_once or number == len(grid):
            _fill(asked, reader, ensemble)
            asked = []
            yield from _taken(waiting, ensemble)
            progress(number)


def _fill(asked: Sequence[tuple[Voxels, _Answer]], reader: _Reader, ensemble: _Ensemble) -> None:
    if asked:
        parts = [None if answer.kept else answer.own for _, answer in asked]
        made, decided = ensemble.logits(reader.to_device([voxels for voxels, _ in asked]), parts)
        for (_, answer), logits in zip(asked, made):
            answer.logits = logits.clone() if answer.kept else logits
        for (_, answer), own in zip(asked, decided):
            answer.decided = own


def _taken(waiting: list[tuple[_Answer, Where]], ensemble: _Ensemble) -> Iterator[Tensor]:
    """The logits of each, and an empty list: none may be held on to while the network runs again.

    What is told of a window that no network saw is that all passes agree.
    """
    for answer, own in waiting:
        logits = answer.made() if answer.made else answer.logits
        assert logits is not None
        if answer.decided is not None:
            ensemble.agree(answer.decided[(..., *own)] if answer.kept else answer.decided)
        elif answer.made:
            ensemble.agree_on(logits[(slice(None), *own)])
        yield logits
    waiting.clear()


def _constants(voxels: Voxels) -> tuple[float, ...] | None:
    """The one value of each channel, or None where a channel has several."""
    first = voxels[:, 0, 0, 0]
    if (voxels[:, -1, -1, -1] != first).any():  # most windows are told apart by their corners
        return None
    return tuple(first.tolist()) if (voxels == first[:, None, None, None]).all() else None


class _Ensemble:
    """The mean of several networks over several flips, `batch_size` windows or flips of windows at a time."""

    def __init__(
        self,
        networks: Sequence[Network],
        flips: Sequence[tuple[int, ...]],
        *,
        classes: int,
        batch_size: int,
        flat: bool,
        heads: int = 1,
        agreement: Agreement | None = None,
    ) -> None:
        assert networks, "at least one network is needed"
        self._agreement = agreement
        self._heads = heads
        self._networks = networks
        self._flips = flips
        self.classes = classes
        self._batch_size = batch_size
        self._flat = flat
        self.windows_at_once = max(1, batch_size // len(flips))
        self.short = False  # whether all networks answer in 16 bits

    def background(self, window: Sequence[int], device: torch.device) -> Tensor:
        """(classes, *window): class 0 to a softmax, none to a sigmoid; takes next to no memory."""
        logits = torch.full((self.classes, 1, 1, 1), -20.0, device=device)
        logits[0] = 0
        return logits.expand(-1, *window)

    @torch.inference_mode()
    def logits(self, windows: Tensor, parts: Sequence[Where | None] = ()) -> tuple[Tensor, Sequence[Tensor]]:
        """(batch, channels, x, y, z) → (batch, classes, x, y, z): the network's own where it is one pass.

        And, where that is asked for, what each pass decides of a part of each window, or of the whole one.
        """
        decided: list[list[Tensor]] = [[] for _ in parts] if self._agreement else []
        if self._flat:
            made = self._mean(windows.squeeze(-1), parts, decided).unsqueeze(-1)
        else:
            made = self._mean(windows, parts, decided)
        stacked = [torch.stack(own) for own in decided]
        return made, [own.unsqueeze(-1) for own in stacked] if self._flat else stacked

    def agree(self, decided: Tensor) -> None:
        """What each pass decides of some voxels that no window was asked of before."""
        if self._agreement is not None:
            self._agreement.add(decided)

    def agree_on(self, logits: Tensor) -> None:
        """All passes decide as these logits (classes, *any) say."""
        if self._agreement is not None:
            one = self._agreement.decide(logits)[None]
            self._agreement.add(one.expand(len(self._agreement.passes), *one.shape[1:]))

    def _decide(self, answers: Tensor, parts: Sequence[Where | None], decided: list[list[Tensor]]) -> None:
        """What each head of a pass decides, of answers (batch, heads · classes, *window), in their parts."""
        assert self._agreement is not None
        for answer, part, own in zip(answers, parts, decided):
            where = (..., *(part[: answer.ndim - 1] if part else ()))
            for logits in answer[where].split(self.classes):
                own.append(self._agreement.decide(logits))

    def _mean(self, windows: Tensor, parts: Sequence[Where | None], decided: list[list[Tensor]]) -> Tensor:
        total: Tensor | None = None
        at_once = max(1, self._batch_size // len(windows))
        chunks = [self._flips[n : n + at_once] for n in range(0, len(self._flips), at_once)]
        self.short = True
        for network, flips in itertools.product(self._networks, chunks):
            inputs = torch.cat([windows.flip(flip) for flip in flips]) if any(flips) else windows
            answers = _checked(network(inputs), inputs, self.classes * self._heads)
            self.short &= answers.dtype.itemsize == 2
            if len(self._networks) * len(self._flips) == 1:
                if decided:
                    self._decide(answers, parts, decided)
                return answers[:, : self.classes] if self._heads > 1 else answers
            for flip, answer in zip(flips, answers.split(len(windows))):
                logits = answer.flip(flip) if flip else answer
                if decided:
                    self._decide(logits, parts, decided)
                logits = logits[:, : self.classes]
                total = logits.to(torch.float32, copy=True) if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(self._networks) * len(self._flips))


def _checked(logits: Any, inputs: Tensor, classes: int) -> Tensor:
    wanted = (inputs.shape[0], classes, *inputs.shape[2:])
    given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if given != wanted:
        raise ShapeError(
            f"the network answers windows {tuple(inputs.shape)} with {given}, not with logits {wanted}; "
            "it does not belong to this pipeline's labels, channels or patch_size"
        )
    return logits


class _Reader:
    """Windows of an image, and bricks of its grid in the image's own coordinates.

    Where the image is smaller than the grid it stands in the middle of zeros.
    """

    def __init__(
        self,
        image: Image,
        grid: Grid,
        device: torch.device,
        body: Body | None = None,
        region: Region | None = None,
    ) -> None:
        self.device = device
        self._body, self._region = body, region
        self._image = image
        self._size = image.shape[1:]
        self._before = tuple((wanted - n) // 2 for wanted, n in zip(grid.shape, self._size))

    def read(self, window: Window) -> Voxels:
        """(channels, *window)"""
        (x, y, z), place = self._part(window.where)
        read = self._image[:, x, y, z]
        extent = [part.stop - part.start for part in window.where]
        voxels = np.zeros((self._image.shape[0], *extent), dtype=np.float32)
        voxels[place] = read.float().cpu() if isinstance(read, Tensor) else read
        return voxels

    def inside(self, where: Where, window: Window) -> Where:
        """What of `where` is not padding, as a place in a window that holds it."""
        (x, y, z), _ = self._part(where)
        places = [
            slice(part.start + before - around.start, part.stop + before - around.start)
            for part, before, around in zip((x, y, z), self._before, window.where)
        ]
        return places[0], places[1], places[2]

    def passes_over(self, window: Window) -> bool:
        """Whether the window lies outside of the region, or there is known to be no body within half a window
        of it."""
        if self._region is not None and not self._region.touches(self._part(window.where)[0]):
            return True
        if self._body is None:
            return False
        x, y, z = (
            slice(part.start - half, part.stop + half)
            for part in window.where
            for half in [(part.stop - part.start) // 2]
        )
        return not self._body.touches(self._part((x, y, z))[0])

    def to_device(self, windows: Sequence[Voxels]) -> Tensor:
        batch = torch.from_numpy(np.stack(windows))
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # so that the host need not wait for what the device still does
        return batch.to(self.device, non_blocking=True)

    def in_image(self, brick: Brick) -> Brick:
        """What of it is not padding, placed in the image."""
        where, place = self._part(brick.where)
        return Brick(where, brick.logits[place])

    def _part(self, where: Where) -> tuple[Where, tuple[slice, ...]]:
        """The part of `where` that lies in the image: there, and in a (channels, *where) array."""
        inner, place = [], [slice(None)]
        for part, before, size in zip(where, self._before, self._size):
            begin, end = max(part.start - before, 0), min(part.stop - before, size)
            inner.append(slice(begin, end))
            place.append(slice(begin + before - part.start, end + before - part.start))
        x, y, z = inner
        return (x, y, z), tuple(place)


def _checked_finite(brick: Brick) -> Brick:
    _finite(brick.logits)
    return brick


def _finite(logits: Tensor) -> Tensor:
    if not math.isfinite(float(logits.sum(dtype=torch.float32))):
        raise DataError(
            "the network answers with NaN or infinite logits; look for such voxels, or use precision: fp32"
        )
    return logits


def _roomy(device: torch.device, size: int) -> torch.device:
    """The `device`, or main memory where `size` bytes are more than half of what is free there."""
    if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 2:
        return torch.device("cpu")
    return device
