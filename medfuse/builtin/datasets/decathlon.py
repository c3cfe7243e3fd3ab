"""The Medical Segmentation Decathlon's layout, and MONAI's data lists, which extend it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from medfuse.api import Case, Dataset, DatasetInfo, Split
from medfuse.core.errors import DataError
from medfuse.core.json_text import shortened
from medfuse.data.listing import (
    JsonFile,
    check_cases,
    is_whole,
    notes_on,
    parse_channels,
    parse_labels,
    splits_beside,
    splits_from_folds,
    with_dicom,
)
from medfuse.volumes.dicom.index import as_volume_file
from medfuse.volumes.endings import stem
from medfuse.volumes.folders import named
from medfuse.volumes.label_maps import as_label_path


class Decathlon(Dataset):
    """A `dataset.json` that lists images and labels (Medical Segmentation Decathlon, MONAI).

    Folds come from `splits_final.json` beside it (nnU-Net's form), else from `fold` keys of the entries.
    Test images that are not there are left out, and macOS's `._` files. An entry without a label is a case
    for pseudo-labels. An image may be a folder or a zip file of one DICOM series, and a label a DICOM-SEG or
    an RTSTRUCT.

        data: {use: decathlon, root: Task04_Hippocampus}
    """

    file: str = Field("dataset.json", description="the list, relative to `root`")

    def read(self) -> DatasetInfo:
        source = JsonFile.read(self.root / self.file)
        values = source.mapping("`modality`, `labels` and `training`, as those of medicaldecathlon.com")
        faults: list[str] = []
        order = values.get("regions_class_order")
        given = parse_labels(values.get("labels"), f"{source.path}: labels", faults, order)
        key = "channel_names" if "channel_names" in values else "modality"
        names = parse_channels(values.get(key), f"{source.path}: {key}", faults)
        entries = list(self._entries(source, faults))
        cases = tuple(case for case, _ in entries)
        cases, told = with_dicom(cases, given, given.region_order, faults)
        check_cases(cases, faults, source.path)
        splits = self._splits(source, entries, faults)
        listed = self._test_cases(source, faults)
        if faults:
            raise DataError(*faults)
        test = tuple(case for case in listed if all(map(os.path.isfile, case.images)))
        notes = (*told, *notes_on(source.path.parent, cases, test_cases=test, known=[source.path]))
        if absent := [case.name for case in listed if case not in test]:
            notes = (f"{source.path}: {named(absent, 'test image')} not there, so left out", *notes)
        return DatasetInfo(cases, given.labels, names, splits, test, given.region_order, given.ignore, notes)

    def _entries(self, source: JsonFile, faults: list[str]) -> Iterator[tuple[Case, Any]]:
        listed = source.data.get("training")
        if not isinstance(listed, list) or not listed:
            faults.append(
                f'{source.path}: `training` is missing or empty; list {{"image": …, "label": …}} per case'
            )
            return
        for number, entry in enumerate(listed):
            images = _paths(entry.get("image")) if isinstance(entry, Mapping) else None
            if not images:
                faults.append(
                    f'{source.path}: training[{number}] has no image; write {{"image": …, "label": …}}'
                )
                continue
            if _is_companion(images[0]):
                continue
            label, fold = entry.get("label"), entry.get("fold")
            where = f"{source.at(images[0])}: {shortened(images[0])}"
            if label is not None and (not isinstance(label, str) or not label):
                faults.append(f"{where}: its label is {shortened(repr(label))}; write the name of a file")
            elif fold is not None and (isinstance(fold, str) or not is_whole(fold)):
                faults.append(f"{where}: its fold is {shortened(repr(fold))}; write a whole number from 0")
            else:
                try:
                    yield self._case(images, label), fold
                except DataError as error:
                    faults.extend(f"{where}: {line}" for line in error.lines)

    def _case(self, images: list[str], label: str | None = None) -> Case:
        folder = (self.root / self.file).parent
        paths = tuple(folder / image for image in images)
        name = paths[0].name if paths[0].is_dir() else stem(paths[0])
        as_read = tuple(map(as_volume_file, paths))
        return Case(name, as_read, as_label_path(folder / label) if label else None)

    def _splits(
        self, source: JsonFile, entries: list[tuple[Case, Any]], faults: list[str]
    ) -> tuple[Split, ...]:
        given = splits_beside(self.root, faults)
        labelled = [(case.name, fold) for case, fold in entries if case.label is not None]
        folds = {name: fold for name, fold in labelled if fold is not None}
        if not given and folds and len(folds) < len(labelled):
            faults.append(
                f"{source.path}: {len(folds)} of {len(labelled)} labelled cases have a `fold`; give each one"
            )
        return given or splits_from_folds(folds)

    def _test_cases(self, source: JsonFile, faults: list[str]) -> tuple[Case, ...]:
        listed = source.data.get("test")
        if not isinstance(listed, list | None):
            faults.append(f"{source.path}: `test` is {shortened(repr(listed))}; list the test images, or []")
            return ()
        cases = []
        for number, entry in enumerate(listed or ()):
            if images := _paths(entry.get("image") if isinstance(entry, Mapping) else entry):
                try:
                    cases.append(self._case(images))
                except DataError as error:
                    faults.extend(error.lines)
            else:
                faults.append(f"{source.path}: test[{number}] has no image; write its name, or remove it")
        return tuple(case for case in cases if not _is_companion(case.images[0].name))


def _is_companion(name: str) -> bool:
    """macOS leaves these beside every file that it archives, and some lists have them."""
    return Path(name).name.startswith("._")


def _paths(value: Any) -> list[str] | None:
    """One file, or a list with one file per channel; None for anything else."""
    files = [value] if isinstance(value, str) else value
    return files if isinstance(files, list) and all(isinstance(f, str) and f for f in files) else None
