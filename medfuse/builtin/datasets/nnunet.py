"""nnU-Net's raw layout: one file per channel, numbered at the end of its name."""

import re
from collections import defaultdict
from pathlib import Path

from medfuse.api import Case, Dataset, DatasetInfo, Split
from medfuse.core.errors import DataError
from medfuse.data.listing import JsonFile, check_cases, parse_channels, parse_labels, splits_beside
from medfuse.volumes.endings import ENDINGS, ending, stem


class NNUNet(Dataset):
    """An nnU-Net raw dataset: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json.

    Folds come from a `splits_final.json` in the same folder. Images and labels may differ in ending.

        data: {use: nnunet, root: nnUNet_raw/Dataset004_Hippocampus}
    """

    def read(self) -> DatasetInfo:
        source = JsonFile.read(self.root / "dataset.json")
        if not isinstance(source.data, dict):
            raise DataError(f"{source.path}: holds no mapping; it needs `channel_names` and `labels`")
        faults: list[str] = []
        order = source.data.get("regions_class_order")
        given = parse_labels(source.data.get("labels"), f"{source.path}: labels", faults, order)
        names = source.data.get("channel_names", source.data.get("modality"))
        channels = parse_channels(names, f"{source.path}: channel_names", faults)
        cases = self._labelled(len(channels), faults)
        check_cases(cases, faults)
        splits: tuple[Split, ...] = ()
        try:
            splits = splits_beside(self.root)
        except DataError as error:
            faults.extend(error.lines)
        test = self._images("imagesTs", len(channels), faults)
        if faults:
            raise DataError(*faults)
        tests = tuple(Case(n, p) for n, p in test.items())
        return DatasetInfo(cases, given.labels, channels, splits, tests, given.region_order, given.ignore)

    def _labelled(self, channels: int, faults: list[str]) -> tuple[Case, ...]:
        images = self._images("imagesTr", channels, faults)
        if not images:
            faults.append(
                f"{self.root / 'imagesTr'}: no images named CASE_0000 with an ending of {', '.join(ENDINGS)}"
            )
        labels: dict[str, Path] = {}
        for path in _volumes(self.root / "labelsTr"):
            if other := labels.get(stem(path)):
                faults.append(f"{path}: a second label of case {stem(path)}, beside {other.name}; keep one")
            elif stem(path) not in images:
                faults.append(
                    f"{path}: has no image; add imagesTr/{stem(path)}_0000.nii.gz, or remove the label"
                )
            labels[stem(path)] = path
        for name in images.keys() - labels.keys():
            faults.append(
                f"{images[name][0]}: has no label; add labelsTr/{name}.nii.gz, or move it to imagesTs"
            )
        return tuple(Case(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys()))

    def _images(self, folder: str, channels: int, faults: list[str]) -> dict[str, tuple[Path, ...]]:
        """Case → one file per channel, in order."""
        found: dict[str, dict[int, Path]] = defaultdict(dict)
        for path in _volumes(self.root / folder):
            match = re.fullmatch(r"(.+)_(\d{4})", stem(path))
            if match is None:
                faults.append(
                    f"{path}: its name does not end in a channel number; rename it to {stem(path)}_0000"
                )
            elif other := found[match[1]].get(int(match[2])):
                faults.append(f"{path}: a second file of this channel, beside {other.name}; keep one")
            else:
                found[match[1]][int(match[2])] = path
        for name, files in found.items():
            for number in sorted(set(range(channels)) - files.keys()):
                faults.append(
                    f"{self.root / folder}: {name}_{number:04d} is missing; add it, or remove case {name}"
                )
            for number in sorted(files.keys() - set(range(channels))):
                faults.append(
                    f"{files[number]}: channel {number} is not in dataset.json's channel_names; name it there"
                )
        return {name: tuple(files[n] for n in sorted(files)) for name, files in sorted(found.items())}


def _volumes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if ending(p) and not p.name.startswith("."))
