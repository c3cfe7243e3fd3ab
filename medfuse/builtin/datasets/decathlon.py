"""The Medical Segmentation Decathlon's layout, and MONAI's data lists, which extend it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from medfuse.api import Case, Dataset, DatasetInfo, Split
from medfuse.core.errors import DataError
from medfuse.data.listing import (
    JsonFile,
    check_cases,
    parse_channels,
    parse_labels,
    splits_beside,
    splits_from_folds,
)
from medfuse.volumes.endings import stem


class Decathlon(Dataset):
    """A `dataset.json` that lists images and labels (Medical Segmentation Decathlon, MONAI).

    Folds come from `splits_final.json` beside it (nnU-Net's form), else from `fold` keys of the entries.
    Test images that are not there are left out.

        data: {use: decathlon, root: Task04_Hippocampus}
    """

    file: str = Field("dataset.json", description="the list, relative to `root`")

    def read(self) -> DatasetInfo:
        source = JsonFile.read(self.root / self.file)
        if not isinstance(source.data, dict):
            raise DataError(
                f"{source.path}: holds no mapping; see medicaldecathlon.com for the form of a dataset.json"
            )
        faults: list[str] = []
        order = source.data.get("regions_class_order")
        given = parse_labels(source.data.get("labels"), f"{source.path}: labels", faults, order)
        channels = source.data.get("channel_names", source.data.get("modality"))
        names = parse_channels(channels, f"{source.path}: modality", faults)
        entries = list(self._entries(source, faults))
        cases = tuple(case for case, _ in entries)
        check_cases(cases, faults)
        splits = self._splits(entries, faults)
        if faults:
            raise DataError(*faults)
        test = self._test_cases(source.data)
        return DatasetInfo(cases, given.labels, names, splits, test, given.region_order, given.ignore)

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
            if Path(images[0]).name.startswith("._"):  # macOS leaves these beside every file it archives
                continue
            if not isinstance(entry.get("label"), str):
                faults.append(
                    f"{source.at(images[0])}: {images[0]} has no label; add its `label`, or move it to `test`"
                )
                continue
            yield self._case(images, entry["label"]), entry.get("fold")

    def _case(self, images: list[str], label: str | None = None) -> Case:
        folder = (self.root / self.file).parent
        paths = tuple(folder / image for image in images)
        return Case(stem(paths[0]), paths, folder / label if label else None)

    def _splits(self, entries: list[tuple[Case, Any]], faults: list[str]) -> tuple[Split, ...]:
        try:
            given = splits_beside(self.root)
        except DataError as error:
            faults.extend(error.lines)
            return ()
        folds = {case.name: fold for case, fold in entries if isinstance(fold, int)}
        if not given and folds and len(folds) < len(entries):
            faults.append(
                f"{self.root / self.file}: {len(folds)} of {len(entries)} cases have a `fold`; give each one"
            )
        return given or splits_from_folds(folds)

    def _test_cases(self, data: Mapping[str, Any]) -> tuple[Case, ...]:
        listed = [_paths(e.get("image") if isinstance(e, Mapping) else e) for e in data.get("test") or ()]
        cases = [self._case(images) for images in listed if images]
        return tuple(case for case in cases if all(path.is_file() for path in case.images))


def _paths(value: Any) -> list[str] | None:
    """One file, or a list with one file per channel; None for anything else."""
    files = [value] if isinstance(value, str) else value
    return files if isinstance(files, list) and all(isinstance(f, str) for f in files) else None
