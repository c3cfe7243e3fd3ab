"""Zip files that anybody may have made: what lies, climbs out of its folder or is a bomb is not unpacked."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from medfuse.core.errors import DataError, MedfuseError, OutputError
from medfuse.core.files import reported
from medfuse.core.json_text import shortened
from medfuse.core.memory import bytes_text

MUCH, MOST_TIMES = 1 << 26, 200
"""Bytes: what unpacks to more than so many is to be at most so many times what is stored."""

_BLOCK = 1 << 20
_DEEPEST = 20
_FAULTS = (
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,  # of zipfile, for compressions that it does not know
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
)


def name_of(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def plain_members(
    archive: zipfile.ZipFile,
    where: str,
    *,
    most_files: int,
    raises: type[MedfuseError] = DataError,
    remedy: str,
    links: bool = False,
) -> list[zipfile.ZipInfo]:
    """The plain files of an archive. Raises `raises` for names that lead out of it, and for links, which
    `links` leaves out."""
    found = archive.infolist()
    if len(found) > most_files:
        raise raises(f"{where}: holds {len(found):,} files, where {most_files:,} are allowed; {remedy}")
    for member in found:
        name = name_of(member)
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]) or not name.parts:
            said = shortened(member.filename)
            raise raises(f"{where}: holds a file {said}, which leads out of it; {remedy}")
        if stat.S_ISLNK(member.external_attr >> 16) and not links:
            raise raises(f"{where}: holds a link, {shortened(member.filename)}; pack the file itself")
    return [m for m in found if not m.is_dir() and not stat.S_ISLNK(m.external_attr >> 16)]


def unpack(
    path: Path,
    folder: Path,
    where: str,
    *,
    most_files: int,
    most_bytes: int,
    named: Callable[[str], str] = lambda part: part,
) -> int:
    """Unpack a zip file into `folder`, which is to be empty, and count the bytes. Raises DataError.

    What is counted is what comes out, whatever the archive says of itself. Hidden files stay out. `named`:
    what a part of a member's path is called on disk; two files that would get one name are refused.
    """
    remedy = "pack the scan alone"
    try:
        with zipfile.ZipFile(path) as archive:
            members = plain_members(archive, where, most_files=most_files, remedy=remedy)
            members = [member for member in members if not _hidden(member)]
            stored = sum(member.compress_size for member in members)
            most = min(most_bytes, max(MUCH, MOST_TIMES * stored))
            _refuse(sum(member.file_size for member in members), most, where)
            return _written(archive, members, folder, where, most, named)
    except MedfuseError:
        raise
    except _FAULTS as error:
        raise DataError(
            f"{where}: cannot be unzipped ({shortened(str(error), 120)}); pack it again"
        ) from error


def _hidden(member: zipfile.ZipInfo) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name_of(member).parts)


def _written(
    archive: zipfile.ZipFile,
    members: Sequence[zipfile.ZipInfo],
    folder: Path,
    where: str,
    most: int,
    named: Callable[[str], str],
) -> int:
    count = 0
    for member in members:
        if member.flag_bits & 1:
            raise DataError(f"{where}: is locked by a password; pack it without one")
        if len(parts := name_of(member).parts) > _DEEPEST:
            raise DataError(f"{where}: holds folders more than {_DEEPEST} deep; pack the scan alone")
        target = folder.joinpath(*map(named, parts))
        if target.exists() or any(p.is_file() for p in target.parents):
            raise DataError(f"{where}: holds two files {shortened(member.filename)}; pack one of them")
        with reported(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("xb") as file:
            while block := source.read(_BLOCK):
                count += len(block)
                _refuse(count, most, where)
                _put(file.write, block, folder)
    return count


def _put(write: Callable[[bytes], int], block: bytes, folder: Path) -> None:
    """A full disk is no fault of the archive."""
    try:
        with reported(folder):
            write(block)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error


def _refuse(count: int, most: int, where: str) -> None:
    if count > most:
        raise DataError(
            f"{where}: unpacks to more than the {bytes_text(most)} that are allowed; unpack it yourself"
        )
