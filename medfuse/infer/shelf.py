"""Tensors that are laid aside on disk until they are needed again."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from medfuse.core.files import reported


@dataclass(frozen=True)
class Laid:
    """Where a tensor lies, and what it is."""

    place: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


class Shelf:
    """A file without a name in `folder`, which is gone with the process. Room is used again.

    Raises OutputError where there is none left.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with reported(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__
        self._free: dict[int, list[int]] = defaultdict(list)
        self.size = 0
        """Bytes of the file."""

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, tensor: Tensor) -> Laid:
        """Lay it aside; the caller lets go of it."""
        size = tensor.nbytes
        if self._free[size]:
            place = self._free[size].pop()
        else:
            place, self.size = self.size, self.size + size
        with reported(self._folder):
            self._file.seek(place)
            self._file.write(tensor.cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
            self._file.flush()
        return Laid(place, tensor.shape, tensor.dtype)

    def take(self, laid: Laid) -> Tensor:
        """What was laid there, on the CPU. Its room is free from now on."""
        numbers = np.empty(laid.size, np.uint8)
        self._file.seek(laid.place)
        self._file.readinto(numbers.data)
        self._free[laid.size].append(laid.place)
        return torch.from_numpy(numbers).view(laid.dtype).view(laid.shape)
