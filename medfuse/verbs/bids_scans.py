"""Scans of a BIDS dataset as cases: images by their suffix, a case for each scan of a subject."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.text import listed
from medfuse.data.bids import BidsFile, bids_files
from medfuse.volumes.folders import look_into


def is_dataset(folder: Path) -> bool:
    """Whether a folder says that it is a BIDS dataset, and has its images with its subjects alone."""
    says = folder.is_dir() and (folder / "dataset_description.json").is_file()
    return says and not look_into(folder).volumes


def bids_cases(root: Path, channels: Sequence[str]) -> list[Case]:
    """A case of each image whose suffix is called as the model's channel is (or of all images, where they
    have one suffix), called as it is without that: sub-01_ses-1. Of several channels, of the images that
    differ in their suffix alone. Raises DataError where it cannot be told which are meant, or one lacks.
    """
    images = [
        file for file in bids_files(root)[0] if not file.derived and not file.is_label and file.name.words
    ]
    suffixes = sorted({_suffix(file) for file in images})
    wanted = {channel.lower(): number for number, channel in enumerate(channels)}
    if len(channels) == 1 and len(suffixes) == 1:
        wanted = {suffixes[0].lower(): 0}
    there, table = listed(suffixes) or "none", "name the images in a table (--input cases.csv)"
    missing = [channel for channel in wanted if channel not in {one.lower() for one in suffixes}]
    if missing:
        raise DataError(
            f"{root}: is a BIDS dataset without images called _{missing[0]}, as the model's channel is (of "
            f"{there}); {table}"
        )
    found: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in images:
        number = wanted.get(_suffix(file).lower())
        if number is not None:
            found[_case_name(file)][number].append(file.path)
    faults, cases = [], []
    for name, by_channel in sorted(found.items()):
        lacks = [channel for number, channel in enumerate(channels) if not by_channel.get(number)]
        twice = [str(path) for paths in by_channel.values() if len(paths) > 1 for path in paths]
        if lacks:
            faults.append(f"{root}: scan {name} has no image of {', '.join(lacks)}; {table}")
        elif twice:
            faults.append(f"{' and '.join(twice)} are one image of scan {name}; keep one of them")
        else:
            cases.append(Case(name, tuple(by_channel[number][0] for number in range(len(channels)))))
    if faults:
        raise DataError(*faults)
    return cases


def _suffix(file: BidsFile) -> str:
    return file.name.words[-1]


def _case_name(file: BidsFile) -> str:
    """sub-01_ses-1 of sub-01_ses-1_T1w."""
    return "_".join(f"{key}-{value}" for key, value in file.name.entities.items()) or file.path.parent.name
