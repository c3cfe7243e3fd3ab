"""A model's folder, or a zip file of it, as a folder: what is in a zip is read within limits."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import shortened
from medfuse.core.memory import bytes_text

MOST_FILES = 10_000
REMEDY = "unzip it, and give the folder"


@contextmanager
def opened(path: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[Path]:
    """`path` itself where it is a folder; of a zip file those members that are `wanted`, for as long.

    Raises CheckpointError for anything else, and for a zip file that cannot be what it should be.
    """
    if path.is_dir():
        yield path
        return
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; give the model's folder, or a zip file of it")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: is neither a folder nor a zip file; give the model's folder")
    with tempfile.TemporaryDirectory(prefix="medfuse-import-") as temporary:
        folder = Path(temporary) / path.stem
        try:
            with zipfile.ZipFile(path) as archive:
                _extract(archive, [m for m in _members(archive, path) if wanted(_name(m))], folder, path)
        except CheckpointError:
            raise
        except (
            OSError,
            ValueError,
            RuntimeError,
            NotImplementedError,  # of zipfile, for compressions that it does not know
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise CheckpointError(
                f"{path}: cannot be unzipped ({shortened(str(error), 120)}); copy it again, or {REMEDY}"
            ) from error
        try:
            yield folder
        except CheckpointError as error:  # which speaks of a folder that nobody knows
            raise CheckpointError(*(line.replace(str(folder), str(path)) for line in error.lines)) from error


def _name(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The plain files of an archive. Raises CheckpointError for names that lead out of it."""
    found = archive.infolist()
    if len(found) > MOST_FILES:
        raise CheckpointError(f"{path}: holds {len(found):,} files, which is no model; {REMEDY}")
    for member in found:
        if _name(member).is_absolute() or ".." in _name(member).parts or ":" in _name(member).parts[0]:
            name = shortened(member.filename)
            raise CheckpointError(f"{path}: holds a file {name}, which leads out of it; {REMEDY}")
    return [m for m in found if not m.is_dir() and not stat.S_ISLNK(m.external_attr >> 16)]


def _extract(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, path: Path) -> None:
    folder.mkdir()
    size, free = sum(m.file_size for m in members), shutil.disk_usage(folder).free
    if size > free:
        raise CheckpointError(
            f"{path}: holds {bytes_text(size)}, and {bytes_text(free)} are free in {folder.parent.parent}; "
            "make room, or set TMPDIR to a folder on another disk"
        )
    for member in members:
        target = folder.joinpath(*_name(member).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 2**20)
