"""Which cases a user means by the files and folders of `--input`."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.text import is_text
from medfuse.volumes.dicom.files import holds_dicom
from medfuse.volumes.dicom.index import as_volume_file, index_all
from medfuse.volumes.dicom.origins import notes_of, sources_of
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.endings import ENDINGS, SERIES, ending, label_ending, stem
from medfuse.volumes.folders import left_out, look_into, not_there


def refuse_missing(paths: Sequence[Path]) -> None:
    """What can be told of inputs before a model is loaded. Raises DataError for those that do not exist."""
    if missing := [path for path in paths if not os.path.lexists(path)]:
        raise DataError(*map(_no_such, missing))


def _no_such(path: Path) -> str:
    return f"{path}: no such file or folder; check the path"


def find_inputs(paths: Sequence[Path], channels: Sequence[str], scans: Scans = ALL) -> list[Case]:
    """The cases in `paths`, in the order of their names. Each path is a volume or a folder of volumes.

    A case of several `channels` (their names, in the model's order) is one of
    - CASE_0000.nii.gz, CASE_0001.nii.gz, …, numbered as in nnU-Net (one channel may do without number);
    - a folder (given, or inside the one that is given) with a file named after each channel, such as
      patient07/flair.nii.gz, capitals or not; its other files are left alone;
    - one file with the channels on its fourth axis;
    - for one channel, a series of DICOM files, in a folder, those inside it, a zip file or a DICOMDIR; for
      several, a folder with one inside for each channel, named after it, that holds one series.

    `scans`: which series are meant, and what their cases are called.
    Raises DataError with every fault: a path that does not exist or cannot be read, a channel that is
    missing, two cases with one name, nothing found. Links that lead nowhere are cases too: they fail when
    they are read, and the others are done.
    """
    search = _Search(tuple(channels), scans)
    loose: dict[Path, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        if path.is_dir():
            search.folder(path)
        elif not os.path.lexists(path):
            search.problems.append(_no_such(path))
        elif not path.exists():
            search.problems.append(not_there(path))
        elif len(channels) == 1 and holds_dicom(path):
            search.series(path)
        elif ending(path) is None:
            search.problems.append(f"{path}: unknown ending; medfuse reads {', '.join(ENDINGS)}")
        else:
            loose[path.parent].append(path)
    for folder, files in loose.items():
        search.files(folder, files, named=len(channels) > 1)
    return search.result(paths)


def left_out_of(paths: Sequence[Path], cases: Sequence[Case]) -> tuple[str, ...]:
    """What the folders in `paths` hold and no case has, in one line per kind."""
    images = [image for case in cases for image in case.images]
    lines = [note for path in images for note in notes_of(path)]
    images = [file for image in images for file in sources_of(image)]
    for folder in dict.fromkeys(path for path in paths if path.is_dir()):
        own = [image for image in images if folder in image.parents]
        lines += left_out(folder, own, [folder, *(image.parent for image in own)])
    return tuple(lines)


def output_name(case: Case) -> str:
    """The file name of a case's label map: the ending is that of its image, as far as it can be written.

    An .mhd image gets an .mha label map and an .nhdr image an .nrrd one, as those are two files each and
    cannot be written in one step; a JPEG gets a .png, as JPEG changes values.
    """
    return case.name + label_ending(case.images[0])


@dataclass
class _Search:
    """Cases and problems as they are found."""

    channels: tuple[str, ...]
    scans: Scans = ALL
    cases: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def folder(self, folder: Path) -> None:
        """The cases among a folder's files, and in those sub-folders that have files named after channels."""
        held, before = look_into(folder), len(self.cases)
        self.files(folder, held.volumes, named=len(self.channels) > 1)
        self.cases += [Case(path.name, (path,)) for path in held.lost]
        for inner in held.folders:
            files = look_into(inner).volumes
            if self._named(files):
                self._case_folder(inner, files)
            elif len(self.channels) > 1:
                self._series_by_channel(inner)
        if len(self.channels) > 1:
            self._series_by_channel(folder)
        elif holds_dicom(folder):
            self.series(folder, needed=len(self.cases) == before)

    def series(self, path: Path, *, needed: bool = True) -> None:
        """A case for each DICOM series. `needed`: whether it is a problem where there is none."""
        try:
            self.cases += [Case(stem(file), (file,)) for file in index_all(path, self.scans)]
        except DataError as error:
            self.problems += error.lines if needed else ()

    def _series_by_channel(self, folder: Path) -> None:
        """A case whose channels are series, in folders that are named after them."""
        inner = {path.name.lower(): path for path in look_into(folder).folders}
        found = {channel: inner.get(channel.lower()) for channel in self.channels}
        if not any(path and holds_dicom(path) for path in found.values()):
            return
        try:
            files = {c: [as_volume_file(path, self.scans)] if path else [] for c, path in found.items()}
            self._add(folder.resolve().name, folder, files)
        except DataError as error:
            self.problems += error.lines

    def files(self, folder: Path, files: Sequence[Path], *, named: bool) -> None:
        if named and self._named(files):
            self._case_folder(folder, files)
        elif self._numbered(files):
            self._numbered_files(files)
        else:
            self.cases += [Case(stem(file), (file,)) for file in files]

    def result(self, paths: Sequence[Path]) -> list[Case]:
        by_name: dict[str, dict[tuple[Path, ...], Case]] = defaultdict(dict)
        for case in self.cases:
            by_name[case.name][tuple(image.resolve() for image in case.images)] = case
        for name, cases in sorted(by_name.items()):
            if not is_text(name):
                file = next(iter(cases.values())).images[0]
                self.problems.append(f"{file}: its name is no text in UTF-8, as records need it; rename it")
            if len(cases) > 1:
                *some, last = (str(case.images[0]) for case in cases.values())
                how, which = ("both", "one") if len(cases) == 2 else ("all", "all but one")
                of_series = any(ending(case.images[0]) == SERIES for case in cases.values())
                rename = "give them one after the other, or --name hash" if of_series else f"rename {which}"
                self.problems.append(
                    f"{', '.join(some)} and {last} are {how} case {name!r}, and would be written to one "
                    f"file; {rename}"
                )
        if not self.cases and not self.problems:
            self.problems.append(f"{', '.join(map(str, paths))}: no volumes here; {self._layouts()}")
            self.problems += left_out_of(paths, ())
        if self.problems:
            raise DataError(*self.problems)
        return [next(iter(cases.values())) for _, cases in sorted(by_name.items())]

    def _layouts(self) -> str:
        read = f"medfuse reads {', '.join(ENDINGS)}"
        if len(self.channels) == 1:
            return (
                f"{read}, in this folder itself or as CASE/{self.channels[0]}.nii.gz, and DICOM in any folder"
            )
        return (
            f"{read}, as CASE_0000.nii.gz to CASE_{len(self.channels) - 1:04d}.nii.gz or as "
            + ", ".join(f"CASE/{channel}.nii.gz" for channel in self.channels)
            + ", or as folders of DICOM that are called so"
        )

    def _named(self, files: Sequence[Path]) -> bool:
        """Whether any file has the name of a channel."""
        names = {channel.lower() for channel in self.channels}
        return any(stem(file).lower() in names for file in files)

    def _case_folder(self, folder: Path, files: Sequence[Path]) -> None:
        found: dict[str, list[Path]] = defaultdict(list)
        for file in files:
            found[stem(file).lower()].append(file)
        self._add(folder.resolve().name, folder, {c: found.get(c.lower(), []) for c in self.channels})

    def _numbered(self, files: Sequence[Path]) -> bool:
        """Whether file names end with channel numbers, rather than with numbers of their own."""
        numbers = [_numbering(file)[1] for file in files]
        if len(self.channels) == 1:
            return set(numbers) == {0}
        return any(n is not None and n < len(self.channels) for n in numbers)

    def _numbered_files(self, files: Sequence[Path]) -> None:
        by_case: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for file in files:
            name, number = _numbering(file)
            if number is None:
                self.cases.append(Case(name, (file,)))
            elif number >= len(self.channels):
                last = f"_{len(self.channels) - 1:04d} ({self.channels[-1]})"
                self.problems.append(
                    f"{file}: is channel _{number:04d}, but the model's last is {last}; move it away"
                )
            else:
                by_case[name][number].append(file)
        for name, numbered in by_case.items():
            folder = next(iter(numbered.values()))[0].parent
            labelled = {
                f"_{n:04d} ({channel})": numbered.get(n, []) for n, channel in enumerate(self.channels)
            }
            self._add(name, folder, labelled)

    def _add(self, name: str, folder: Path, found: dict[str, list[Path]]) -> None:
        """A case from the files found for each channel, or the problem with them."""
        missing = [channel for channel, files in found.items() if not files]
        double = [str(file) for files in found.values() if len(files) > 1 for file in files]
        if missing:
            self.problems.append(
                f"{folder}: case {name!r} lacks {', '.join(missing)}; the model needs {len(found)} channels"
            )
        if double:
            self.problems.append(f"{' and '.join(double)} are one channel of case {name!r}; keep one of them")
        if not missing and not double:
            self.cases.append(Case(name, tuple(files[0] for files in found.values())))


def _numbering(file: Path) -> tuple[str, int | None]:
    """`liver_01`, 2 of `liver_01_0002.nii.gz`; number None where there is none."""
    match = re.fullmatch(r"(.+)_(\d{4})", stem(file))
    return (match[1], int(match[2])) if match else (stem(file), None)
