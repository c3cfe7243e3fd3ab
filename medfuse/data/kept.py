"""Maps of training batches on disk, compressed: a file for each batch and map, known by its checksum."""

from __future__ import annotations

import json
import re
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfuse.core.files import make_folder, reported, shared

FORMAT = 1
ABOUT = "about.json"
PATCHES = "patches"
"""The folder of labels, and of images where those are needed."""
_PART = ".part-"  # how the name of a file begins that is being written
_FRAME = struct.Struct("<II")  # bytes of the head, checksum of all behind it
_LABELS = (torch.uint8, torch.int16, torch.int32)
_NUMPY: dict[torch.dtype, type[np.generic]] = {
    torch.uint8: np.uint8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float16: np.float16,
    torch.bfloat16: np.int16,  # bit by bit, as numpy has none
    torch.float32: np.float32,
    torch.float64: np.float64,
}
_BY_NAME = {str(kind): kind for kind in _NUMPY}


class KeptMaps:
    """What is kept of a finite set of batches: labels, images where they are needed, maps.

    Each kind has a folder of its own below `folder`, named by what it was made by: `maps` is name in the
    graph → folder. `half`: maps are kept in fp16, for which `maps` has other folders. `share`: names the part
    of each batch that this process has. Several processes may keep the same batches at once; they write the
    same. Where a file is damaged, it is as if it were not there.
    """

    def __init__(
        self, folder: Path, maps: Mapping[str, str], *, half: bool, image: bool, share: str = ""
    ) -> None:
        self.folder, self.maps, self.half, self.image, self.share = folder, maps, half, image, share
        self._patches = f"{PATCHES}-with-images" if image else PATCHES

    @contextmanager
    def in_use(self, about: Mapping[str, Any]) -> Iterator[None]:
        """Around all reading and writing: until it ends, nobody clears the folder. `about` is said of it."""
        with shared(make_folder(self.folder)) as alone:
            for left in self.folder.glob(f"*/{_PART}*") if alone else ():  # by a process that was killed
                left.unlink(missing_ok=True)
            for name in (self._patches, *self.maps.values()):
                make_folder(self.folder / name)
            self._write(self.folder / ABOUT, _json(about))
            for name, folder in self.maps.items():
                self._write(self.folder / folder / ABOUT, _json({"map": name}))
            yield

    def numbers(self) -> set[int]:
        """The batches of which everything is there, whole or not."""
        ending = re.compile(rf"(\d+){re.escape(self.share)}\.b2")
        folders = [self.folder / name for name in (self._patches, *self.maps.values())]
        found = ([ending.fullmatch(path.name) for path in folder.glob("*.b2")] for folder in folders)
        return set.intersection(*({int(match[1]) for match in matches if match} for matches in found))

    def bytes_of(self, batch: Mapping[str, Any], maps: Mapping[str, Tensor]) -> dict[str, int]:
        """Name in the graph, and `patches`, → bytes on disk of such a batch."""
        files = self._files(0, batch, maps, 0.0)
        names = dict(zip(files, [PATCHES, *self.maps]))
        return {names[path]: len(data) for path, data in files.items()}

    def rounded(self, made: Tensor) -> Tensor:
        """A map as it comes back, so that the first step with it is as all later ones."""
        return made.to(torch.float16).to(made.dtype) if self.half else made

    def write(
        self, number: int, batch: Mapping[str, Any], maps: Mapping[str, Tensor], seconds: float
    ) -> None:
        """Keep a batch, which took so many seconds. Raises OutputError where the disk has no room."""
        for path, data in self._files(number, batch, maps, seconds).items():
            self._write(path, data)

    def read(self, number: int) -> dict[str, Any] | None:
        """`image` (None where it is not kept), `label`, `case`, `maps`, `seconds`; or None.

        None where anything is missing or damaged.
        """
        loaded = self.load(number)
        return loaded.batch() if loaded else None

    def load(self, number: int) -> Loaded | None:
        """What `read` reads, before anything of it is torch's work: for a thread that reads ahead."""
        patches = _unpacked(self._path(self._patches, number))
        maps = {name: _unpacked(self._path(folder, number)) for name, folder in self.maps.items()}
        if patches is None or None in maps.values():
            return None
        return Loaded(patches, {name: found for name, found in maps.items() if found})

    def _files(
        self, number: int, batch: Mapping[str, Any], maps: Mapping[str, Tensor], seconds: float
    ) -> dict[Path, bytes]:
        label = batch["label"]
        patches = {"label": _Part(_narrow(label), label.dtype)}
        if self.image:
            patches["image"] = _Part(batch["image"])
        about = {"number": number, "case": list(batch["case"])}
        files = {self._path(self._patches, number): _packed(patches, about)}
        for name, folder in self.maps.items():
            made = maps[name]
            kept = _Part(made.to(torch.float16) if self.half else made, made.dtype)
            about = {"number": number, "seconds": seconds / len(self.maps)}
            files[self._path(folder, number)] = _packed({"map": kept}, about)
        return files

    def _path(self, folder: str, number: int) -> Path:
        return self.folder / folder / f"{number:06d}{self.share}.b2"

    def _write(self, path: Path, data: bytes) -> None:
        """As `atomic`, without waiting for the disk: a checksum tells what did not get there."""
        temporary = path.with_name(f"{_PART}{secrets.token_hex(4)}")
        with reported(path):
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Loaded:
    """The files of a batch, decompressed."""

    patches: _Unpacked
    maps: Mapping[str, _Unpacked]

    def batch(self) -> dict[str, Any]:
        """See `KeptMaps.read`."""
        image = self.patches.parts.get("image")
        return {
            "image": image and image.tensor(),
            "label": self.patches.parts["label"].tensor(),
            "case": self.patches.head["case"],
            "maps": {name: found.parts["map"].tensor() for name, found in self.maps.items()},
            "seconds": sum(found.head["seconds"] for found in self.maps.values()),
        }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def _packed(parts: Mapping[str, _Part], about: Mapping[str, Any]) -> bytes:
    """A head in JSON, and each tensor compressed behind it."""
    head = {"format": FORMAT, **about, "parts": {name: part.about for name, part in parts.items()}}
    text = json.dumps(head).encode()
    body = b"".join([text, *(part.data for part in parts.values())])
    return _FRAME.pack(len(text), zlib.crc32(body)) + body


@dataclass(frozen=True)
class _Restored:
    """A tensor's values in their order in memory, and what it is to be."""

    flat: npt.NDArray[Any]
    about: Mapping[str, Any]

    def tensor(self) -> Tensor:
        kept, back = (_BY_NAME[self.about[key]] for key in ("kept", "dtype"))
        flat = torch.from_numpy(self.flat).view(kept).to(back)
        return flat.as_strided(self.about["shape"], self.about["stride"])


@dataclass(frozen=True)
class _Unpacked:
    head: Mapping[str, Any]
    parts: Mapping[str, _Restored]


def _unpacked(path: Path) -> _Unpacked | None:
    """A file's content; None where it is not there, damaged or another batch's."""
    with suppress(OSError, ValueError, KeyError, TypeError, struct.error, RuntimeError):
        data = memoryview(path.read_bytes())
        size, checksum = _FRAME.unpack_from(data)
        data = data[_FRAME.size :]
        if zlib.crc32(data) != checksum:
            return None
        head = json.loads(bytes(data[:size]))
        if head["format"] != FORMAT or head["number"] != _number(path):
            return None
        made, at = {}, size
        for name, about in head["parts"].items():
            made[name] = _Restored(_decompressed(data[at : at + about["bytes"]], about), about)
            at += about["bytes"]
        return _Unpacked(head, made)
    return None


def _decompressed(data: memoryview, about: Mapping[str, Any]) -> npt.NDArray[Any]:
    flat = np.empty(prod(about["shape"]), _NUMPY[_BY_NAME[about["kept"]]])
    blosc2.decompress2(data, dst=flat, nthreads=1)
    return flat


def _number(path: Path) -> int:
    found = re.match(r"\d+", path.name)
    return int(found[0]) if found else -1


class _Part:
    """A tensor, compressed in the order that it has in memory; `dtype`: what it is when it comes back."""

    def __init__(self, tensor: Tensor, dtype: torch.dtype | None = None) -> None:
        tensor = tensor.detach().cpu()
        tensor = tensor if is_dense(tensor) else tensor.contiguous()
        flat = tensor.as_strided((tensor.numel(),), (1,))
        array = (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()
        self.data: bytes = blosc2.compress2(
            array,
            typesize=array.itemsize,
            codec=blosc2.Codec.LZ4,
            clevel=5,
            filters=[blosc2.Filter.SHUFFLE if array.itemsize > 1 else blosc2.Filter.NOFILTER],
            nthreads=1,
        )
        self.about: dict[str, Any] = {
            "kept": str(tensor.dtype),
            "dtype": str(dtype or tensor.dtype),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "bytes": len(self.data),
        }


def is_dense(tensor: Tensor) -> bool:
    """Whether each place in memory, from its first to its last, is one element of it."""
    strides, shape = tensor.stride(), tensor.shape
    order = sorted(range(tensor.ndim), key=lambda axis: (strides[axis], shape[axis]), reverse=True)
    return tensor.permute(order).is_contiguous()


def _narrow(label: Tensor) -> Tensor:
    """Class indices in as few bytes as hold them."""
    least, most = (int(value) for value in label.aminmax())
    fitting = (k for k in _LABELS if torch.iinfo(k).min <= least and most <= torch.iinfo(k).max)
    return label.to(next(fitting, label.dtype))
