"""Which label maps of two folders belong together, of whatever formats, and on which grid they are judged."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue
from medfuse.core.reporter import Reporter
from medfuse.volumes.dicom.segments import label_object
from medfuse.volumes.endings import ENDINGS, ending
from medfuse.volumes.folders import BESIDE, left_out, listed, look_into, named, not_there
from medfuse.volumes.label_maps import (
    Fitted,
    common_grid,
    fitted,
    is_label_object,
    label_stem,
    segment_numbers,
    segment_values,
)
from medfuse.volumes.read import read_labels
from medfuse.volumes.volume import values_of


@dataclass(frozen=True)
class Pair:
    """A case's two label maps; `patient` where it is known that cases share one."""

    name: str
    prediction: Path
    reference: Path
    patient: str | None = None


def pair_folders(predictions: Path, references: Path) -> tuple[list[Pair], list[str], list[str]]:
    """Pairs, error lines and notes. Raises DataError where a folder is missing or there is no pair."""
    held = look_into(predictions), look_into(references)
    label_maps = [
        (*side.volumes, *_objects(folder, side.volumes))
        for folder, side in zip((predictions, references), held)
    ]
    ours, theirs = map(_by_name, label_maps)
    errors = [
        f"{name}: {' and '.join(str(f) for f in files)} have one name; keep one of them"
        for side in (ours, theirs)
        for name, files in side.items()
        if len(files) > 1
    ]
    if lacking := [theirs[name][0].name for name in theirs if name not in ours]:
        remedy = "add predictions of the same names; their endings may differ"
        errors.append(
            f"{references}: {named(lacking, 'reference')} without a prediction in {predictions}; {remedy}"
        )
    errors += [not_there(path) for side in held for path in side.lost]
    unpaired = [ours[name][0] for name in ours if name not in theirs]
    alone = [path.name for path in unpaired if not _is_beside(path, ours)]
    notes = [f"{predictions}: {named(alone, 'prediction')} without a reference, not judged"] if alone else []
    if alone and lacking and not ours.keys() & theirs.keys():
        errors.insert(0, f"{predictions} and {references} share no case: no two names in them are the same")
    for folder, side, used in zip((predictions, references), held, label_maps):
        beside = [path for path in side.folders if _is_beside(path, ours)]
        notes += left_out(folder, (*used, *side.lost, *beside), [folder])
    single = [n for n in theirs if len(theirs[n]) == 1 and len(ours.get(n, ())) == 1]
    if not single:
        empty = [folder for folder, side in ((predictions, ours), (references, theirs)) if not side]
        none = [f"{folder}: no label map here ends with one of {', '.join(ENDINGS)}" for folder in empty]
        raise DataError(*none, *errors, *notes)
    return [Pair(n, ours[n][0], theirs[n][0]) for n in single], errors, notes


def _is_beside(path: Path, cases: Container[str]) -> bool:
    """Whether medfuse wrote it beside the label map of a case, which is there."""
    return any(path.name.endswith(more) and path.name.removesuffix(more) in cases for more in BESIDE)


def _objects(folder: Path, volumes: Sequence[Path]) -> list[Path]:
    """SEG and RTSTRUCT objects: files, and folders and zip files that hold one.

    Of label maps in several formats, as medfuse writes them, those of other formats are judged.
    """
    others = {label_stem(path) for path in volumes}

    def is_one(path: Path) -> bool:
        try:
            seen = path.exists() and path.name[0] != "." and label_stem(path) not in others
            return seen and is_label_object(path)
        except DataError:
            return False

    return [path for path in listed(folder) if is_one(path)]


def on_one_grid(
    pairs: Sequence[Pair], labels: Mapping[str, LabelValue] | None, ignore: int | None
) -> tuple[list[Pair], Mapping[str, LabelValue] | None, Fitted]:
    """Pairs whose SEG and RTSTRUCT are label maps on the grid of the other side, and the labels that they
    name where none are given. What is wrong with a pair is told, and it is left out.
    """
    objects = [pair for pair in pairs if None in (ending(pair.prediction), ending(pair.reference))]
    if not objects:
        return list(pairs), labels, Fitted({}, (), {})
    if labels is None and all(ending(pair.reference) is None for pair in pairs):
        labels = segment_values(pair.reference for pair in pairs if _opens(pair.reference))
    known = labels
    if known is None:
        known = labels_found(pairs, Reporter(quiet=True))
        numbers = segment_numbers(pair.reference for pair in pairs if _opens(pair.reference))
        known = labels = known | {str(number): number for number in numbers}
    if ignore is not None:
        known = {**known, "ignore": ignore}
    sides: dict[str, dict[str, tuple[Path, Path | Geometry]]] = {"prediction": {}, "reference": {}}
    faults: dict[str, tuple[str, ...]] = {}
    for pair in objects:
        both = ending(pair.prediction) is None and ending(pair.reference) is None
        try:
            grid = common_grid(pair.reference, pair.prediction) if both else None
        except DataError as error:
            faults[pair.name] = error.lines
            continue
        sides["prediction"][pair.name] = pair.prediction, grid or pair.reference
        sides["reference"][pair.name] = pair.reference, grid or pair.prediction
    found = {side: fitted(label_maps, known) for side, label_maps in sides.items()}
    for side in found.values():
        faults |= side.faults
    files = {side: found[side].files for side in found}
    made = [
        Pair(
            pair.name,
            files["prediction"].get(pair.name, pair.prediction),
            files["reference"].get(pair.name, pair.reference),
            pair.patient,
        )
        for pair in pairs
        if pair.name not in faults
    ]
    notes = tuple(note for side in found.values() for note in side.notes)
    return made, labels, Fitted({}, notes, faults)


def _opens(path: Path) -> bool:
    """Whether an object can be read; what is wrong with it is told when it is judged."""
    try:
        return ending(path) is None and label_object(path) is not None
    except DataError:
        return False


def labels_found(pairs: Sequence[Pair], reporter: Reporter) -> dict[str, int]:
    """The values of all references, named by their number. An unreadable file is reported when judged."""
    values: set[int] = set()
    with reporter.track("look for labels", len(pairs)) as advance:
        for done, pair in enumerate(pairs, start=1):
            try:
                values.update(values_of(read_labels(pair.reference).array))
            except (DataError, MemoryError):
                continue
            finally:
                advance(done, pair.name)
    return {str(value): value for value in sorted(values) if value}


def _by_name(label_maps: Iterable[Path]) -> dict[str, list[Path]]:
    """Label maps by their names without ending."""
    found: dict[str, list[Path]] = {}
    for path in label_maps:
        found.setdefault(label_stem(path), []).append(path)
    return found
