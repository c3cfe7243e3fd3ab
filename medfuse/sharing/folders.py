"""A folder, or a zip file, of a shared model: whole or absent, and the same bytes each time."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medfuse.core.errors import OutputError
from medfuse.core.files import UNFINISHED, atomic, claimed, file_hash, make_folder, remove_leftovers, reported
from medfuse.sharing.description import FILE

SUMS = "SHA256SUMS"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file can tell


def write_shared(output: Path, fill: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Have `fill` make a folder, add the hashes of its files, and put it at `output`, zipped where that ends
    in .zip.

    Raises OutputError where something is there already, unless it may be overwritten and is of a file or a
    folder that this made.
    """
    refuse_to_replace(output, overwrite=overwrite)
    with _aside(output) as made:
        fill(made)
        write_sums(made)
        refuse_to_replace(output, overwrite=overwrite)
        if output.suffix == ".zip":
            with atomic(output) as temporary:
                pack(made, temporary)
            return
        with reported(output):
            before = made.with_name(f"{made.name}-before")
            if output.exists():
                output.rename(before)
            try:
                made.rename(output)
            except OSError:
                if before.exists():
                    before.rename(output)
                raise


def refuse_to_replace(output: Path, *, overwrite: bool) -> None:
    """Raises OutputError."""
    if not os.path.lexists(output):
        return
    if output.is_dir() and not any(output.iterdir()):
        return
    ours = (output / FILE).is_file() if output.is_dir() else _holds_a_model(output)
    if not ours:
        kind = "a folder of other things" if output.is_dir() else "a file"
        raise OutputError(f"{output}: is {kind}, and stays; choose another --output")
    if not overwrite:
        raise OutputError(f"{output}: is there already; choose another --output, or give --overwrite")


def _holds_a_model(path: Path) -> bool:
    """Whether a zip file is one of a shared model."""
    try:
        with zipfile.ZipFile(path) as archive:
            return FILE in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """An empty folder, hidden beside `output`, which is gone in the end where it was not moved."""
    remove_leftovers(make_folder(output.parent))
    around = output.parent / f"{UNFINISHED}{secrets.token_hex(4)}"
    try:
        with reported(output):
            around.mkdir()
        with claimed(around), reported(output):
            made = around / output.stem
            made.mkdir()
            yield made
    finally:
        shutil.rmtree(around, ignore_errors=True)


def write_sums(folder: Path) -> None:
    """SHA256SUMS, as `sha256sum --check` reads it."""
    lines = [f"{file_hash(path)}  {path.relative_to(folder).as_posix()}" for path in files_of(folder)]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def changed(folder: Path) -> list[str]:
    """The files of a shared model that its SHA256SUMS say otherwise, or not at all. Raises OutputError."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        said = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    except (OSError, ValueError):
        raise OutputError(f"{folder}: has no {SUMS} that can be read; export the model again") from None
    found = {path.relative_to(folder).as_posix(): file_hash(path) for path in files_of(folder)}
    return [name for name in sorted({*said, *found}) if said.get(name) != found.get(name)]


def refuse_changed(folder: Path) -> None:
    """Raises OutputError where a shared model is no longer as it was written."""
    if other := changed(folder):
        shown = ", ".join(other[:3]) + (", …" if len(other) > 3 else "")
        raise OutputError(f"{folder}: {shown} is another than when it was exported; export the model again")


def files_of(folder: Path) -> list[Path]:
    """All files below a folder but its SHA256SUMS, in the order of their names."""
    found = [path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def pack(folder: Path, target: Path) -> None:
    """A zip file of what is in a folder, by names and without times."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted([*files_of(folder), folder / SUMS]):
            about = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _LONG_AGO)
            about.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            about.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(about, path.read_bytes())
