"""A model in a zip file, as `medfuse export` writes it: unpacked once into the user's cache folder."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from medfuse.core.archives import name_of, unpack
from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.files import file_hash, reported
from medfuse.core.json_text import shortened
from medfuse.core.remembered import cache_folder, make_private
from medfuse.core.text import typed

_MOST_FILES, _MOST_BYTES = 10_000, 1 << 38


def unzipped(path: Path, wanted: tuple[tuple[str, str], ...]) -> Path:
    """The folder that a zip file holds, kept under the hash of its content. Nothing of it is run.

    `wanted`: pairs of files of which the folder has one; others are not unpacked. Raises CheckpointError.
    """
    inside = _folder_inside(path, wanted)
    kept = cache_folder() / "models" / file_hash(path)
    if not kept.is_dir():
        make_private(kept.parent)
        with reported(kept.parent):
            aside = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=kept.parent))
        try:
            unpack(path, aside, str(path), most_files=_MOST_FILES, most_bytes=_MOST_BYTES)
            if not kept.is_dir():  # by a neighbour meanwhile
                aside.replace(kept)
        except CheckpointError:
            raise
        except MedfuseError as error:
            raise CheckpointError(*error.lines) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return kept / inside


def _folder_inside(path: Path, wanted: tuple[tuple[str, str], ...]) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name_of(member).as_posix() for member in archive.infolist()}
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a zip file ({shortened(str(error), 120)}); copy it again, or unzip "
            "it and give the folder"
        ) from error
    tops = ["", *sorted({name.partition("/")[0] + "/" for name in names if "/" in name})]
    for top in tops:
        if any({top + weights, top + mark} <= names for weights, mark in wanted):
            return top
    if any(name.rpartition("/")[2] == "metadata.json" for name in names):
        raise CheckpointError(
            f"{path}: is a MONAI bundle of others; run `medfuse import-bundle {typed(path)} -o runs/NAME` "
            "first, and give that run"
        )
    raise CheckpointError(
        f"{path}: holds no weights that medfuse runs; give the run that it was made of, or a zip file or "
        "folder of `medfuse export --format bundle` or `huggingface`"
    )
