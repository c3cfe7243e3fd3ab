"""Compressed bytes, read on to the end of their stream, where its checksum stands."""

from __future__ import annotations

import bz2
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, Protocol

Encoding = Literal["raw", "gzip", "zlib", "bzip2", "text"]

_CHUNK = 1 << 17  # bytes of a file at a time
MOST_RATIO: dict[Encoding, int] = {"raw": 1, "gzip": 1040, "zlib": 1040, "bzip2": 100_000, "text": 8}
"""By how much an encoding shrinks at most: a file that is smaller cannot hold what its header says."""


class Damaged(Exception):
    """Compressed bytes that are none, end too early, or do not fit their checksum."""


class NotCompressed(Damaged):
    """Bytes that do not begin as their encoding does."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True)
class Piece:
    """A file, or the part of it from `offset` on."""

    path: Path
    offset: int = 0


def opened(pieces: Sequence[Piece], encoding: Encoding) -> IO[bytes]:
    """What lies in `pieces`, one after the other, decompressed. Reading raises Damaged and OSError."""
    return io.BufferedReader(_Joined(pieces, encoding), _CHUNK)


def read_to_end(file: IO[bytes], most: int) -> tuple[int, bool]:
    """Read on to where the checksum stands, or a little more than `most` bytes.

    How many bytes were left, and whether one of them is not 0.
    """
    count, filled = 0, False
    while count <= most and (part := file.read(_CHUNK)):
        count, filled = count + len(part), filled or part != bytes(len(part))
    return count, filled


class _Joined(io.RawIOBase):
    """Files as one stream."""

    def __init__(self, pieces: Sequence[Piece], encoding: Encoding) -> None:
        self._left = list(pieces)
        self._encoding = encoding
        self._now: Any = None
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._now or self._left:
            self._now = self._now or self._next()
            if count := int(self._now.readinto(buffer)):
                return count
            self._shut()
        return 0

    def _next(self) -> Any:
        piece = self._left.pop(0)
        self._file = open(piece.path, "rb", buffering=0)  # noqa: SIM115  `_shut` closes it
        self._file.seek(piece.offset)
        return self._file if self._encoding == "raw" else _Inflated(self._file, self._encoding)

    def _shut(self) -> None:
        if self._file:
            self._file.close()
        self._now = self._file = None

    def close(self) -> None:
        self._shut()
        super().close()


class _Inflated:
    """A compressed stream, or several in a row; what stands behind them and is none is left alone."""

    def __init__(self, file: IO[bytes], encoding: Encoding) -> None:
        self._file = file
        self._waiting = file.read(_CHUNK)
        self._new, self._mark = _decompressor(encoding, self._waiting)
        self._stream: _Decompressor | None = self._new()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while self._stream:
            part = self._some(self._stream, len(view))
            if self._stream.eof:
                self._stream = self._following(self._stream)
            if part:
                view[: len(part)] = part
                return len(part)
        return 0

    def _some(self, stream: _Decompressor, most: int) -> bytes:
        from isal import isal_zlib

        damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
        data = self._input(stream)
        try:
            part = stream.decompress(data, most)
        except (damaged, OSError, ValueError, EOFError) as error:
            raise Damaged(str(error)) from error
        if not (part or data or stream.eof):
            raise Damaged("it ends too early")
        return part

    def _input(self, stream: _Decompressor) -> bytes:
        """What is to be decompressed next: what the stream left of the last part, or a new one."""
        if tail := getattr(stream, "unconsumed_tail", b""):
            return bytes(tail)
        if not getattr(stream, "needs_input", True):
            return b""
        data, self._waiting = self._waiting or self._file.read(_CHUNK), b""
        return data

    def _following(self, ended: _Decompressor) -> _Decompressor | None:
        """What reads the next stream of the file, if one follows."""
        self._waiting = ended.unused_data
        if len(self._waiting) < len(self._mark):
            self._waiting += self._file.read(_CHUNK)
        return self._new() if self._mark and self._waiting.startswith(self._mark) else None


_GZIP, _BZIP2 = b"\x1f\x8b\x08", b"BZh"


def _decompressor(encoding: Encoding, begin: bytes) -> tuple[Callable[[], _Decompressor], bytes]:
    """What makes a decompressor, and how each stream begins. Raises Damaged where the first does not."""
    from isal import isal_zlib  # several times faster than Python's own

    if encoding == "zlib" and not begin.startswith(_GZIP):  # which MetaImage allows too
        return partial(isal_zlib.decompressobj, 15), b""
    mark = _BZIP2 if encoding == "bzip2" else _GZIP
    if not begin.startswith(mark):
        raise NotCompressed(f"it is not compressed with {encoding}")
    return (bz2.BZ2Decompressor if mark == _BZIP2 else partial(isal_zlib.decompressobj, 31)), mark
