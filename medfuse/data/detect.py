"""What a folder of scans is: which dataset plugin reads it, and with which parameters."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse import registry
from medfuse.api import Case, Dataset, DatasetInfo
from medfuse.core.errors import DataError
from medfuse.core.files import no_file
from medfuse.data.bids import guess, is_bids
from medfuse.data.dicom_folders import LABEL_NAME, dicom_per_case
from medfuse.data.images import read_image
from medfuse.data.parallel import in_threads
from medfuse.data.sampled import MOST_CASES, sampled
from medfuse.volumes.dicom.files import holds_dicom
from medfuse.volumes.dicom.index import modality_of
from medfuse.volumes.endings import stem
from medfuse.volumes.folders import look_into
from medfuse.volumes.label_maps import segment_values
from medfuse.volumes.read import read_geometry, read_labels, slab_reader
from medfuse.volumes.volume import values_of

IMAGE_FOLDERS = ("images", "imagesTr", "image", "img", "scans", "volumes", "dicom", "DICOM")
LABEL_FOLDERS = (
    *("labels", "labelsTr", "label", "masks", "mask", "segmentations", "seg", "SEG", "rtstruct", "RTSTRUCT"),
)
AIR = -500  # Hounsfield units: no other modality has such values
COLOURS = ["red", "green", "blue"]
MOST_LABELS = 256

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Detected:
    """A dataset: the mapping that a pipeline's `data` holds, what it says, and how it was found out."""

    settings: Mapping[str, Any]
    info: DatasetInfo
    reason: str


def detect(data: Path, *, most: int = MOST_CASES, progress: Progress = lambda done, total: None) -> Detected:
    """Read a folder, or a CSV table, by the dataset plugin that fits it. Raises DataError.

    Where no text file names the labels or tells what the channels are, `most` label maps and one image are
    opened; `progress(done, total)` counts label maps.
    """
    if not data.exists():
        raise DataError(f"{data}: no such file or folder; give a dataset's folder, or a CSV table of cases")
    if kind := no_file(data):
        raise DataError(f"{data}: is {kind}; give a dataset's folder, or a CSV table of cases")
    if data.is_file():
        if data.suffix.lower() != ".csv":
            raise DataError(f"{data}: is no folder and no .csv file; give the dataset's folder")
        table = {"root": data.parent, "file": data.name}
        return _looked_into("csv", table, "a table of cases", most, progress)
    if (data / "dataset.json").is_file():
        return _described(data)
    if tables := [path for path in sorted(data.glob("*.csv")) if path.is_file() and _lists_cases(path)]:
        table = {"root": data, "file": tables[0].name}
        return _looked_into("csv", table, f"{tables[0].name} lists cases", most, progress)
    if is_bids(data) and (parameters := guess(data)):
        return _as_bids(data, parameters, most, progress)
    parameters = _folders(data) or _per_case(data) or dicom_per_case(data)
    if parameters is None:
        scans = "it holds DICOM, but no such label maps" if holds_dicom(data) else "it holds no DICOM either"
        raise DataError(
            f"{data}: is no dataset that medfuse knows by itself (a dataset.json, a table of cases, "
            "folders `images` and `labels`, BIDS with label maps, or a folder per case with equal file "
            "names, one of them like `label` or `mask`, or with DICOM slices and a SEG, an RTSTRUCT or a "
            "label map; "
            f"{scans}); write its `data:` by hand, see `medfuse plugins show folder`"
        )
    reason = parameters.pop("reason")
    return _looked_into("folder", {"root": data, **parameters}, reason, most, progress)


def _described(data: Path) -> Detected:
    """A folder with dataset.json: the Decathlon's lists its cases, nnU-Net's does not."""
    try:
        listing = json.loads((data / "dataset.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        listing = {}  # the plugin says what is wrong, and where
    listed = isinstance(listing, dict) and isinstance(listing.get("training"), list)
    name = "decathlon" if listed or not isinstance(listing, dict) else "nnunet"
    reason = "its dataset.json lists the cases" if listed else "dataset.json and imagesTr, as nnU-Net has it"
    return Detected({"use": name, "root": data}, _plugin(name, {"root": data}).read(), reason)


def _lists_cases(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = {cell.strip().lower() for cell in next(csv.reader(file), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return "label" in header and bool({"image", "channel_0"} & header)


def _folders(data: Path) -> dict[str, Any] | None:
    """Two sub-folders, of images and of label maps."""
    images = next((n for n in IMAGE_FOLDERS if (data / n).is_dir()), None)
    labels = next((n for n in LABEL_FOLDERS if (data / n).is_dir()), None)
    if images is None or labels is None:
        return None
    return {"images": [images], "labels": labels, "reason": f"folders {images} and {labels}"}


def _per_case(data: Path) -> dict[str, Any] | None:
    """A folder per case, in which files have the same names."""
    folders = look_into(data).folders
    files = [path for folder in folders for path in _images_in(folder)]
    counts = Counter(stem(path) for path in files)
    shared = sorted(name for name, n in counts.items() if n == max(counts.values()))
    labels = [name for name in shared if LABEL_NAME.search(name)]
    images = [name for name in shared if name not in labels]
    if len(labels) != 1 or not images or counts[labels[0]] < max(min(2, len(folders)), len(folders) // 2):
        return None

    def pattern(name: str) -> str:
        """Which ending a file has matters only where all have the same."""
        spelled = {path.name for path in files if stem(path) == name}
        return f"{{case}}/{spelled.pop() if len(spelled) == 1 else f'{name}.*'}"

    label = pattern(labels[0])
    return {
        "images": [pattern(name) for name in images],
        "labels": label,
        "channels": images,
        "reason": f"a folder per case; {label.removeprefix('{case}/')} is named like a label map",
    }


def _as_bids(data: Path, parameters: dict[str, Any], most: int, progress: Progress) -> Detected:
    """BIDS: of the images that each labelled scan has, those on the grid of its label map are channels."""
    first, *others = parameters["images"]
    known = {"root": data, "classes": {"label": 1}}
    info = _plugin("bids", {**parameters, **known}).read()
    case = next((case for case in info.cases if case.label), None)
    if case is not None and case.label is not None and others:
        grid = read_geometry(case.label)
        there = zip((first, *others), case.images)
        fit = [name for name, path in there if not grid.differences(read_geometry(path))]
        parameters["images"] = fit or [first]
    reason = f"folders of subjects, as BIDS has them; label maps end in {parameters['labels']}"
    found = _looked_into("bids", {"root": data, **parameters}, reason, most, progress)
    return _named_by_table(found)


def _named_by_table(found: Detected) -> Detected:
    """Without `classes`, where the dataset's own texts name all values that its label maps hold."""
    settings = {key: value for key, value in found.settings.items() if key != "classes"}
    try:
        info = _plugin("bids", {k: v for k, v in settings.items() if k != "use"}).read()
    except DataError:
        return found
    if {*found.info.labels.values()} <= {*info.labels.values()}:
        return Detected(settings, info, found.reason)
    return found


def _images_in(folder: Path) -> list[Path]:
    """Files of volumes, and folders that hold DICOM."""
    held = look_into(folder)
    return [*held.volumes, *(inner for inner in held.folders if holds_dicom(inner))]


def _looked_into(
    name: str, parameters: dict[str, Any], reason: str, most: int, progress: Progress
) -> Detected:
    """A dataset without names of labels, and perhaps of channels: both are read from its volumes."""
    info = _plugin(name, {**parameters, "classes": {"label": 1}}).read()
    labelled = tuple(case for case in info.cases if case.label is not None)
    if not labelled:
        raise DataError(f"{parameters['root']}: no case has a label; training needs some")
    if classes := segment_values(case.label for case in labelled if case.label):
        reason += "; its labels are called as the segments of its DICOM objects are"
    else:
        looked_at = sampled(labelled, most)
        values = _label_values(looked_at, progress)
        if len(looked_at) < len(labelled):
            reason += f"; its labels are those of {len(looked_at):,} of its {len(labelled):,} label maps"
        classes = {"label" if len(values) == 1 else f"label_{value}": value for value in values}
    parameters["classes"] = classes
    if len(info.channels) == 1 and slab_reader(info.cases[0].images[0]).channels == len(COLOURS):
        parameters["channels"] = COLOURS
        reason += "; pictures in colour"
    elif len(info.channels) == 1 and _is_ct(info.cases[0]):
        parameters["channels"] = ["CT"]
        if modality_of(info.cases[0].images[0]):
            reason += "; DICOM says that it is CT"
        else:
            reason += "; voxels below -500 are air in Hounsfield units, so it is CT"
    return Detected({"use": name, **parameters}, _plugin(name, parameters).read(), reason)


def _label_values(cases: tuple[Case, ...], progress: Progress) -> list[int]:
    """Every value other than 0 in any label map."""

    def values(case: Case) -> set[int] | DataError:
        assert case.label is not None
        try:
            return {*values_of(read_labels(case.label).array)}
        except DataError as error:
            return error

    found = in_threads(values, cases, os.cpu_count() or 1, progress)
    if faults := [line for f in found if isinstance(f, DataError) for line in f.lines]:
        raise DataError(*faults)
    together = sorted(set().union(*(f for f in found if not isinstance(f, DataError))) - {0})
    if not together:
        raise DataError(
            f"{cases[0].label}: holds 0 alone, as does each label map that was looked at ({len(cases):,}); "
            "label maps hold a whole number from 1 for each structure: look whether they were written as "
            "they should be, and whether they are the right files"
        )
    if len(together) > MOST_LABELS or together[0] < 0:
        raise DataError(
            f"{cases[0].label}: its label maps hold {len(together)} values other than 0; label maps hold a "
            "whole number from 1 for each structure: choose the right files"
        )
    return together


def _is_ct(case: Case) -> bool:
    said = modality_of(case.images[0])
    return said == "CT" if said else bool(read_image(case, 1)[0].min() < AIR)


def _plugin(name: str, parameters: Mapping[str, Any]) -> Dataset:
    made = registry.get(Dataset.group, name)(**parameters)
    assert isinstance(made, Dataset)
    return made
