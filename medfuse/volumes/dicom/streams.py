"""What compressed pixels say of their own size, before a decoder makes room for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

_BOXES = 100
_SEGMENTS = 1000
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # tables, between the markers of frames
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a segment
_CHANNELS = 4


def check_streams(streams: Iterable[bytes], rows: int, columns: int) -> None:
    """Raises ValueError where JPEG or JPEG 2000 would become other pixels than (rows, columns).

    A decoder makes room for what the stream says: some hundred bytes can say gigabytes.
    """
    for stream in streams:
        for height, width, channels in size_of(stream):
            if (height, width) != (rows, columns) or channels > _CHANNELS:
                raise ValueError(
                    f"its compressed pixels are {width} × {height} in {channels} channels, its header says "
                    f"{columns} × {rows}"
                )


def size_of(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and channels, as often as they are said; nothing of other streams."""
    if stream[:2] == b"\xff\xd8":
        yield from _of_jpeg(stream)
    elif stream[:2] == b"\xff\x4f":
        yield from _of_codestream(stream, 0)
    elif stream[4:8] == b"jP  ":
        for start in islice(_codestreams(stream), _BOXES):
            yield from _of_codestream(stream, start)


def _codestreams(stream: bytes) -> Iterator[int]:
    """Where JPEG 2000's codestreams begin in the boxes of a file."""
    place = 0
    for _ in range(_BOXES):
        length, kind, head = _number(stream, place, 4), stream[place + 4 : place + 8], 8
        if length == 1:
            length, head = _number(stream, place + 8, 8), 16
        if kind == b"jp2c":
            yield place + head
        if length < head:  # the last one, or none
            return
        place += length


def _of_codestream(stream: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    if stream[start + 2 : start + 4] != b"\xff\x51":
        return
    right, bottom, left, top = (_number(stream, start + 8 + 4 * n, 4) for n in range(4))
    yield bottom - top, right - left, _number(stream, start + 40, 2)


def _of_jpeg(stream: bytes) -> Iterator[tuple[int, int, int]]:
    place = 2
    for _ in range(_SEGMENTS):
        while stream[place : place + 2] == b"\xff\xff":
            place += 1
        marker = (
            stream[place + 1] if stream[place : place + 1] == b"\xff" and place + 1 < len(stream) else None
        )
        if marker is None or marker in (0xDA, 0xD9):  # the pixels themselves, or the end
            return
        if marker in _ALONE:
            place += 2
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME):
            yield _number(stream, place + 5, 2), _number(stream, place + 7, 2), _number(stream, place + 9, 1)
        place += 2 + max(2, _number(stream, place + 2, 2))


def _number(stream: bytes, place: int, size: int) -> int:
    return int.from_bytes(stream[place : place + size], "big")
