"""What a layer's output is, told by its shape for images of several sizes: a map, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, prod

from medfuse.core.features import TokenLayout
from medfuse.core.text import by
from medfuse.model.trial import BATCH

Size = tuple[int, ...]

WIDE = 256
"""Voxels per axis of an image of which no layer makes one voxel by strides alone."""


@dataclass(frozen=True)
class Shown:
    """A tensor in a trial on an image of `image` voxels: its shape, and the axis of its channels if known."""

    shape: Size
    image: Size
    channel_axis: int | None = None
    dtype: str = ""  # where it is none of floating point


@dataclass(frozen=True)
class MapFacts:
    """(channels, *spatial) of a map, its stride, whether the layer puts channels last or makes tokens, and
    whether it says one thing of the whole image.

    Where it is no map, `reason` says why, and the rest is empty.
    """

    map_size: Size = ()
    stride: Size = ()
    channels_last: bool = False
    image_level: bool = False
    reason: str = ""
    tokens: TokenLayout | None = None


@dataclass(frozen=True)
class _Reading:
    """A way to read a shape: with its channels first, or last."""

    last: bool
    channels: int
    size: Size

    @classmethod
    def of(cls, shape: Size, last: bool) -> _Reading:
        return cls(last, shape[-1], shape[1:-1]) if last else cls(last, shape[1], shape[2:])

    @property
    def axis(self) -> int:
        return 1 + len(self.size) if self.last else 1


def read_map(shown: Sequence[Shown]) -> MapFacts:
    """What the same output is, of which the first trial is the one on the patch, in the size that counts.

    Channels are as many whatever the image; a spatial axis follows that of the image at a whole stride, or
    always has one size, as after a pooling to a size. Where sizes do not tell how to read a shape, as of a
    network that takes images of one size, the operations that made it decide.
    """
    first = shown[0]
    dims = len(first.image)
    if len(first.shape) == 2 and first.shape[0] == BATCH and not first.dtype:
        return _of_whole_image(shown)
    if first.dtype:
        return MapFacts(
            reason=f"makes {by(first.shape) or 'a number'} of {first.dtype}, which is no feature map"
        )
    if any(len(s.shape) != dims + 2 or s.shape[0] != BATCH for s in shown):
        return MapFacts(reason=f"makes {by(first.shape) or 'a number'}, which is no map of the image")
    found = [*_readings(shown)]
    fitting = [r for r, follows in found if follows and len(shown) > 1]
    if len(fitting) != 1:
        fitting = fitting or [r for r, _ in found]
        told = [r for r in fitting if any(s.channel_axis == r.axis for s in shown)]
        plain = [r for r in fitting if not r.last and set(r.size) == {1}]  # one voxel: nothing to tell apart
        fitting = told or plain or fitting * 2  # what nothing tells is as good as ambiguous
    if not fitting:
        return MapFacts(reason=f"makes {by(first.shape)}, which is no map of the image at a whole stride")
    if len(fitting) > 1:
        return MapFacts(
            reason=f"makes {by(first.shape)}, whose channels may come first or last: neither images of "
            "another size nor the operations that made it tell; tap a convolution or norm beside it"
        )
    (made,) = fitting
    if is_one_voxel(shown) and any(min(s.image) >= WIDE for s in shown):
        return MapFacts((made.channels, *made.size), first.image, made.last, image_level=True)
    pairs = [(_Reading.of(s.shape, made.last).size, s.image) for s in shown]
    if all(size == made.size for size, _ in pairs):
        pairs = pairs[:1]  # pooled to a size: a stride on this patch alone
    return MapFacts((made.channels, *made.size), _stride(pairs), made.last)


def is_one_voxel(shown: Sequence[Shown]) -> bool:
    """Whether a map has one voxel in every trial: of a deep layer, or of whatever image there is."""
    dims = len(shown[0].image)
    return all(len(s.shape) == dims + 2 and prod(s.shape[1:]) in (s.shape[1], s.shape[-1]) for s in shown)


def _of_whole_image(shown: Sequence[Shown]) -> MapFacts:
    """Of (batch, channels)."""
    first = shown[0]
    if any(s.shape != first.shape for s in shown):
        return MapFacts(reason=f"makes {by(first.shape)}, and of other images other numbers of channels")
    return MapFacts((first.shape[1], *(1,) * len(first.image)), first.image, image_level=True)


def _readings(shown: Sequence[Shown]) -> Iterator[tuple[_Reading, bool]]:
    """Each way to read all the shapes, and whether its size follows that of the image."""
    for last in (False, True):
        reading, *others = [_Reading.of(s.shape, last) for s in shown]
        if any(r.channels != reading.channels for r in others):
            continue
        pairs = [(r.size, s.image) for r, s in zip([reading, *others], shown)]
        if _stride(pairs) and (not others or any(r.size != reading.size for r in others)):
            yield reading, True
        elif _stride(pairs[:1]) and all(r.size == reading.size for r in others):
            yield reading, False


def _stride(pairs: Sequence[tuple[Size, Size]]) -> Size:
    """Voxels of the image per voxel of a map, the same for each (size, image), or nothing.

    A map of a few voxels leaves several strides open. The one counts that divides most of the images without
    a rest, and of these the one that halvings make: 32 voxels to 1 and 48 to 2 are a stride of 32, not of 24.
    """
    stride = []
    for axis in range(len(pairs[0][0])):
        both = [(size[axis], image[axis]) for size, image in pairs]
        steps = [max(1, round(n / m)) for m, n in reversed(both) if m]
        whole = [s for s in steps if all(n // s <= m <= -(-n // s) for m, n in both)]
        if not whole:
            return ()
        exact = {s: sum(n == s * m for m, n in both) for s in whole}
        stride.append(min(whole, key=lambda s: (-exact[s], s // (s & -s))))
    return tuple(stride)


def other_sizes(patch: Size, *, real: bool) -> Iterator[Size]:
    """Images to try a network on besides its patch: no two axes alike, none as long as that of the patch.

    Multiples of 16, 32, 64 and 128, then of the patch's own size, for networks that take nothing else. Where
    the trial computes with `real` numbers, those that would take long are left out.
    """
    most_voxels = max(2**15, 8 * prod(patch)) if real else inf
    for step in (16, 32, 64, 128):
        yield from _within(_unlike(patch, (step,) * len(patch)), most_voxels)
    yield from _within(_unlike(patch, patch), most_voxels)


def wide_size(patch: Size) -> Size:
    """An image that is WIDE on every axis, unlike the patch."""
    return _unlike(patch, (WIDE,) * len(patch))


def _unlike(patch: Size, steps: Size) -> Size:
    """The smallest multiples of `steps` that are all different, and different from the patch."""
    chosen: list[int] = []
    for n, step in zip(patch, steps):
        size = step
        while size in (n, *chosen):
            size += step
        chosen.append(size)
    return tuple(chosen)


def _within(size: Size, most_voxels: float) -> Iterator[Size]:
    if prod(size) <= most_voxels:
        yield size
