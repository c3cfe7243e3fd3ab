"""What the small files of DICOM stand for: the files that their voxels come from, and what these hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medfuse.core.errors import DataError
from medfuse.core.files import file_hash
from medfuse.volumes.dicom.index import Source, members, read_index
from medfuse.volumes.dicom.labels import read_label_index
from medfuse.volumes.endings import LABELS, SERIES, ending, stem


def sources_of(path: Path) -> list[Path]:
    """The files that a volume's voxels come from: of a series and of labels, DICOM's; of others, itself.

    Raises DataError.
    """
    if ending(path) == SERIES:
        return list(dict.fromkeys(Path(source.file) for source in read_index(path).sources))
    if ending(path) == LABELS:
        return [Path(read_label_index(path).source.file)]
    return [path]


def place_of(path: Path) -> str:
    """Where a volume is found: of a series its folder or zip file, of labels DICOM's file, else itself."""
    try:
        files = sources_of(path)
    except DataError:
        return str(path)
    return str(files[0] if len(files) == 1 else files[0].parent)


def notes_of(path: Path) -> tuple[str, ...]:
    """What was left out of a series or of labels, resampled or assumed. Raises DataError."""
    if ending(path) == SERIES:
        index = read_index(path)
        return (*index.beside, *(f"{stem(path)}: {note}" for note in index.notes))
    return read_label_index(path).notes if ending(path) == LABELS else ()


def volume_hash(path: Path) -> str:
    """SHA-256 of a file; of a series and of labels, of the content of their files and how it is put together,
    wherever they lie.

    Raises OSError, DataError.
    """
    if ending(path) == SERIES:
        index = read_index(path)
        parts = (
            index.shape,
            index.affine,
            [f.model_dump() for f in index.frames],
            index.planes and [plane.model_dump() for plane in index.planes],
        )
        return _hash(index.sources, parts)
    if ending(path) == LABELS:
        labels = read_label_index(path)
        segments = [segment.model_dump() for segment in labels.segments]
        laid = () if labels.slices is None else (labels.slices.model_dump(),)
        return _hash((labels.source,), (labels.shape, labels.affine, segments, labels.order, *laid))
    return file_hash(path)


def _hash(sources: tuple[Source, ...], parts: tuple[object, ...]) -> str:
    digest = hashlib.sha256()
    with members() as read:
        for source in sources:
            own = file_hash(Path(source.file)) if source.member is None else _sha256(read(source))
            digest.update(own.encode())
    digest.update(json.dumps(parts).encode())
    return digest.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
