"""Series of a study: which files make one, what it is called, and what was left out of it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from medfuse.volumes.dicom.conditions import Condition
from medfuse.volumes.dicom.files import Unread, read_headers, told
from medfuse.volumes.dicom.frames import Frame
from medfuse.volumes.dicom.instances import Instance
from medfuse.volumes.dicom.stacks import Stack, parted, pictured, volumes

_FEW = 0.25
"""A part of a series with fewer slices than this share of the largest is none of its own, as a localizer."""
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""How the classes of screens and scanned paper begin."""


@dataclass(frozen=True, eq=False)
class Series:
    """A volume of DICOM files. `instance`: one of its files. `patient`: whose it is, a digest where names are
    such. `notes`: what to tell. `unread`: what may be slices of it and cannot be read.
    """

    name: str
    instance: Instance
    instances: tuple[Instance, ...]
    stack: Stack
    notes: tuple[str, ...] = ()
    patient: str = ""
    unread: tuple[Unread, ...] = ()


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


def find_series(path: Path, scans: Scans = ALL) -> Found:
    """Every series in a file, a folder and those inside, a zip file, or those that a DICOMDIR lists.

    Raises DataError where nothing can be read, and for conditions that are none.
    """
    conditions = [Condition.of(text) for text in scans.wanted]
    notes: list[str] = []
    instances, unread = read_headers(path, [condition.keyword for condition in conditions])
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
    series = [
        replace(one, patient=_patient(one.instance, scans.hashed), unread=tuple(_beside(one, unread)))
        for one in series
    ]
    explained = {fault for one in series for fault in one.unread}
    lines = told(path, [fault for fault in unread if fault not in explained])
    named = list(_named_apart(sorted(series, key=lambda one: one.name)))
    return Found(tuple(named), (*lines, *notes))


def _key(instance: Instance) -> tuple[str, ...]:
    """What files of one series share. Where an anonymiser blanked its UID, what else tells it from others."""
    says = instance.says
    own = tuple(says.get(k, "") for k in ("PatientID", "Modality"))
    if instance.series:
        return (*own, instance.series)
    return (*own, "", says.get("SeriesNumber", ""), str(Path(str(instance.place)).parent))


def _beside(series: Series, unread: Sequence[Unread]) -> Iterator[Unread]:
    """What may be slices of a series: what says so, and what says nothing and lies in a folder of its slices.

    A radiograph and a file of many frames are whole by themselves.
    """
    whole = series.instance.frames[0].flat or len(series.instance.frames) > 1
    folders = {str(Path(str(instance.place)).parent) for instance in series.instances if not whole}
    for fault in unread:
        if fault.is_scan and (
            fault.series == series.instance.series if fault.series else fault.folder in folders
        ):
            yield fault


def _without_captures(series: Sequence[Series]) -> tuple[list[Series], list[str]]:
    """Without screens, colours and doses, which lie beside scans and are none; where all are, they stay."""

    def why(one: Series) -> str:
        if one.instance.samples != 1 or not one.instance.photometric.startswith("MONOCHROME"):
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


def _patient(instance: Instance, hashed: bool) -> str:
    """PatientID, by which scans of one person are known, or its digest; nothing where there is none."""
    said = " ".join(instance.says.get("PatientID", "").split())
    return hashlib.sha256(said.encode()).hexdigest()[:16] if said and hashed else said


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
