"""Prepared cases on disk, compressed in blocks, so that a patch costs a patch and not a volume."""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from glob import escape
from math import prod
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from medfuse.api import Case
from medfuse.core.crew import cores
from medfuse.core.errors import DataError
from medfuse.core.files import atomic, make_folder, shared
from medfuse.core.memory import free_memory
from medfuse.data.parallel import in_threads
from medfuse.data.prepare import Preprocessor

FORMAT = 4
_KEY_LENGTH = 16
_FORM = re.compile(rf"([0-9a-f]{{{_KEY_LENGTH}}})\.(image\.b2nd|label\.b2nd|json)")
CHUNK, BLOCK = 64, 32
"""Voxels per axis. A read decompresses whole blocks: larger ones waste more, smaller ones cost more each."""
VOXELS_PER_CLASS = 1000
FEW = 4
"""Cases that are prepared at once, whatever memory is free."""

_COPIES = 4  # of a prepared image, which preparing and packing it take
_AT_ONCE = 2**28  # bytes of an array that is copied to be packed
_FEWEST = 32  # voxels per axis of the middle by which an array is judged
_HARDLY_LARGER = 1.2
_FORMS = (
    (blosc2.Codec.LZ4, blosc2.Filter.BITSHUFFLE),
    (blosc2.Codec.LZ4HC, blosc2.Filter.NOFILTER),
    (blosc2.Codec.LZ4HC, blosc2.Filter.SHUFFLE),
)
"""By which arrays are packed, the quickest first, in a tenth of the others' time; all are read alike."""

blosc2.set_nthreads(1)  # loader processes and preparing threads are the parallelism


@dataclass(frozen=True)
class StoredCase:
    """`shape` is (x, y, z); `voxels`: flat indices of some voxels of each foreground class present.

    `annotated`: of some that are annotated at all; None where there is no ignore label, so that all are.
    """

    name: str
    shape: tuple[int, int, int]
    voxels: Mapping[int, npt.NDArray[np.int64]]
    labelled: bool = True
    annotated: npt.NDArray[np.int64] | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """The foreground classes that the case holds."""
        return tuple(sorted(self.voxels))


class Store:
    """A folder of prepared cases: NAME-KEY.image.b2nd, NAME-KEY.label.b2nd, and NAME-KEY.json, written last.

    KEY is a digest of what the case was prepared from and how, so that runs may share a folder whatever their
    data and plans: nobody's cases are replaced. A case without a label has no NAME-KEY.label.b2nd.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cases: dict[str, StoredCase] = {}
        self._keys: dict[str, str] = {}

    def build(
        self,
        cases: Sequence[Case],
        preprocessor: Preprocessor,
        hashes: Mapping[str, str],
        *,
        alone: bool = False,
        progress: Callable[[int, int], None],
    ) -> None:
        """Prepare what is not there yet of these files in this plan. `hashes`: path → SHA-256 of each file.

        May be interrupted at any time: finished cases stay, an unfinished one leaves nothing that is read.
        Several processes may prepare the same cases at once; they write the same. One that is `alone` (see
        `in_use`) removes what is there of these cases in another form. Raises DataError that names a case's
        file, OutputError where the folder cannot be written.
        """
        make_folder(self.folder)
        self._cases.clear()
        self._keys = {case.name: case_key(case, preprocessor, hashes) for case in cases}
        if alone:
            for name, key in self._keys.items():
                self._remove_others(name, key)

        def ensure(case: Case) -> None:
            if not self._is_whole(case.name):
                self._write(case, preprocessor)

        left = [case for case in cases if not self._is_whole(case.name)]
        in_threads(ensure, cases, _threads(left, preprocessor), progress)

    def in_use(self) -> AbstractContextManager[bool]:
        """Around `build` and all reading: whether nobody else uses the folder. Until it ends, this does."""
        return shared(make_folder(self.folder))

    def key(self, name: str) -> str:
        """The digest of what a case was prepared from and how."""
        return self._keys[name]

    def _remove_others(self, name: str, key: str) -> None:
        for path in self.folder.glob(f"{escape(name)}-*"):
            form = _FORM.fullmatch(path.name.removeprefix(f"{name}-"))
            if form and form[1] != key:
                path.unlink(missing_ok=True)

    def case(self, name: str) -> StoredCase:
        """What is known of a case without opening its arrays. Raises DataError."""
        if name not in self._cases:
            try:
                data = json.loads(self._path(name, "json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise DataError(
                    f"{self._path(name, 'json')}: is missing or damaged; run again to prepare it"
                ) from None
            x, y, z = data["shape"]
            voxels = {int(number): np.array(flat, np.int64) for number, flat in data["voxels"].items()}
            annotated = data.get("annotated")
            self._cases[name] = StoredCase(
                name,
                (x, y, z),
                voxels,
                data.get("labelled", True),
                None if annotated is None else np.array(annotated, np.int64),
            )
        return self._cases[name]

    def read_patch(
        self, name: str, start: Sequence[int], size: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer[Any]]]:
        """Image (channels, *size) and label (1, *size) from voxel `start`, which may lie outside the volume.

        Outside, the image is 0 and the label background. 0 is what padded convolutions put around a volume
        and what sliding windows are padded with, so training and inference see the same surroundings.
        The label of a case without one is background everywhere.
        """
        shape, labelled = self.case(name).shape, self.case(name).labelled
        stop = [a + n for a, n in zip(start, size)]
        inside = [(min(max(0, a), n), max(0, min(b, n))) for a, b, n in zip(start, stop, shape)]
        image, label = self._open(name, "image"), self._open(name, "label") if labelled else None
        if label is not None and [b - a for a, b in inside] == [*size]:
            x, y, z = (slice(a, b) for a, b in inside)
            return image[:, x, y, z], label[x, y, z][None]
        patch = np.zeros((image.shape[0], *size), np.float32)
        patch_label = np.zeros((1, *size), np.uint8 if label is None else label.dtype)
        if all(a < b for a, b in inside):
            x, y, z = (slice(a, b) for a, b in inside)
            i, j, k = (slice(a - first, b - first) for (a, b), first in zip(inside, start))
            patch[:, i, j, k] = image[:, x, y, z]
            if label is not None:
                patch_label[0, i, j, k] = label[x, y, z]
        return patch, patch_label

    def read_case(self, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer[Any]]]:
        """The whole case: image (channels, x, y, z), label (x, y, z)."""
        return self._open(name, "image")[:], self._open(name, "label")[:]

    def _path(self, name: str, what: str) -> Path:
        return self.folder / f"{name}-{self._keys.get(name, '')}.{what}"

    def _open(self, name: str, what: str) -> Any:
        path = self._path(name, f"{what}.b2nd")
        try:
            return blosc2.open(str(path), mode="r", mmap_mode="r")
        except (OSError, RuntimeError, ValueError):
            raise DataError(f"{path}: is missing or damaged; delete {self.folder} and run again") from None

    def _is_whole(self, name: str) -> bool:
        """Whether a case is there with all of its files."""
        try:
            data = json.loads(self._path(name, "json").read_text(encoding="utf-8"))
            arrays = ("image", "label") if data.get("labelled", True) else ("image",)
            sizes = {what: self._path(name, f"{what}.b2nd").stat().st_size for what in arrays}
            return bool(sizes == data.get("bytes", sizes))  # another where a machine has crashed
        except (OSError, ValueError, AttributeError):
            return False

    def _write(self, case: Case, preprocessor: Preprocessor) -> None:
        prepared = preprocessor.prepare(case)
        arrays: dict[str, npt.NDArray[Any]] = {"image": prepared.image}
        voxels: dict[int, list[int]] = {}
        annotated: list[int] | None = None
        if case.label:
            label = arrays["label"] = preprocessor.prepare_label(case, prepared)
            ignored = preprocessor.plan.ignored
            voxels = {n: flat.tolist() for n, flat in _some_voxels(case.name, label, ignored).items()}
            annotated = _some_annotated(case.name, label, ignored)
        sizes = {}
        for what, array in arrays.items():
            with atomic(self._path(case.name, f"{what}.b2nd"), lasting=False) as temporary:
                sizes[what] = temporary.write_bytes(_compressed(array))
        shape = prepared.image.shape[1:]
        meta = {"shape": shape, "voxels": voxels, "labelled": "label" in arrays, "bytes": sizes}
        if annotated is not None:
            meta["annotated"] = annotated
        with atomic(self._path(case.name, "json"), lasting=False) as temporary:
            temporary.write_text(json.dumps(meta), encoding="utf-8")


def case_key(case: Case, preprocessor: Preprocessor, hashes: Mapping[str, str]) -> str:
    """A digest of what a prepared case depends on: the plan, and the content of each file."""
    plan = preprocessor.plan
    files = [hashes[str(path)] for path in case.files]
    labelled = [case.label is not None]
    how = [asdict(n) for n in plan.normalization]
    ignore = [] if plan.ignore is None else [plan.ignore]
    grid = [plan.spacing_mm, plan.pixel_mm, preprocessor.tolerance_mm]
    shown = [plan.before, hashes[str(preprocessor.shown[case.name])]] if plan.before else []
    parts = [FORMAT, grid, plan.values, how, files, *ignore, *labelled, *shown]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_LENGTH]


def _threads(cases: Sequence[Case], preprocessor: Preprocessor) -> int:
    """As many as there are cores, and as many cases as the largest fit into memory beside each other."""
    most = cores()
    if most <= FEW or not cases:
        return min(most, FEW)
    try:
        size = 4 * prod(preprocessor.look(max(cases, key=_size_of)).shape)
    except (DataError, OSError):  # which preparing it tells
        return FEW
    return max(FEW, min(most, int(free_memory() / (_COPIES * size))))


def _size_of(case: Case) -> int:
    return sum(path.stat().st_size for path in case.images if path.exists())


def _compressed(array: npt.NDArray[Any]) -> bytes:
    """As the first of `_FORMS` that is hardly larger than the smallest of them, by a look at its middle.

    Which one that is depends on the voxels: those of a scan that are only scaled, those of a resampled one,
    and labels are each best in another.
    """
    lead = array.ndim - 3
    middle = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(array.shape[lead:], _middle(array)))
    sample = np.ascontiguousarray(array[(slice(0, 1),) * lead + middle])
    sizes = [len(_packed(sample, *form)) for form in _FORMS]
    chosen = next(form for form, size in zip(_FORMS, sizes) if size <= _HARDLY_LARGER * min(sizes))
    return _packed(np.ascontiguousarray(array), *chosen)


def _middle(array: npt.NDArray[Any]) -> list[int]:
    """Voxels per axis (x, y, z) by which an array is judged."""
    return [min(n, max(n // 2, _FEWEST), CHUNK) for n in array.shape[-3:]]


def _packed(array: npt.NDArray[Any], codec: blosc2.Codec, order: blosc2.Filter) -> bytes:
    lead = array.ndim - 3
    chunks = [min(n, CHUNK) for n in array.shape[lead:]]
    blocks = [min(n, BLOCK) for n in array.shape[lead:]]
    how: dict[str, Any] = {
        "chunks": (*array.shape[:lead], *chunks),
        "blocks": (*(1,) * lead, *blocks),
        "cparams": {"codec": codec, "clevel": 5, "filters": [order], "nthreads": 1},
    }
    if array.nbytes > _AT_ONCE:  # chunk by chunk, which is slower
        return bytes(blosc2.asarray(array, **how).to_cframe())
    return bytes(blosc2.frombuffer(array.tobytes(), array.shape, array.dtype, **how).to_cframe())


def _some_annotated(name: str, label: npt.NDArray[np.integer[Any]], ignored: int | None) -> list[int] | None:
    """Up to VOXELS_PER_CLASS of the annotated voxels, drawn by the case's name."""
    if ignored is None:
        return None
    random = np.random.default_rng(zlib.crc32(name.encode()))
    flat = np.flatnonzero(label != ignored)
    return sorted(random.choice(flat, min(len(flat), VOXELS_PER_CLASS), replace=False).tolist())


def _some_voxels(
    name: str, label: npt.NDArray[np.integer[Any]], ignored: int | None
) -> dict[int, npt.NDArray[np.int64]]:
    """Up to VOXELS_PER_CLASS voxels of each foreground class, drawn by the case's name."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    flat = np.flatnonzero(label if ignored is None else (label != 0) & (label != ignored))
    classes = label.ravel()[flat]
    order = np.argsort(classes, kind="stable")
    numbers, first = np.unique(classes[order], return_index=True)
    groups = np.split(flat[order], first[1:]) if len(numbers) else []
    return {
        int(number): np.sort(random.choice(voxels, min(len(voxels), VOXELS_PER_CLASS), replace=False))
        for number, voxels in zip(numbers, groups)
    }
