"""What can be looked at of a run, of a folder that `infer` wrote, and of scans with their label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel

from medfuse.core.errors import CheckpointError, DataError
from medfuse.core.json_text import read_json, validated
from medfuse.core.label_table import LabelSays, entries_of
from medfuse.core.labels import LabelValue, from_json, map_values
from medfuse.data.plan import is_ct
from medfuse.infer.cases import find_inputs
from medfuse.infer.manifest import NAME as MANIFEST
from medfuse.infer.manifest import Entry, read_manifest
from medfuse.runs.folder import fold_folders
from medfuse.runs.records import PLAN, read_plan
from medfuse.viewer.scene import Scene
from medfuse.volumes.dicom.index import as_volume_file, modality_of
from medfuse.volumes.endings import NRRD, ending, stem
from medfuse.volumes.folders import BESIDE, listed, named
from medfuse.volumes.label_maps import (
    Fitted,
    as_label_path,
    fitted,
    is_label_object,
    label_stem,
    segment_values,
)
from medfuse.volumes.nrrd import segments_of
from medfuse.volumes.read import read_labels

REFERENCE, PREDICTION, ALONE = "reference", "prediction", "labels"
_UNSURE = "_uncertainty.nii.gz"
_REMEDY = "write it anew with `medfuse run`"
_GIVE = "give both: `medfuse view SCAN LABELS`, or two folders of them"


@dataclass(frozen=True)
class Scenes:
    """Cases in the order in which they are shown, and what to tell of those that are not."""

    cases: tuple[Scene, ...]
    notes: tuple[str, ...] = ()


class _Judged(BaseModel):
    """A case of summary.json, as far as it is shown."""

    name: str
    reference_file: str
    prediction_file: str
    metrics: dict[str, dict[str, float | None]]


class _Summary(BaseModel):
    metric_per_case: list[_Judged]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, or holds the folds of one."""
    return (folder / PLAN).is_file() or any((fold / PLAN).is_file() for fold in fold_folders(folder))


def scenes_of_run(folder: Path, channel: int = 0) -> Scenes:
    """The held-out cases of a run, or of all its folds, worst first. Raises MedfuseError."""
    runs = (
        [folder] if (folder / PLAN).is_file() else [f for f in fold_folders(folder) if (f / PLAN).is_file()]
    )
    found = [_of_run(run, channel) for run in runs]
    cases = {scene.name: scene for one in reversed(found) for scene in one.cases}
    notes = tuple(note for one in found for note in one.notes)
    if not cases:
        raise DataError(*notes, f"{folder}: has no held-out case that can be shown")
    worst = sorted(cases.values(), key=lambda s: (s.mean_dice is None, s.mean_dice or 0.0, s.name))
    return Scenes(tuple(worst), notes)


def _of_run(run: Path, channel: int) -> Scenes:
    plan, path = read_plan(run), run / "summary.json"
    if not path.is_file():
        raise CheckpointError(
            f"{run}: has no summary.json, so no case is judged yet; finish it with `medfuse run`"
        )
    summary = validated(_Summary, read_json(path, remedy=_REMEDY), str(path), remedy=_REMEDY)
    made = _manifest(run / "predictions")[0]
    names = {str(value): name for name, value in plan.labels.items()}
    scenes, notes = [], []
    for case in summary.metric_per_case:
        dice = {names[v]: row.get("Dice") for v, row in case.metrics.items() if v in names}
        known = [value for value in dice.values() if value is not None]
        layers = {
            REFERENCE: Path(case.reference_file),
            PREDICTION: run / "predictions" / Path(case.prediction_file).name,
        }
        scene = _scene(case.name, made.get(case.name), layers, channel)
        if isinstance(scene, str):
            notes.append(f"{run}: {scene}")
            continue
        scenes.append(
            replace(
                scene,
                entries=plan.entries,
                ignore=plan.ignore,
                ct=is_ct(plan.channels[min(channel, len(plan.channels) - 1)]),
                dice=dice,
                mean_dice=fmean(known) if known else None,
                tolerance_mm=1e9,  # their grids were compared when they were judged
            )
        )
    return Scenes(tuple(scenes), tuple(notes))


def scenes_of_output(folder: Path, names: Mapping[str, LabelValue] | None = None, channel: int = 0) -> Scenes:
    """The scans and label maps of a folder that `medfuse infer` wrote. Raises MedfuseError."""
    made, labels = _manifest(folder)
    names = names or labels
    scenes, notes = [], []
    for name, entry in made.items():
        layers = {PREDICTION: folder / _label_map_of(entry)}
        scene = _scene(name, entry, layers, channel)
        if isinstance(scene, str):
            notes.append(f"{folder}: {scene}")
        else:
            scenes.append(scene)
    if not scenes:
        raise DataError(*notes, f"{folder}: its {MANIFEST} lists no case that can be shown; {_GIVE}")
    return with_labels(scenes, names, notes)


def _manifest(folder: Path) -> tuple[Mapping[str, Entry], dict[str, LabelValue]]:
    """Its cases, and its labels. Raises OutputError."""
    before, content = read_manifest(folder / MANIFEST)
    return before.cases, from_json(content.get("labels") or {})


def _label_map_of(entry: Entry) -> str:
    """The file of a case that holds its labels: a volume where there is one, else a DICOM object."""
    files = [name for name in entry.known() if not name.endswith(BESIDE)]
    return next((name for name in files if ending(Path(name))), files[0] if files else entry.file)


def _scene(name: str, entry: Entry | None, layers: Mapping[str, Path], channel: int) -> Scene | str:
    """The files of a case, or why it cannot be shown."""
    inputs = [str(said.get("file", "")) for said in entry.inputs] if entry else []
    if not inputs:
        return f"{name} is not shown: the manifest does not say which scan it was made from; {_GIVE}"
    image = Path(inputs[channel] if 0 < channel < len(inputs) else inputs[0])
    if lost := [str(path) for path in (image, *layers.values()) if not path.exists()]:
        are = "is not where it was" if len(lost) == 1 else "are not where they were"
        return f"{name} is not shown: {' and '.join(lost)} {are}; {_GIVE}"
    unsure = _uncertainty_of(entry, layers)
    return Scene(name, image, layers, channel=channel if len(inputs) == 1 else 0, unsure=unsure)


def _uncertainty_of(entry: Entry | None, layers: Mapping[str, Path]) -> Path | None:
    """The volume of it that was written beside a prediction, if there is one."""
    folder = layers[PREDICTION].parent
    names = [name for name in (entry.known() if entry else ()) if name.endswith(_UNSURE)]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def scenes_of_files(
    image: Path, label_maps: Sequence[Path], names: Mapping[str, LabelValue] | None, channel: int = 0
) -> Scenes:
    """One scan, with a label map, two, or none. Raises MedfuseError."""
    refuse_missing([image, *label_maps])
    layers = dict(zip(_layer_names(len(label_maps)), label_maps))
    scene = Scene(_name_of(image), as_volume_file(image), layers, channel=channel)
    return with_labels(
        [scene], names, [] if label_maps else [f"{image}: no label map is given; it is shown alone"]
    )


def scenes_of_folders(
    images: Path, folders: Sequence[Path], names: Mapping[str, LabelValue] | None, channel: int = 0
) -> Scenes:
    """The scans of a folder that have label maps of their names in other folders. Raises MedfuseError."""
    refuse_missing([images, *folders])
    scans = {case.name: case.images[0] for case in find_inputs([images], ["image"])}
    held = [_label_maps(folder) for folder in folders]
    shown = [name for name in scans if all(name in folder for folder in held)]
    notes = [
        f"{folder}: {named(without, 'scan')} without a label map here, not shown"
        for folder, own in zip(folders, held)
        if (without := [name for name in scans if name not in own])
    ]
    if not shown:
        raise DataError(
            f"{images} and {', '.join(map(str, folders))} share no case: no names in them are the same"
        )
    keys = _layer_names(len(folders))
    scenes = [
        Scene(
            name,
            scans[name],
            {key: own[name] for key, own in zip(keys, held)},
            channel=channel,
            unsure=held[-1].get(f"{name}_uncertainty"),
        )
        for name in shown
    ]
    return with_labels(scenes, names, notes)


def refuse_missing(paths: Sequence[Path]) -> None:
    """Raises DataError for all that are not there."""
    if lost := [path for path in paths if not path.exists()]:
        raise DataError(*(f"{path}: no such file or folder; check the path" for path in lost))


def _layer_names(count: int) -> tuple[str, ...]:
    if count > 2:
        raise DataError(
            f"{count} label maps are given; give one, or the two that are compared: reference and prediction"
        )
    return (REFERENCE, PREDICTION) if count == 2 else (ALONE,)[:count]


def _name_of(path: Path) -> str:
    """What the user calls it: DICOM's tags would say more than was asked for."""
    return path.resolve().name if path.is_dir() else stem(path)


def _label_maps(folder: Path) -> dict[str, Path]:
    """Label maps of a folder by their names: volumes before DICOM objects."""
    found: dict[str, Path] = {}
    for path in listed(folder):
        if path.name[0] != "." and (ending(path) or is_label_object(path)):
            name = label_stem(path)
            if name not in found or ending(found[name]) is None:
                found[name] = path
    return found


def with_labels(
    scenes: Sequence[Scene], names: Mapping[str, LabelValue] | None, notes: Sequence[str]
) -> Scenes:
    """Scenes whose label maps are files of voxels, with the names and colours of their values.

    Those are the given `names`; else what SEG, RTSTRUCT and NRRD say of their segments, or a manifest that
    lists the label map. Raises DataError where no case can be shown.
    """
    ready, told = [], list(notes)
    for scene in scenes:
        try:
            one, more = _with_labels(scene, names)
        except DataError as error:
            if len(scenes) == 1:
                raise
            told += [f"{scene.name} is not shown: {line}" for line in error.lines]
            continue
        ready.append(one)
        told += more
    if not ready:
        raise DataError(*told)
    return Scenes(tuple(ready), tuple(dict.fromkeys(told)))


def _with_labels(scene: Scene, names: Mapping[str, LabelValue] | None) -> tuple[Scene, list[str]]:
    layers = {layer: as_label_path(path) for layer, path in scene.layers.items()}
    objects = {layer: path for layer, path in layers.items() if ending(path) is None}
    given: dict[str, LabelSays] = {}
    if names is None:
        for path in reversed(layers.values()):
            said = _said_of(path)
            names = {**(names or {}), **said.values}
            given |= said.colors
    names = {name: value for name, value in (names or {}).items() if value != 0}
    notes: list[str] = []
    if objects and not names:
        names = segment_values(objects.values())
    if objects:
        made = _fitted(scene, objects, names)
        layers |= made.files
        notes += made.notes
    ct = scene.ct if scene.ct is not None else (modality_of(scene.image) == "CT" or None)
    return replace(scene, layers=layers, entries=entries_of(names, given), ct=ct), notes


def _fitted(scene: Scene, objects: Mapping[str, Path], names: Mapping[str, LabelValue]) -> Fitted:
    """SEG and RTSTRUCT as label maps on the grid of the scan. Raises DataError.

    Where segments overlap, later ones are drawn over earlier ones, and that is told.
    """
    wanted = {layer: (path, scene.image) for layer, path in objects.items()}
    made = fitted(wanted, names)
    if made.faults:
        raise DataError(*(line for lines in made.faults.values() for line in lines))
    try:
        for path in made.files.values():
            read_labels(path)
    except DataError as error:
        ordered = fitted(wanted, names, map_values(names.values()))
        for path in ordered.files.values():
            read_labels(path)  # what is wrong with it in other ways
        told = str(error).partition(", and a voxel has one value")[0]
        return replace(ordered, notes=(*made.notes, f"{told}: later ones are drawn over earlier ones"))
    return made


@dataclass(frozen=True)
class _Said:
    values: dict[str, LabelValue] = field(default_factory=dict)
    colors: dict[str, LabelSays] = field(default_factory=dict)


def _said_of(path: Path) -> _Said:
    """What a label map, or the manifest beside it, says of its values."""
    if ending(path) in NRRD and (segments := segments_of(path)):
        return _Said(
            {name: value for name, (value, _) in segments.items()},
            {name: LabelSays(color=color) for name, (_, color) in segments.items() if color},
        )
    if (path.parent / MANIFEST).is_file():
        made, labels = _manifest(path.parent)
        if any(path.name in entry.known() for entry in made.values()):
            return _Said(dict(labels))
    return _Said()
