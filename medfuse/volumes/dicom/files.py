"""DICOM files where they may stand: in folders, zip files, and what a DICOMDIR lists."""

from __future__ import annotations

import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medfuse.core.errors import DataError
from medfuse.core.text import is_text, listed
from medfuse.volumes.dicom.instances import (
    Instance,
    is_bomb,
    kind_without_image,
    read_header,
    series_said,
)
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.dicom.quiet import quietly
from medfuse.volumes.endings import ending
from medfuse.volumes.folders import lost_target, named
from medfuse.volumes.marks import BEGIN, begins_as_dicom, looks_like_dicom

_MOST_LOOKED, _OF_A_FOLDER = 5000, 100
"""So many files, and so many of a folder, are opened to see whether there is DICOM."""
_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")


@dataclass(frozen=True)
class Unread:
    """What cannot be read, and why. `place`: as it is told. `is_scan`: whether it may be a slice of a series.
    `series`: the UID that it still says.
    """

    place: str
    why: str
    remedy: str = "copy it again from its source"
    is_scan: bool = True
    series: str = ""

    @classmethod
    def of(cls, place: str, error: DataError, *, is_scan: bool = True, series: str = "") -> Unread:
        """Of an error whose line begins with the place and ends with what to do."""
        why, _, remedy = error.lines[0].removeprefix(f"{place}: ").rpartition("; ")
        return cls(place, why, remedy, is_scan, series)

    @property
    def line(self) -> str:
        return f"{self.place}: {self.why}; {self.remedy}"

    @property
    def folder(self) -> str:
        return str(Path(self.place).parent)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, and is not called like another volume."""
    return not ending(path) and begins_as_dicom(path)


def holds_dicom(path: Path) -> bool:
    """Whether a file is DICOM or a zip file of such, or a folder or one inside holds such.

    Some files of each folder are looked at, and some thousands in all. Raises DataError for a zip file that
    cannot be read.
    """
    if path.is_file():
        return is_dicom(path) or (_is_zip(path) and any(_members(path, [], _OF_A_FOLDER)))
    folder, number = path, 0
    for looked, file in enumerate(walked(path, [])):
        folder, number = file.parent, number + 1 if file.parent == folder else 1
        if number <= _OF_A_FOLDER and (is_dicom(file) or (_is_zip(file) and _zip_holds_dicom(file))):
            return True
        if looked > _MOST_LOOKED:
            break
    return False


def _zip_holds_dicom(path: Path) -> bool:
    try:
        return any(_members(path, [], _OF_A_FOLDER))
    except DataError:
        return False  # among other files it is none that was asked for


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path)


def read_headers(path: Path, keywords: Sequence[str] = ()) -> tuple[list[Instance], list[Unread]]:
    """Every file with an image, in the order of their paths, and those that cannot be read.

    `keywords`: further tags to read.
    """
    instances: list[Instance] = []
    faults: list[Unread] = []
    for place, file in opened(path, faults):
        try:
            found = read_header(place, file, keywords)
        except DataError as error:
            faults.append(Unread.of(str(place), error, series=series_said(file)))
            continue
        if found:
            instances.append(found)
    return instances, faults


def told(path: Path, faults: Sequence[Unread]) -> list[str]:
    """A line for each, or for the first ones and how many there are in `path`."""
    lines = [fault.line for fault in faults]
    return lines if len(lines) <= 3 else [*lines[:2], f"{path}: {len(lines) - 2} more files cannot be read"]


def without_image(path: Path, known: Container[Place]) -> list[str]:
    """A line for each kind of DICOM object that has no image, as segmentations; `known`: files that have."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for place, file in opened(path, []):
        if place not in known and (kind := kind_without_image(place, file)):
            kinds[kind].append(Path(place.member or place.file).name)
    return [f"{path}: {named(names, 'file')}: {kind}, no image" for kind, names in kinds.items()]


def opened(path: Path, faults: list[Unread]) -> Iterator[tuple[Place, IO[bytes]]]:
    """Every DICOM file in a file, a folder and those inside, a zip file, or those that a DICOMDIR lists.

    Adds what cannot be read. Raises DataError where that is `path` itself.
    """
    if path.is_file() and _is_zip(path):
        yield from _members(path, faults)
        return
    for file in _files(path, faults):
        try:
            if not is_text(str(file)):
                faults.append(
                    Unread(str(file), "its name is no text in UTF-8, as records need it", "rename it")
                )
                continue
            if _is_zip(file):
                yield from _members(file, faults)
                continue
            with open(file, "rb") as content:
                begin = content.read(BEGIN)
                if looks_like_dicom(begin):
                    content.seek(0)
                    yield Place(str(file)), content
                elif why := _lost(file.name, begin):
                    faults.append(Unread(str(file), why))
        except OSError as error:
            why = f"cannot be read ({error.strerror or error})"
            faults.append(Unread(str(file), why, "change its permissions", _may_be_scan(file.name)))
        except DataError as error:  # of a zip file, which holds cases of its own
            faults.append(Unread.of(str(file), error, is_scan=False))


def _may_be_scan(name: str) -> bool:
    """Whether a file may be DICOM by its name: by its ending, by none, or by the digits of a UID."""
    suffix = Path(name).suffix.lower()
    return suffix in ("", *_ENDINGS) or suffix[1:].isdecimal()


def _lost(name: str, begin: bytes) -> str:
    """Why a file that does not begin as DICOM may have been DICOM all the same; nothing of others."""
    if name.lower().endswith(_ENDINGS):
        return "is called as DICOM is, and is empty" if not begin else "is called as DICOM is, and is none"
    if _may_be_scan(name) and not any(begin):
        return "begins with zeros alone" if begin else "is empty"
    return ""


def _files(path: Path, faults: list[Unread]) -> Iterator[Path]:
    if path.is_file():
        yield from _listed_by(path) if path.name.upper().startswith("DICOMDIR") else [path]
        return
    for file in walked(path, faults):
        if lost := lost_target(file):
            remedy = "fetch that file, or remove the link"
            faults.append(Unread(str(file), f"is {lost}", remedy, _may_be_scan(file.name)))
        elif file.name.upper() != "DICOMDIR" and not ending(file) and file.is_file():
            yield file


def walked(root: Path, faults: list[Unread]) -> Iterator[Path]:
    """Files in a folder and those inside, in order; links are followed, each folder once."""

    def tell(error: OSError) -> None:
        why = f"cannot be listed ({error.strerror})"
        faults.append(Unread(str(error.filename), why, "change its permissions", is_scan=False))

    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True, onerror=tell):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real not in seen:
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        seen.add(real)


def _listed_by(path: Path) -> Iterator[Path]:
    """The files that a DICOMDIR names, below its folder. Raises DataError for one that is not there."""
    from pydicom import dcmread

    root = path.parent.resolve()
    try:
        with quietly():
            records = list(dcmread(path, force=True).get("DirectoryRecordSequence") or [])
            names = [record.get("ReferencedFileID") for record in records]
    except Exception as error:  # pydicom raises what it meets in a damaged file
        raise DataError(f"{path}: is not a readable DICOMDIR ({error})") from error
    missing = []
    for parts in names:
        if not parts:
            continue
        words = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        spelled = [words, [word.lower() for word in words]]  # as some systems show names of a CD
        files = [(root / Path(*some)).resolve() for some in spelled]
        if not all(file.is_relative_to(root) for file in files):
            raise DataError(f"{path}: names {'/'.join(words)!r}, outside its folder; write it anew")
        if there := [file for file in files if file.is_file()]:
            yield there[0]
        else:
            missing.append("/".join(words))
    if missing:
        raise DataError(
            f"{path}: names files that are not there: {listed(missing, 3)}; copy them, or give the folder"
        )


def _members(path: Path, faults: list[Unread], most: int | None = None) -> Iterator[tuple[Place, IO[bytes]]]:
    """What a zip file has of DICOM, among its first `most` files. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
            if doubled := [name for name, n in Counter(m.filename for m in members).items() if n > 1]:
                raise DataError(f"{path}: holds two files {doubled[0]}; unpack it")
            if inner := [m.filename for m in members if m.filename.lower().endswith(".zip")]:
                why = f"holds zip files itself ({listed(inner, 3)})"
                faults.append(Unread(str(path), why, "unpack it", is_scan=False))
            for member in sorted(members, key=lambda m: m.filename)[:most]:
                if member.flag_bits & 1:
                    raise DataError(f"{path}: is locked by a password; unpack it")
                with archive.open(member) as file:
                    place, begin = Place(str(path), member.filename), file.read(BEGIN)
                    if looks_like_dicom(begin):
                        check_unpacks(path, member)
                        file.seek(0)
                        yield place, file
                    elif why := _lost(member.filename, begin):
                        faults.append(Unread(str(place), why))
    except DataError:
        raise
    except Exception as error:  # zipfile and what decompresses raise what they meet in a damaged file
        raise DataError(
            f"{path}: is not a readable zip file ({error}); copy it again from its source"
        ) from error


def _hidden(name: str) -> bool:
    return Path(name).name.startswith(".") or name.startswith("__MACOSX/")


def check_unpacks(path: Path, member: zipfile.ZipInfo) -> None:
    """Raises DataError for a member that is a bomb."""
    if is_bomb(member.file_size, member.compress_size):
        raise DataError(
            f"{path}: {member.filename} unpacks to {member.file_size:,} bytes; unpack it yourself"
        )
