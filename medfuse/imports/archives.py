"""A model's folder, or a zip file of it, as a folder: what is in a zip is read within limits."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from medfuse.core.archives import name_of, plain_members
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
                _extract(archive, _wanted(archive, path, wanted), folder, path)
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


def _wanted(
    archive: zipfile.ZipFile, path: Path, wanted: Callable[[PurePosixPath], bool]
) -> list[zipfile.ZipInfo]:
    how: dict[str, Any] = {"raises": CheckpointError, "remedy": REMEDY, "links": True}
    found = plain_members(archive, str(path), most_files=MOST_FILES, **how)
    return [member for member in found if wanted(name_of(member))]


def _extract(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, path: Path) -> None:
    folder.mkdir()
    size, free = sum(m.file_size for m in members), shutil.disk_usage(folder).free
    if size > free:
        raise CheckpointError(
            f"{path}: holds {bytes_text(size)}, and {bytes_text(free)} are free in {folder.parent.parent}; "
            "make room, or set TMPDIR to a folder on another disk"
        )
    for member in members:
        target = folder.joinpath(*name_of(member).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 2**20)
