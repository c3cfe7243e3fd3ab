"""Cases whose images are in a bucket or at a server: fetched into a scratch folder, and removed again."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from medfuse.api import Case
from medfuse.core.errors import DataError, StorageError
from medfuse.core.files import claimed, remove_leftovers, reported
from medfuse.core.memory import bytes_text
from medfuse.core.storage import Item, Storage
from medfuse.volumes.dicom.index import as_volume_file
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.endings import SERIES, ending, stem

_PREFIX = "medfuse-scratch-"
_DETACHED = (".mhd", ".nhdr")
"""Headers whose voxels are in another file."""
_DICOM = ("", ".dcm", ".ima", ".dicom")


@dataclass(frozen=True)
class Away(Case):
    """origins: of each image the objects that it is made of, itself first. Until they are fetched, the paths
    in `images` say no more than their names."""

    origins: tuple[tuple[Item, ...], ...] = ()

    def told(self) -> list[dict[str, Any]]:
        """Each image with its size and stamp, by which a changed one is noticed."""
        return [
            {
                "file": items[0].shown if len(items) == 1 else _folder(items),
                "bytes": sum(item.bytes for item in items),
                "stamp": items[0].stamp if len(items) == 1 else _digest([item.stamp for item in items]),
            }
            for items in self.origins
        ]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for items in self.origins for item in items)


def _folder(items: Sequence[Item]) -> str:
    return items[0].shown.rpartition("/")[0]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def files_now(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Each file with its size and time, by which a changed input is noticed; empty where one is missing."""
    try:
        return [
            {"file": str(p.absolute()), "bytes": p.stat().st_size, "modified_ns": p.stat().st_mtime_ns}
            for p in paths
        ]
    except OSError:
        return []


def inputs_now(case: Case) -> list[dict[str, Any]]:
    """The images of a case, wherever they are, as `files_now` tells of files."""
    return case.told() if isinstance(case, Away) else files_now(case.images)


def size_of_images(case: Case) -> int:
    """By which the longest cases come first; 0 of what is not there, which reading tells."""
    if isinstance(case, Away):
        return case.bytes
    with suppress(OSError):
        return sum(path.stat().st_size for path in case.images)
    return 0


class Scratch:
    """A folder of this process alone, for images on their way. What killed processes left goes first."""

    def __init__(self, scans: Scans = ALL) -> None:
        self._scans, self._held = scans, ExitStack()

    @cached_property
    def folder(self) -> Path:
        """Made once it is needed. Raises OutputError where it cannot be."""
        place = Path(tempfile.gettempdir())
        remove_leftovers(place, _PREFIX)
        with reported(place / _PREFIX):
            made = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._held.callback(shutil.rmtree, made, ignore_errors=True)
        self._held.enter_context(claimed(made))
        return made

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def bring(self, case: Case) -> Case:
        """The case with its images here. Raises DataError; StorageError where it may be there later."""
        if not isinstance(case, Away):
            return case
        folder = self._place(case)
        self._refuse_what_does_not_fit(case)
        images = []
        for number, (image, items) in enumerate(zip(case.images, case.origins)):
            target = folder / str(number) / image.name
            if ending(image) or len(items) == 1:
                for item in items:
                    Storage(item.url).fetch(item, target.with_name(item.name))
            else:
                for item in items:
                    Storage(item.url).fetch(item, target / item.name)
            images.append(as_volume_file(target, self._scans))
        return replace(case, images=tuple(images))

    def drop(self, case: Case) -> None:
        """The images of a case are not needed any more."""
        if isinstance(case, Away):
            for image in case.images:
                if ending(image) == SERIES:  # which the user's cache holds
                    shutil.rmtree(image.parent, ignore_errors=True)
            shutil.rmtree(self._place(case), ignore_errors=True)

    def _place(self, case: Case) -> Path:
        return self.folder / _digest([case.name])

    def _refuse_what_does_not_fit(self, case: Away) -> None:
        free = shutil.disk_usage(self.folder).free
        if case.bytes > free:
            raise StorageError(
                f"{case.told()[0]['file']}: {bytes_text(case.bytes)} do not fit into {self.folder.parent} "
                f"({bytes_text(free)} are free); set TMPDIR to a larger disk"
            )


@dataclass(frozen=True)
class Likeness:
    """Empty files that are called as the objects of a bucket are, so that cases are found and named as in any
    folder. `path`: of the folder, or of the file where the address is that of one."""

    path: Path
    storage: Storage
    items: Mapping[Path, Item]

    @classmethod
    def of(cls, address: str | Path, folder: Path) -> Likeness:
        """In `folder`. Raises DataError."""
        storage = Storage(address)
        found = storage.items()
        before = storage.url_of(storage.root).rstrip("/") + "/"
        items: dict[Path, Item] = {}
        for item in found:
            inside = item.url.startswith(before)
            name = item.url.removeprefix(before) if inside else item.name
            parts = PurePosixPath(name).parts
            if parts and ".." not in parts and not name.endswith("/"):
                items[folder.joinpath(*parts)] = item
        for path in items:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        folder.mkdir(parents=True, exist_ok=True)
        alone = len(found) == 1 and not found[0].url.startswith(before)
        return cls(next(iter(items)) if alone else folder, storage, items)

    @property
    def has_volumes(self) -> bool:
        return any(ending(path) for path in self.items)

    def dicom(self, channels: Sequence[str]) -> list[Away]:
        """A case for each folder that holds files of DICOM and no volumes, called as it is, and for each zip
        file; of several channels one for each folder with a folder of each channel's name."""
        inside: dict[Path, list[Path]] = defaultdict(list)
        for path in self.items:
            if not path.name.startswith("."):
                inside[path.parent].append(path)
        folders = {
            folder: files
            for folder, files in inside.items()
            if not any(map(ending, files)) and any(file.suffix.lower() in _DICOM for file in files)
        }
        if len(channels) > 1:
            return self._by_channel(folders, channels)
        root = self.path if self.path not in self.items else self.path.parent
        made = [
            Away(
                folder.name if folder != root else stem(Path(self.storage.root)),
                (folder,),
                origins=(self._of(files),),
            )
            for folder, files in folders.items()
        ]
        zips = [path for path in self.items if path.suffix.lower() == ".zip"]
        return made + [Away(path.stem, (path,), origins=(self._of([path]),)) for path in zips]

    def _by_channel(self, folders: Mapping[Path, Sequence[Path]], channels: Sequence[str]) -> list[Away]:
        found: dict[Path, dict[str, Path]] = defaultdict(dict)
        for folder in folders:
            found[folder.parent][folder.name.lower()] = folder
        made = []
        for parent, named in found.items():
            paths = [named.get(channel.lower()) for channel in channels]
            if all(paths):
                there = [path for path in paths if path]
                origins = tuple(self._of(folders[path]) for path in there)
                name = parent.name if parent != self.path else stem(Path(self.storage.root))
                made.append(Away(name, tuple(there), origins=origins))
        return made

    def _of(self, files: Sequence[Path]) -> tuple[Item, ...]:
        return tuple(self.items[path] for path in sorted(files) if path.suffix.lower() in (*_DICOM, ".zip"))

    def case(self, case: Case) -> Case:
        """A case of these empty files as one of the objects."""
        if not all(image in self.items for image in case.images):
            return case
        return Away(case.name, case.images, origins=tuple(map(self._with_voxels, case.images)))

    def _with_voxels(self, image: Path) -> tuple[Item, ...]:
        """An image, and what lies beside a header that has its voxels elsewhere."""
        beside = []
        if image.suffix.lower() in _DETACHED:
            name = image.name[: -len(image.suffix)]
            beside = [p for p in self.items if p.parent == image.parent and p.name.startswith(f"{name}.")]
        return (self.items[image], *(self.items[path] for path in sorted(beside) if path != image))

    def spoken(self, line: str) -> str:
        """A line about the empty files as one about the objects."""
        inside = str(self.path if self.path not in self.items else self.path.parent)
        return line.replace(inside, self.storage.shown.rstrip("/"))


def find_away(
    places: Sequence[str | Path],
    here: Sequence[Path],
    channels: Sequence[str],
    scans: Scans,
    scratch: Scratch,
) -> tuple[list[Case], list[str]]:
    """The cases at addresses and in folders that are `here`, as find_inputs finds them, and lines about what
    is left out. Raises DataError."""
    from medfuse.infer.cases import find_inputs, left_out_of

    alike = [Likeness.of(place, scratch.folder / "names" / str(n)) for n, place in enumerate(places)]
    dicom = [case for one in alike for case in one.dicom(channels)]
    look = [*here, *(one.path for one in alike if one.has_volumes or not one.dicom(channels))]
    try:
        cases = find_inputs(look, channels, scans) if look else []
        lines = [*left_out_of(look, cases)] if not dicom else []
    except DataError as error:
        raise DataError(*(_spoken(alike, line) for line in error.lines)) from error
    for one in alike:
        cases = [one.case(case) for case in cases]
    by_name: dict[str, list[Case]] = defaultdict(list)
    for case in (*cases, *dicom):
        by_name[case.name].append(case)
    if twice := [name for name, found in by_name.items() if len(found) > 1]:
        raise DataError(
            *(
                f"{name}: is the name of {len(by_name[name])} cases; give them one after the other"
                for name in twice
            )
        )
    with suppress(OSError):
        shutil.rmtree(scratch.folder / "names", ignore_errors=True)
    return [by_name[name][0] for name in sorted(by_name)], [_spoken(alike, line) for line in lines]


def _spoken(alike: Sequence[Likeness], line: str) -> str:
    for one in alike:
        line = one.spoken(line)
    return line
