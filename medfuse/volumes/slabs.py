"""Volumes written part by part; NIfTI is compressed in the background while further parts are made."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

_AT_ONCE = 1 << 22  # bytes that are brought into the file's order at a time
_WAITING = 2  # parts that may wait for compression


class Slabs(Protocol):
    """A volume that is being written."""

    def write(self, axis: int, start: int, part: npt.NDArray[Any]) -> None:
        """Voxels (i, j, k): all of the volume from `start` on along `axis`. Not to be changed afterwards."""


class Whole:
    """A volume in memory, put together from its parts."""

    def __init__(self, shape: tuple[int, int, int], dtype: npt.DTypeLike) -> None:
        self.voxels: npt.NDArray[Any] = np.zeros(shape, dtype, order="F")

    def write(self, axis: int, start: int, part: npt.NDArray[Any]) -> None:
        where = [slice(None)] * 3
        where[axis] = slice(start, start + part.shape[axis])
        self.voxels[tuple(where)] = part


class _Stream:
    """Parts that continue the file are written at once; others wait in memory until the end."""

    def __init__(
        self, file: IO[bytes], shape: tuple[int, int, int], dtype: np.dtype[Any], pool: ThreadPoolExecutor
    ) -> None:
        self._file, self._shape, self._dtype, self._pool = file, shape, dtype, pool
        self._next = 0
        self._missing = int(np.prod(shape))
        self._waiting: deque[Future[None]] = deque()
        self._held: Whole | None = None

    def write(self, axis: int, start: int, part: npt.NDArray[Any]) -> None:
        self._missing -= part.size
        if axis == 2 and start == self._next:
            self._send(part)
        else:
            self._held = self._held or Whole(self._shape, part.dtype)
            self._held.write(axis, start, part)

    def finish(self) -> None:
        assert self._missing == 0, f"{self._missing} voxels were never written"
        if self._held:
            self._send(self._held.voxels[:, :, self._next :])
        self._wait_for(0)

    def _send(self, part: npt.NDArray[Any]) -> None:
        self._wait_for(_WAITING - 1)
        self._waiting.append(self._pool.submit(self._put, part))
        self._next += part.shape[2]

    def _wait_for(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()

    def _put(self, part: npt.NDArray[Any]) -> None:
        step = max(1, _AT_ONCE // max(1, part[:, :, 0].nbytes))
        for k in range(0, part.shape[2], step):
            some = part[:, :, k : k + step].astype(self._dtype, copy=False)
            self._file.write(some.tobytes(order="F"))


@contextmanager
def stream(
    path: Path, header: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], *, compressed: bool
) -> Iterator[Slabs]:
    """Write `header` to `path`, then the voxels as `dtype`, which has the byte order of the header.

    What goes wrong in the background is raised by a later part, or at the end.
    """
    with open(path, "wb") as raw, _deflated(raw, compressed) as file, ThreadPoolExecutor(1) as pool:
        try:
            file.write(header)
            slabs = _Stream(file, shape, dtype, pool)
            yield slabs
            slabs.finish()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


Fill = Callable[[tuple[slice, ...], npt.NDArray[np.float16]], None]
"""Sets a part of a volume."""


@contextmanager
def scattered(
    path: Path, header: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], *, compressed: bool
) -> Iterator[Fill]:
    """As `stream`, but the volume of `shape` is filled in any order. What was not filled is 0.

    Until the end it is in a file beside `path`, with no more in memory than the part being set.
    """
    size = int(np.prod(shape))
    with tempfile.TemporaryFile(dir=path.parent) as scratch:
        if hasattr(os, "posix_fallocate"):  # a full disk is to be an error now, not a signal later
            os.posix_fallocate(scratch.fileno(), 0, 2 * size)
        else:
            scratch.truncate(2 * size)
        pages = mmap.mmap(scratch.fileno(), 2 * size)
        flat = np.frombuffer(pages, np.float16)
        voxels = flat.reshape(shape, order="F")

        def fill(where: tuple[slice, ...], part: npt.NDArray[np.float16]) -> None:
            voxels[where] = part
            _forget(pages)

        yield fill
        with open(path, "wb") as raw, _deflated(raw, compressed) as file:
            file.write(header)
            for start in range(0, size, _AT_ONCE // 4):
                file.write(flat[start : start + _AT_ONCE // 4].astype(dtype).tobytes())
                _forget(pages)


def _forget(pages: mmap.mmap) -> None:
    """What is set stays in the file, and counts no more as this process's memory."""
    if hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _deflated(raw: IO[bytes], compressed: bool) -> Iterator[Any]:
    if not compressed:
        yield raw
        return
    from isal import igzip

    # neither name nor time in it, so that the same voxels are the same bytes
    with igzip.IGzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        yield cast("IO[bytes]", file)
