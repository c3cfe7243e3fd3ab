"""Label maps of any format: DICOM objects are fitted to the image and the classes of their case."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue
from medfuse.volumes.dicom.files import is_dicom
from medfuse.volumes.dicom.index import as_volume_file, read_index
from medfuse.volumes.dicom.labels import check_space, fitting, own_grid, read_label_index, write_label_index
from medfuse.volumes.dicom.laid import slices_elsewhere
from medfuse.volumes.dicom.segments import LabelObject, label_object, label_places, named_alike
from medfuse.volumes.endings import LABELS, SERIES, ending, stem
from medfuse.volumes.folders import named
from medfuse.volumes.read import read_geometry


def as_label_path(path: Path) -> Path:
    """A SEG or an RTSTRUCT, or what holds one, is what it is: it wants an image and classes to be read by.

    Of a series, as of other paths, as for images. Raises DataError.
    """
    return path if is_label_object(path) else as_volume_file(path)


def label_stem(path: Path) -> str:
    """`c7` of `c7.nii.gz`, `c7.dcm`, `c7.seg.dcm`, `c7.rtstruct.dcm` and of a folder `c7`."""
    if path.is_dir():
        return path.name
    return (
        re.sub(r"\.(seg|rtstruct)$", "", stem(path), flags=re.IGNORECASE) if not ending(path) else stem(path)
    )


def is_label_object(path: Path) -> bool:
    """Whether `path` is a SEG or an RTSTRUCT, or a folder or a zip file that holds one. Raises DataError."""
    return ending(path) is None and bool(label_places(path))


@dataclass(frozen=True)
class Fitted:
    """Label maps as they are read, by case; what to tell of them; and why those of some cases are no use."""

    files: Mapping[str, Path]
    notes: tuple[str, ...]
    faults: Mapping[str, tuple[str, ...]]


def fitted(
    label_maps: Mapping[str, tuple[Path, Path | Geometry]],
    labels: Mapping[str, LabelValue],
    order: Sequence[int] = (),
) -> Fitted:
    """Label maps by case, each with its image, or with the grid that is wanted.

    Those that are SEG or RTSTRUCT are put on the grid of the image, and their segments have the values of
    the `labels` that they are called after; where none of all these is called after one, their numbers are
    taken for values. order: values that may overlap, later ones over earlier ones.
    """
    objects: dict[str, LabelObject] = {}
    faults: dict[str, tuple[str, ...]] = {}
    for name, (path, _) in label_maps.items():
        try:
            if ending(path) is None and (found := label_object(path)):
                objects[name] = found
        except DataError as error:
            faults[name] = error.lines
    classes = {name: value for name, value in labels.items() if value != 0}
    by_number = not any(named_alike(found.segments, classes) for found in objects.values())
    files, told = {name: path for name, (path, _) in label_maps.items()}, defaultdict[str, list[str]](list)
    for name, found in objects.items():
        image = label_maps[name][1]
        try:
            index = read_index(image) if isinstance(image, Path) and ending(image) == SERIES else None
            notes = check_space(found, index) if index else []
            kept, overlapping, more = fitting(found, labels, order, by_number=by_number)
            like = read_geometry(image) if isinstance(image, Path) else image
            slices, laid = slices_elsewhere(found, like, index)
            more = [*more, laid] if laid else more
            files[name] = write_label_index(found, like, kept, overlapping, [*notes, *more], slices)
        except DataError as error:
            faults[name] = error.lines
            continue
        for note in (*found.notes, *notes, *more):
            told[note].append(str(found.place))
    return Fitted(files, tuple(_told(note, places) for note, places in told.items()), faults)


def _told(note: str, places: Sequence[str]) -> str:
    return f"{places[0]}: {note}" if len(places) == 1 else f"{named(places, 'DICOM object')}: {note}"


def common_grid(*paths: Path) -> Geometry:
    """A grid on which SEG and RTSTRUCT objects can be compared: of the series that they name, where a folder
    or a zip file holds it too; else that of the SEGs. Raises DataError where there is none.
    """
    found = [one for path in paths if (one := label_object(path))]
    return own_grid(found, [path for path in paths if not is_dicom(path)])


def segment_values(paths: Iterable[Path]) -> dict[str, int]:
    """Every name of a segment in some SEG and RTSTRUCT objects, with a value of its own.

    It is the segment's number where no other has it. Empty where a path is none of these. Raises DataError.
    """
    values: dict[str, int] = {}
    for path in paths:
        if ending(path) == LABELS:
            source = read_label_index(path).source
            path = Path(source.file)
        if ending(path) or (found := label_object(path)) is None:
            return {}
        for segment in found.segments:
            taken = {*values.values()}
            if not named_alike((segment,), values):
                free = next(n for n in range(1, len(taken) + 2) if n not in taken)
                name = segment.name or f"segment_{segment.number}"
                values[name] = segment.number if segment.number not in {0, *taken} else free
    return values


def segment_numbers(paths: Iterable[Path]) -> set[int]:
    """Every number of a segment in some objects. Raises DataError."""
    objects = map(label_object, paths)
    return {segment.number for found in objects if found for segment in found.segments}
