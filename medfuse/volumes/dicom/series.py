"""Series of a study: found in folders, zip files and DICOMDIRs, and what makes a case of each."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from medfuse.core.errors import DataError
from medfuse.core.text import listed
from medfuse.volumes.dicom.instances import Instance, Place, looks_like_dicom, read_header
from medfuse.volumes.dicom.stacks import Stack, parted, stacked, told_apart
from medfuse.volumes.endings import ending

_FEW = 0.25
"""A part of a series with fewer slices than this share of the largest is none of its own, as a localizer."""
_BEGIN = 132
MOST_MEMBER = 1 << 31
"""Bytes of a file in a zip file that are unpacked."""
MOST_TIMES = 200
"""How many times its size a zip file's member may unpack to; more is a bomb."""


@dataclass(frozen=True, eq=False)
class Series:
    """A volume of DICOM files. `instance`: one of its files. `notes`: what to tell."""

    name: str
    instance: Instance
    instances: tuple[Instance, ...]
    stack: Stack
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scans:
    """Which series are meant, and how they are named.

    wanted: conditions such as `Modality=CT` and `SliceThickness<=3`, all of which a series meets.
    uneven: whether slices that are not even are resampled. hashed: whether names are digests, which say
    not who the patient is.
    """

    wanted: tuple[str, ...] = ()
    uneven: bool = False
    hashed: bool = False


ALL = Scans()


@dataclass(frozen=True, eq=False)
class Found:
    """What a place holds: series, in the order of their names, and lines about what was left out."""

    series: tuple[Series, ...]
    notes: tuple[str, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does."""
    try:
        if ending(path) or not path.is_file():
            return False
        with open(path, "rb") as file:
            return looks_like_dicom(file.read(_BEGIN))
    except OSError:
        return False


def holds_dicom(path: Path, *, deep: bool = True, most: int = 2000) -> bool:
    """Whether a file is DICOM or a zip file of such, or a folder holds such, in folders inside too if `deep`.

    Of a folder's files the first few are looked at, `most` in all.
    """
    if path.is_file():
        return is_dicom(path) or (_is_zip(path) and any(_members(path, first=True)))
    looked = 0
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith(".")) if deep else []
        for name in sorted(name for name in names if not name.startswith("."))[:5]:
            if is_dicom(Path(folder, name)):
                return True
            looked += 1
        if looked > most:
            return False
    return False


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path)


def find_series(path: Path, scans: Scans = ALL) -> Found:
    """Every series in a file, a folder and those inside, a zip file, or those that a DICOMDIR lists.

    Raises DataError where
    nothing can be read, and for conditions that are none.
    """
    conditions = [Condition.of(text) for text in scans.wanted]
    instances, notes = read_headers(path)
    groups: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for instance in instances:
        where = "" if instance.series else str(Path(instance.place.file).parent)
        groups[instance.series, where].append(instance)
    series: list[Series] = []
    for group in groups.values():
        if all(condition.holds(group[0]) for condition in conditions):
            made, more = _series_of(group, scans)
            series += made
            notes += more
    named = list(_named_apart(sorted(series, key=lambda one: one.name)))
    return Found(tuple(named), tuple(notes))


def read_headers(path: Path) -> tuple[list[Instance], list[str]]:
    """Every file with an image, in the order of their paths, and lines about those that cannot be read."""
    instances: list[Instance] = []
    faults: list[str] = []
    for place, file in _opened(path):
        try:
            found = read_header(place, file)
        except DataError as error:
            faults += error.lines
            continue
        if found:
            instances.append(found)
    if len(faults) > 3:
        faults = [*faults[:2], f"{path}: {len(faults) - 2} more files cannot be read"]
    return instances, faults


def _opened(path: Path) -> Iterator[tuple[Place, IO[bytes]]]:
    if path.is_file() and _is_zip(path):
        yield from _members(path)
        return
    for file in _files(path):
        try:
            with open(file, "rb") as opened:
                begin = opened.read(_BEGIN)
                if looks_like_dicom(begin):
                    opened.seek(0)
                    yield Place(str(file)), opened
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        if path.name.upper() == "DICOMDIR":
            yield from _listed_by(path)
        else:
            yield path
        return
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if (
                not name.startswith(".")
                and name.upper() != "DICOMDIR"
                and not ending(file)
                and file.is_file()
            ):
                yield file


def _listed_by(path: Path) -> Iterator[Path]:
    """The files that a DICOMDIR names, below its folder. Raises DataError for one that is not there."""
    from pydicom import dcmread

    from medfuse.volumes.dicom.instances import quietly

    root = path.parent.resolve()
    try:
        with quietly():
            records = list(dcmread(path, force=True).get("DirectoryRecordSequence") or [])
            names = [record.get("ReferencedFileID") for record in records]
    except Exception as error:  # pydicom raises what it meets in a damaged file
        raise DataError(f"{path}: is not a readable DICOMDIR ({error})") from error
    missing = []
    for parts in names:
        if not parts:
            continue
        words = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        file = (root / Path(*words)).resolve()
        if not file.is_relative_to(root):
            raise DataError(f"{path}: names {'/'.join(words)!r}, outside its folder; write it anew")
        if file.is_file():
            yield file
        else:
            missing.append("/".join(words))
    if missing:
        raise DataError(
            f"{path}: names files that are not there: {listed(missing, 3)}; copy them, or give the folder"
        )


def _members(path: Path, *, first: bool = False) -> Iterator[tuple[Place, IO[bytes]]]:
    """What a zip file has of DICOM. `first`: of its first files. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                m for m in archive.infolist() if not m.is_dir() and not Path(m.filename).name.startswith(".")
            ]
            for member in sorted(members, key=lambda m: m.filename)[: 20 if first else None]:
                if member.flag_bits & 1:
                    raise DataError(f"{path}: is locked by a password; unpack it")
                with archive.open(member) as file:
                    if looks_like_dicom(file.read(_BEGIN)):
                        yield Place(str(path), member.filename), BytesIO(unpacked(path, archive, member))
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError) as error:
        raise DataError(
            f"{path}: is not a readable zip file ({error}); copy it again from its source"
        ) from error


def unpacked(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes, its checksum held. Raises DataError for one that is a bomb."""
    if member.file_size > MOST_MEMBER or member.file_size > MOST_TIMES * max(member.compress_size, 1 << 12):
        raise DataError(
            f"{path}: {member.filename} unpacks to {member.file_size:,} bytes; unpack it yourself"
        )
    return archive.read(member)


def _series_of(group: Sequence[Instance], scans: Scans) -> tuple[list[Series], list[str]]:
    """The volumes of one series, and what was left out of it."""
    by_uid: dict[tuple[str, int], Instance] = {}
    for instance in group:
        by_uid.setdefault((instance.frames[0].uid or str(instance.place), instance.frames[0].order), instance)
    copies = len(group) - len(by_uid)
    name, notes = _name(group[0], scans.hashed), []
    if copies:
        notes.append(f"{name}: {copies} of {len(group)} files are copies of others")
    seen = [i for i in by_uid.values() if "LOCALIZER" not in i.image_type]
    if (aside := len(by_uid) - len(seen)) and seen:
        notes.append(f"{name}: {aside} localizer images are left out")
    if aside and not seen:
        notes.append(f"{name}: is a localizer ({aside} images), left out")
    frames = [frame for instance in seen for frame in instance.frames]
    parts = sorted(parted(frames), key=len, reverse=True)
    made: list[Series] = []
    for number, part in enumerate(parts):
        if number and len(part) < _FEW * len(parts[0]):
            i, j = part[0].shape
            notes.append(f"{name}: {len(part)} images of {i}×{j} pixels that lie otherwise are left out")
            continue
        suffix = f"_part{number + 1}" if number else ""
        for apart, own in told_apart(part):
            held = {frame.place for frame in own}
            instances = tuple(i for i in seen if i.place in held)
            which = f"_{_plain(apart)}" if apart else ""
            stack = stacked(own, uneven=scans.uneven)
            made.append(Series(f"{name}{suffix}{which}", instances[0], instances, stack, stack.notes))
    return made, notes


def _name(instance: Instance, hashed: bool) -> str:
    """`PATIENT_DATE_NUMBER`, as far as the file says them; or a digest of patient, study and series."""
    says = instance.says
    if hashed:
        whole = "\0".join(says.get(k, "") for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
        return hashlib.sha256((whole.strip("\0") or str(instance.place)).encode()).hexdigest()[:16]
    words = [says.get(key, "") for key in ("PatientID", "StudyDate", "SeriesNumber")]
    plain = [_plain(word) for word in words]
    known = [word for word in plain if word]
    if not plain[0] and not plain[2]:
        known.append(_plain(Path(instance.place.file).parent.name) or "series")
    return "_".join(known)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")[:64]


def _named_apart(series: Iterable[Series]) -> Iterator[Series]:
    """Those of one name by a number each."""
    from dataclasses import replace

    taken: dict[str, int] = {}
    for one in series:
        taken[one.name] = count = taken.get(one.name, 0) + 1
        yield one if count == 1 else replace(one, name=f"{one.name}_{count}")


@dataclass(frozen=True)
class Condition:
    """`Modality=CT`, `SliceThickness<=3`, `SeriesDescription~lung`: what a series must say."""

    keyword: str
    relation: str
    value: str

    @classmethod
    def of(cls, text: str) -> Condition:
        """Raises DataError."""
        found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|!=|=|<|>|~)\s*(.*?)\s*", text)
        if not found:
            raise DataError(
                f"--series {text!r}: is no condition; write KEYWORD=VALUE, with one of = != < <= > >= ~ "
                "(contains), such as 'Modality=CT' or 'SliceThickness<=3'"
            )
        from pydicom.datadict import tag_for_keyword

        if tag_for_keyword(found[1]) is None:
            raise DataError(
                f"--series {text!r}: DICOM has no {found[1]!r}; write a keyword such as SeriesDescription"
            )
        return cls(found[1], found[2], found[3])

    def holds(self, instance: Instance) -> bool:
        said = instance.says.get(self.keyword, "")
        words = said.split("\\")
        if self.relation == "~":
            return self.value.lower() in said.lower()
        if self.relation in ("=", "!="):
            same = any(_equal(word, self.value) for word in (*words, said))
            return same is (self.relation == "=")
        try:
            one, other = float(words[0]), float(self.value)
        except ValueError:
            return False
        return {"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[self.relation]


def _equal(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one.strip().lower() == other.lower()
