"""Cases drawn and packed, so that together they take no more than they may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medfuse.core.errors import DataError
from medfuse.core.reporter import Reporter
from medfuse.viewer.packing import Packed, pack
from medfuse.viewer.scene import Scene, draw

MOST_VOXELS = 2**24
"""Of a case: what a browser without a graphics card opens in seconds."""
_LEAST_BYTES = 1_000_000
"""Of a case, where there are many: smaller pictures would show little."""
_BYTES_PER_VOXEL = 1.6
"""About, of a noisy CT as text."""


@dataclass(frozen=True)
class Fitted:
    """What is shown, the names of cases for which no room was left, and lines about those with a fault."""

    cases: tuple[Packed, ...]
    left: tuple[str, ...]
    faults: tuple[str, ...]


def fit(
    scenes: Sequence[Scene], most_bytes: int, reporter: Reporter, most_voxels: int = MOST_VOXELS
) -> Fitted:
    """Each case has its share of what is left. What cannot be read is told, and the others go on.

    Raises DataError where no case can be shown.
    """
    packed: list[Packed] = []
    left: list[str] = []
    faults: list[str] = []
    room = most_bytes
    with reporter.track("drawing", len(scenes)) as advance:
        for done, scene in enumerate(scenes):
            share = min(max(_LEAST_BYTES, room // (len(scenes) - done)), most_bytes)
            try:
                one = pack_within(scene, share, most_voxels) if room > 0 else None
            except DataError as error:
                faults += error.lines
                continue
            if one is None or one.bytes > room:
                left.append(scene.name)
                continue
            room -= one.bytes
            packed.append(one)
            for note in one.notes:
                reporter.say(f"{scene.name}: {note}")
            advance(done + 1, scene.name)
    if not packed:
        small = [f"no case fits into {most_bytes} bytes; give more --max-size"] if left else []
        raise DataError(*faults, *small)
    return Fitted(tuple(packed), tuple(left), tuple(faults))


def pack_within(scene: Scene, most_bytes: int, most_voxels: int = MOST_VOXELS) -> Packed:
    """A case of at most so many bytes, as far as that can be. Raises DataError."""
    voxels = max(1, min(most_voxels, int(most_bytes / _BYTES_PER_VOXEL)))
    while True:
        packed = pack(draw(scene, voxels))
        if packed.bytes <= most_bytes or voxels < 4096:
            return packed
        voxels = int(min(0.9 * voxels, voxels * 0.9 * most_bytes / packed.bytes))
