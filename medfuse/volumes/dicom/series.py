"""Series of a study: found in folders, zip files and DICOMDIRs, and what makes a case of each."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import IO

from medfuse.core.errors import DataError
from medfuse.core.text import is_text, listed
from medfuse.volumes.dicom.instances import (
    Frame,
    Instance,
    Place,
    is_bomb,
    looks_like_dicom,
    quietly,
    read_header,
)
from medfuse.volumes.dicom.stacks import Stack, parted, pictured, volumes
from medfuse.volumes.endings import ending
from medfuse.volumes.folders import lost_target

_FEW = 0.25
"""A part of a series with fewer slices than this share of the largest is none of its own, as a localizer."""
_BEGIN = 132
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""How the classes of screens and scanned paper begin."""
_MOST_LOOKED, _OF_A_FOLDER = 5000, 100


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


def holds_dicom(path: Path) -> bool:
    """Whether a file is DICOM or a zip file of such, or a folder or one inside holds such.

    Some files of each folder are looked at, and some thousands in all. Raises DataError for a zip file that
    cannot be read.
    """
    if path.is_file():
        return is_dicom(path) or (_is_zip(path) and any(_members(path, [], _OF_A_FOLDER)))
    folder, number = path, 0
    for looked, file in enumerate(_walked(path, [])):
        folder, number = file.parent, number + 1 if file.parent == folder else 1
        if number <= _OF_A_FOLDER and (is_dicom(file) or (_is_zip(file) and _zip_holds_dicom(file))):
            return True
        if looked > _MOST_LOOKED:
            break
    return False


def _zip_holds_dicom(path: Path) -> bool:
    try:
        return any(_members(path, [], _OF_A_FOLDER))
    except DataError:
        return False  # among other files it is none that was asked for


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path)


def find_series(path: Path, scans: Scans = ALL) -> Found:
    """Every series in a file, a folder and those inside, a zip file, or those that a DICOMDIR lists.

    Raises DataError where nothing can be read, and for conditions that are none.
    """
    conditions = [Condition.of(text) for text in scans.wanted]
    instances, notes = read_headers(path, [condition.keyword for condition in conditions])
    groups: dict[tuple[str, ...], list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[_key(instance)].append(instance)
    series: list[Series] = []
    for group in groups.values():
        made, more = _series_of(group, scans)
        chosen = [one for one in made if all(condition.holds(one.instance) for condition in conditions)]
        series += chosen
        notes += more if chosen or not (made or conditions) else []
    if not conditions:
        series, more = _without_captures(series)
        notes += more
    named = list(_named_apart(sorted(series, key=lambda one: one.name)))
    return Found(tuple(named), tuple(notes))


def _key(instance: Instance) -> tuple[str, ...]:
    """What files of one series share. Where an anonymiser blanked its UID, what else tells it from others."""
    says = instance.says
    own = tuple(says.get(k, "") for k in ("PatientID", "Modality"))
    if instance.series:
        return (*own, instance.series)
    return (*own, "", says.get("SeriesNumber", ""), str(Path(str(instance.place)).parent))


def _without_captures(series: Sequence[Series]) -> tuple[list[Series], list[str]]:
    """Without screens, colours and doses, which lie beside scans and are none; where all are, they stay."""

    def why(one: Series) -> str:
        if one.instance.samples != 1:
            return "colours"
        if one.stack.faults and one.stack.frames[0].class_uid.startswith(_CAPTURE):
            return "captures of a screen"
        return "a dose" if one.instance.says.get("Modality") == "RTDOSE" else ""

    scans = [one for one in series if not why(one)]
    if not scans:
        return list(series), []
    return scans, [
        f"{one.name}: left out, as its {len(one.stack.frames)} images are {why(one)}"
        for one in series
        if why(one)
    ]


def read_headers(path: Path, keywords: Sequence[str] = ()) -> tuple[list[Instance], list[str]]:
    """Every file with an image, in the order of their paths, and lines about those that cannot be read.

    `keywords`: further tags to read.
    """
    instances: list[Instance] = []
    faults: list[str] = []
    for place, file in _opened(path, faults):
        try:
            found = read_header(place, file, keywords)
        except DataError as error:
            faults += error.lines
            continue
        if found:
            instances.append(found)
    if len(faults) > 3:
        faults = [*faults[:2], f"{path}: {len(faults) - 2} more files cannot be read"]
    return instances, faults


def _opened(path: Path, faults: list[str]) -> Iterator[tuple[Place, IO[bytes]]]:
    if path.is_file() and _is_zip(path):
        yield from _members(path, faults)
        return
    for file in _files(path, faults):
        try:
            if not is_text(str(file)):
                raise DataError(f"{file}: its name is no text in UTF-8, as records need it; rename it")
            if _is_zip(file):
                yield from _members(file, faults)
                continue
            with open(file, "rb") as opened:
                begin = opened.read(_BEGIN)
                if looks_like_dicom(begin):
                    opened.seek(0)
                    yield Place(str(file)), opened
        except OSError as error:
            faults.append(f"{file}: cannot be read ({error.strerror or error}); change its permissions")
        except DataError as error:
            faults += error.lines


def _files(path: Path, faults: list[str]) -> Iterator[Path]:
    if path.is_file():
        yield from _listed_by(path) if path.name.upper() == "DICOMDIR" else [path]
        return
    for file in _walked(path, faults):
        if lost := lost_target(file):
            faults.append(f"{file}: is {lost}; fetch that file, or remove the link")
        elif file.name.upper() != "DICOMDIR" and not ending(file) and file.is_file():
            yield file


def _walked(root: Path, faults: list[str]) -> Iterator[Path]:
    """Files in a folder and those inside, in order; links are followed, each folder once."""

    def tell(error: OSError) -> None:
        faults.append(f"{error.filename}: cannot be listed ({error.strerror}); change its permissions")

    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True, onerror=tell):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real not in seen:
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        seen.add(real)


def _listed_by(path: Path) -> Iterator[Path]:
    """The files that a DICOMDIR names, below its folder. Raises DataError for one that is not there."""
    from pydicom import dcmread

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
        spelled = [words, [word.lower() for word in words]]  # as some systems show names of a CD
        files = [(root / Path(*some)).resolve() for some in spelled]
        if not all(file.is_relative_to(root) for file in files):
            raise DataError(f"{path}: names {'/'.join(words)!r}, outside its folder; write it anew")
        if there := [file for file in files if file.is_file()]:
            yield there[0]
        else:
            missing.append("/".join(words))
    if missing:
        raise DataError(
            f"{path}: names files that are not there: {listed(missing, 3)}; copy them, or give the folder"
        )


def _members(path: Path, faults: list[str], most: int | None = None) -> Iterator[tuple[Place, IO[bytes]]]:
    """What a zip file has of DICOM, among its first `most` files. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
            if doubled := [name for name, n in Counter(m.filename for m in members).items() if n > 1]:
                raise DataError(f"{path}: holds two files {doubled[0]}; unpack it")
            if inner := [m.filename for m in members if m.filename.lower().endswith(".zip")]:
                faults.append(f"{path}: holds zip files itself ({listed(inner, 3)}); unpack it")
            for member in sorted(members, key=lambda m: m.filename)[:most]:
                if member.flag_bits & 1:
                    raise DataError(f"{path}: is locked by a password; unpack it")
                with archive.open(member) as file:
                    if looks_like_dicom(file.read(_BEGIN)):
                        check_unpacks(path, member)
                        file.seek(0)
                        yield Place(str(path), member.filename), file
    except DataError:
        raise
    except Exception as error:  # zipfile and what decompresses raise what they meet in a damaged file
        raise DataError(
            f"{path}: is not a readable zip file ({error}); copy it again from its source"
        ) from error


def _hidden(name: str) -> bool:
    return Path(name).name.startswith(".") or name.startswith("__MACOSX/")


def check_unpacks(path: Path, member: zipfile.ZipInfo) -> None:
    """Raises DataError for a member that is a bomb."""
    if is_bomb(member.file_size, member.compress_size):
        raise DataError(
            f"{path}: {member.filename} unpacks to {member.file_size:,} bytes; unpack it yourself"
        )


def _series_of(group: Sequence[Instance], scans: Scans) -> tuple[list[Series], list[str]]:
    """The volumes of one series, and what was left out of it."""
    by_uid: dict[tuple[object, ...], Instance] = {}
    for instance in group:
        by_uid.setdefault(_identity(instance), instance)
    copies = len(group) - len(by_uid)
    name, notes = _name(group[0], scans.hashed), []
    if copies:
        notes.append(f"{name}: {copies} of {len(group)} files are copies of others")
    seen = [i for i in by_uid.values() if "LOCALIZER" not in i.image_type]
    if (aside := len(by_uid) - len(seen)) and seen:
        notes.append(f"{name}: {aside} localizer images are left out")
    if aside and not seen:
        notes.append(f"{name}: is a localizer ({aside} images), left out")
    radiographs = [instance for instance in seen if instance.frames[0].flat]
    made = [
        Series(
            f"{name}_image{n}" if len(radiographs) > 1 else name,
            instance,
            (instance,),
            pictured(instance.frames[0]),
        )
        for n, instance in enumerate(radiographs, 1)
    ]
    frames = [frame for instance in seen for frame in instance.frames if not frame.flat]
    parts = sorted(parted(frames), key=len, reverse=True)
    for number, part in enumerate(parts):
        if number and len(part) < _FEW * len(parts[0]):
            notes.append(f"{name}: {_images(part)} that lie otherwise are left out")
            continue
        suffix = f"_part{number + 1}" if number else ""
        several = volumes(part, uneven=scans.uneven)
        largest = max(len(stack.frames) for _, stack in several)
        for apart, stack in several:
            if len(stack.frames) < _FEW * largest:
                notes.append(f"{name}: {_images(stack.frames)} that are {apart} are left out")
                continue
            held = {frame.place for frame in stack.frames}
            instances = tuple(i for i in seen if i.place in held)
            which = f"_{_plain(apart)}" if apart else ""
            made.append(Series(f"{name}{suffix}{which}", instances[0], instances, stack, stack.notes))
    return made, notes


def _images(frames: Sequence[Frame]) -> str:
    return f"{len(frames)} images of {frames[0].shape[0]}×{frames[0].shape[1]} pixels"


def _identity(instance: Instance) -> tuple[object, ...]:
    """What copies of a file share; some anonymisers write one UID into every file."""
    first = instance.frames[0]
    own = first.uid or str(instance.place)
    return own, first.order, first.position, first.along_i, first.apart, len(instance.frames)


def _name(instance: Instance, hashed: bool) -> str:
    """`PATIENT_DATE_NUMBER`, as far as the file says them; or a digest of patient, study and series."""
    says = instance.says
    if hashed:
        whole = "\0".join(says.get(k, "") for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
        return hashlib.sha256((whole.strip("\0") or str(instance.place)).encode()).hexdigest()[:16]
    bounds = {"PatientID": 64, "StudyDate": 16, "SeriesNumber": 16}
    plain = [_plain(says.get(key, ""), most) for key, most in bounds.items()]
    known = [word for word in plain if word]
    if not plain[0] and not plain[2]:
        known.append(_plain(Path(instance.place.file).parent.name) or "series")
    return "_".join(known)


def _plain(text: str, most: int = 64) -> str:
    """What of a text may stand in the name of a file, in `most` bytes."""
    return re.sub(r"[^\w.+-]+", "-", text).encode()[:most].decode(errors="ignore").strip("-.")


def _named_apart(series: Iterable[Series]) -> Iterator[Series]:
    """Those of one name by a number each."""
    taken: set[str] = set()
    for one in series:
        names = (f"{one.name}_{n}" if n > 1 else one.name for n in count(1))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield replace(one, name=name)


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
