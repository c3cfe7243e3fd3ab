"""nnU-Net's raw layout: one file per channel, numbered at the end of its name."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from medfuse.api import Case, Dataset, DatasetInfo
from medfuse.core.errors import DataError
from medfuse.data.listing import (
    JsonFile,
    check_cases,
    notes_on,
    parse_channels,
    parse_labels,
    splits_beside,
    with_dicom,
)
from medfuse.volumes.dicom.files import holds_dicom
from medfuse.volumes.dicom.index import as_volume_file
from medfuse.volumes.endings import ENDINGS, is_picture, stem
from medfuse.volumes.folders import listed, look_into
from medfuse.volumes.label_maps import is_label_object, label_stem


class NNUNet(Dataset):
    """An nnU-Net raw dataset: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json.

    Folds come from a `splits_final.json` in the same folder. Images and labels may differ in ending. An image
    without a label is a case for pseudo-labels. An image may be a folder of one DICOM series, CASE_0000, and
    a label a DICOM-SEG or an RTSTRUCT.

        data: {use: nnunet, root: nnUNet_raw/Dataset004_Hippocampus}
    """

    def read(self) -> DatasetInfo:
        source = JsonFile.read(self.root / "dataset.json")
        values = source.mapping("`channel_names` and `labels`")
        faults: list[str] = []
        order = values.get("regions_class_order")
        given = parse_labels(values.get("labels"), f"{source.path}: labels", faults, order)
        names = values.get("channel_names", values.get("modality"))
        channels = parse_channels(names, f"{source.path}: channel_names", faults)
        cases = self._training(len(channels), faults)
        cases, told = with_dicom(cases, given, given.region_order, faults)
        check_cases(cases, faults)
        splits = splits_beside(self.root, faults)
        tests = tuple(Case(n, p) for n, p in self._images("imagesTs", len(channels), faults).items())
        check_cases(tests, faults)
        if faults:
            raise DataError(*faults)
        folders = [self.root / name for name in ("imagesTr", "labelsTr", "imagesTs")]
        notes = (*told, *notes_on(self.root, cases, test_cases=tests, folders=folders))
        order = given.region_order
        return DatasetInfo(cases, given.labels, channels, splits, tests, order, given.ignore, notes)

    def _training(self, channels: int, faults: list[str]) -> tuple[Case, ...]:
        images = self._images("imagesTr", channels, faults)
        if not images:
            faults.append(
                f"{self.root / 'imagesTr'}: no images named CASE_0000 with an ending of {', '.join(ENDINGS)}"
            )
        labels: dict[str, Path] = {}
        for path in _label_maps(self.root / "labelsTr"):
            if other := labels.get(label_stem(path)):
                faults.append(
                    f"{path}: a second label of case {label_stem(path)}, beside {other.name}; keep one"
                )
            elif label_stem(path) not in images:
                faults.append(
                    f"{path}: has no image; add imagesTr/{label_stem(path)}_0000.nii.gz, or remove the label"
                )
            labels[label_stem(path)] = path
        return tuple(Case(name, files, labels.get(name)) for name, files in images.items())

    def _images(self, folder: str, channels: int, faults: list[str]) -> dict[str, tuple[Path, ...]]:
        """Case → one file per channel, in order."""
        found: dict[str, dict[int, Path]] = defaultdict(dict)
        for path in _images(self.root / folder):
            name = path.name if path.is_dir() else stem(path)
            match = re.fullmatch(r"(.+)_([0-9]{4})", name)
            if match is None:
                faults.append(f"{path}: its name does not end in a channel number; rename it to {name}_0000")
            elif other := found[match[1]].get(int(match[2])):
                faults.append(f"{path}: a second file of this channel, beside {other.name}; keep one")
            else:
                found[match[1]][int(match[2])] = path
        for name, files in found.items():
            if [*files] == [0] and is_picture(files[0]):  # which may hold all colours
                continue
            for number in sorted(set(range(channels)) - files.keys()):
                faults.append(
                    f"{self.root / folder}: {name}_{number:04d} is missing; add it, or remove case {name}"
                )
            for number in sorted(files.keys() - set(range(channels))):
                faults.append(
                    f"{files[number]}: channel {number} is not in dataset.json's channel_names; name it there"
                )
        return {name: _as_read(files, faults) for name, files in sorted(found.items())}


def _as_read(files: Mapping[int, Path], faults: list[str]) -> tuple[Path, ...]:
    """One path per channel, in order; of a DICOM series that of its index. Adds a line per fault."""
    made = []
    for number in sorted(files):
        try:
            made.append(as_volume_file(files[number]))
        except DataError as error:
            faults.extend(error.lines)
            made.append(files[number])
    return tuple(made)


def _images(folder: Path) -> tuple[Path, ...]:
    """Volumes, and folders of DICOM."""
    if not folder.is_dir():
        return ()
    held = look_into(folder)
    return (*held.volumes, *(inner for inner in held.folders if holds_dicom(inner)))


def _label_maps(folder: Path) -> tuple[Path, ...]:
    """Volumes, and what is or holds a SEG or an RTSTRUCT."""
    if not folder.is_dir():
        return ()
    volumes = look_into(folder).volumes
    others = [
        path for path in listed(folder) if path not in volumes and path.name[0] != "." and path.exists()
    ]
    return (*volumes, *filter(is_label_object, others))
