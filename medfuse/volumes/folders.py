"""What a folder holds: volumes, other folders, and what is left out, in one line per kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medfuse.core.errors import DataError
from medfuse.volumes.endings import ENDINGS, ending, is_picture, stem
from medfuse.volumes.marks import begins_as_dicom

NAMED = 3
MOST_INSIDE = 10_000  # entries of a folder inside that are counted

RECORDS = (
    *("manifest.json", "manifest.jsonl", "manifest.parquet", "quality.csv", "summary.json"),
    *("view.html", "DICOMDIR", ".fleet"),
)
"""What medfuse itself writes beside label maps, and what lists other files: no line needs to name them."""

BESIDE = ("_probabilities.nii.gz", "_probabilities.zarr", "_uncertainty.nii.gz")
"""What medfuse itself writes beside the label map of a case: its name, and this."""


@dataclass(frozen=True)
class Held:
    """What stands in a folder, hidden things left out, in the order of names.

    `volumes` are known by their names alone: a link without a target and a named pipe are among them, as
    whoever reads them is told what they are. `lost` are links without a target that end like no volume.
    """

    volumes: tuple[Path, ...]
    folders: tuple[Path, ...]
    lost: tuple[Path, ...]


def look_into(folder: Path) -> Held:
    """Raises DataError where there is no such folder, or it cannot be read."""
    seen = [path for path in listed(folder) if not path.name.startswith(".")]
    folders = tuple(path for path in seen if path.is_dir())
    files = [path for path in seen if path not in {*folders}]
    volumes = tuple(path for path in files if ending(path))
    if not all(map(is_picture, volumes)):  # beside volumes, pictures are previews
        volumes = tuple(path for path in volumes if not is_picture(path))
    lost = tuple(path for path in files if not ending(path) and lost_target(path) is not None)
    return Held(volumes, folders, lost)


def listed(folder: Path) -> list[Path]:
    """Everything in a folder, in the order of names. Raises DataError."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        target = f"; {lost}" if (lost := lost_target(folder)) else ""
        raise DataError(f"{folder}: no such folder{target}; check the path") from None
    except NotADirectoryError:
        raise DataError(f"{folder}: is a file; give the folder that holds it") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be listed ({error}); change its permissions") from None


def lost_target(path: Path) -> str | None:
    """`a link to ../archive/c7.nii.gz, which is not there`; None where `path` is there, or is no link."""
    try:
        if path.is_symlink() and not path.exists():
            return f"a link to {os.readlink(path)}, which is not there"
    except (OSError, ValueError):
        pass
    return None


def not_there(path: Path) -> str:
    """What to say of a file that is not there: that it is missing, or what it is a link to."""
    if lost := lost_target(path):
        return f"{path}: is {lost}; fetch that file, or remove the link"
    return f"{path}: no such file"


def named(names: Sequence[str], one: str, several: str = "", between: str = ", ") -> str:
    """`5 volumes (a.nii.gz, b.nii.gz, c.nii.gz, …)`."""
    some = between.join(names[:NAMED]) + (f"{between}…" if len(names) > NAMED else "")
    return f"{len(names)} {one if len(names) == 1 else several or f'{one}s'} ({some})"


@dataclass(frozen=True)
class _Kind:
    """Files of one kind: how one and several are called, and why they are left out, and what to do."""

    one: str
    several: str
    why: str
    endings: tuple[str, ...] = ()


_READ = f"medfuse reads {', '.join(ENDINGS)}"
_VOLUME = _Kind("volume", "volumes", "no case has them")
_FOLDER = _Kind("folder", "folders", "what is in there belongs to no case; give such a folder itself")
_LOST = _Kind("link without a target", "links without a target", "nothing is there")
_HIDDEN = _Kind("hidden file", "hidden files", "names that begin with a point are not meant")
_BARE = _Kind("file without an ending", "files without an ending", "no format is known by that")
_OTHER = _Kind("other file", "other files", _READ)
_DICOM = _Kind(
    "DICOM file",
    "DICOM files",
    "none is of a case; `medfuse series FOLDER` says what they are",
    (".dcm", ".dicom", ".dic", ".ima"),
)
_KINDS = (
    _Kind(
        "volume of another format",
        "volumes of other formats",
        f"convert them; {_READ}",
        (
            *(".mgz", ".mgh", ".img", ".hdr", ".img.gz", ".hdr.gz", ".mnc", ".gipl", ".gipl.gz", ".vtk"),
            *(".vti", ".par", ".rec", ".npy", ".npz", ".h5", ".hdf5", ".zarr", ".b2nd", ".mat", ".pt"),
            *(".nii.bz2", ".nii.xz", ".nii.zst", ".nii.lz4", ".raw", ".zraw", ".raw.gz", ".ome.tif"),
        ),
    ),
    _Kind(
        "picture",
        "pictures",
        f"beside volumes they are taken for previews, so give them a folder of their own; {_READ}",
        (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".svg", ".webp", ".jp2"),
    ),
    _Kind(
        "unfinished download",
        "unfinished downloads",
        "finish or remove them",
        (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".temp", ".aria2"),
    ),
    _Kind("archive", "archives", "unpack them", (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".gz")),
    _Kind(
        "text or table",
        "texts and tables",
        "they are no volumes",
        (
            *(".txt", ".md", ".rst", ".json", ".csv", ".tsv", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
            *(".log", ".pdf", ".html", ".bval", ".bvec", ".py", ".sh", ".ipynb", ".doc", ".docx"),
        ),
    ),
)
_ORDER = (_VOLUME, _DICOM, *_KINDS, _FOLDER, _BARE, _OTHER, _LOST, _HIDDEN)


def left_out(root: Path, used: Iterable[Path], folders: Iterable[Path]) -> tuple[str, ...]:
    """What `folders` hold and is not `used`: a line for each kind, with names as they are below `root`.

    Folders inside are named with what they hold. What medfuse writes beside label maps is not named, and a
    header's data file counts as used with it.
    """
    places = _Places()
    known = {places.key(path) for path in used}
    looked = {places.real(folder): folder for folder in folders if folder.is_dir()}
    holding = {Path(folder) for folder, _ in known}
    within = {*looked, *holding, *(above for folder in holding for above in folder.parents)}
    found: dict[_Kind, list[str]] = {}
    for folder in looked.values():
        entries = listed(folder)
        headers = {stem(path) for path in entries if ending(path) in (".mhd", ".nhdr")}
        for path in entries:
            if places.key(path) in known or path.name in RECORDS or stem_of_data(path) in headers:
                continue
            if path.is_dir() and path.resolve() in within:
                continue
            found.setdefault(_kind(path), []).append(_shown(path, root))
    return tuple(_line(root, kind, found[kind]) for kind in _ORDER if kind in found)


def stem_of_data(path: Path) -> str | None:
    """`c1` of `c1.zraw`, the file of a header's voxels; None of other files."""
    name = path.name.lower()
    return next((path.name[: -len(e)] for e in (".zraw", ".raw.gz", ".raw") if name.endswith(e)), None)


class _Places:
    """Where files really are, each folder resolved once."""

    def __init__(self) -> None:
        self._real: dict[Path, Path] = {}

    def real(self, folder: Path) -> Path:
        if folder not in self._real:
            self._real[folder] = folder.resolve()
        return self._real[folder]

    def key(self, path: Path) -> tuple[str, str]:
        return str(self.real(path.parent)), path.name


def _kind(path: Path) -> _Kind:
    name = path.name.lower()
    if name.startswith("."):
        return _HIDDEN
    if lost_target(path):
        return _LOST
    if path.is_dir():
        return _KINDS[0] if name.endswith(".zarr") else _FOLDER
    if ending(path) and not is_picture(path):
        return _VOLUME
    if (found := next((kind for kind in (_DICOM, *_KINDS) if name.endswith(kind.endings)), None)) is not None:
        return found
    return _DICOM if begins_as_dicom(path) else _OTHER if path.suffix else _BARE


def _shown(path: Path, root: Path) -> str:
    """A name below `root`; of a folder with what is in it, of a link with where it leads."""
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    if lost_target(path):
        return f"{name} → {os.readlink(path)}"
    return f"{name}, {_inside(path)}" if path.is_dir() and not path.name.startswith(".") else name


def _inside(folder: Path) -> str:
    """`with 3 .dcm` or `empty`: what there is most of in a folder and those in it."""
    files = (name for _, _, names in os.walk(folder) for name in names)
    endings = Counter(ending(Path(name)) or Path(name).suffix for name in islice(files, MOST_INSIDE))
    if not endings:
        return "empty"
    most, count = endings.most_common(1)[0]
    return f"with {count} {most or 'files without ending'}"


def _line(root: Path, kind: _Kind, names: list[str]) -> str:
    are = "is" if len(names) == 1 else "are"
    between = "; " if kind is _FOLDER else ", "
    return f"{root}: {named(names, kind.one, kind.several, between)} {are} left out: {kind.why}"
