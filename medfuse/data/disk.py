"""An image that lies on disk and in no memory, for volumes that are too large for it."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.files import reported
from medfuse.core.geometry import Turn


class DiskImage(np.memmap[Any, np.dtype[np.float32]]):
    """(channels, x, y, z) in a file without a name, which is gone with the process. A part is read as a copy.

    On disk voxels lie in the order of the file that they come from, so that they are written in one go.
    """

    @classmethod
    def blank(cls, channels: int, shape: tuple[int, int, int], turn: Turn, folder: Path) -> DiskImage:
        """Raises OutputError where `folder` has no room."""
        i, j, k = turn.undo_shape(shape)
        with reported(folder), tempfile.TemporaryFile(dir=folder) as file:
            # A full disk says so here; later it would be a bus error.
            os.posix_fallocate(file.fileno(), 0, 4 * channels * i * j * k)
            stored = np.memmap(file, np.float32, "r+", shape=(channels, k, j, i))
        image: DiskImage = turn.apply(stored.transpose(0, 3, 2, 1)).view(cls)
        return image

    def __getitem__(self, where: Any) -> npt.NDArray[np.float32]:
        part = np.array(self.view(np.ndarray)[where])
        self.forget()
        return part

    def forget(self) -> None:
        """Give back the memory of the pages that were touched; the file keeps what they hold."""
        memory: mmap.mmap = vars(self)["_mmap"]
        memory.madvise(mmap.MADV_DONTNEED)
