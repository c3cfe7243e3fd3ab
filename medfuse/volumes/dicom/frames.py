"""What a header says of each of its frames: where it lies, how it is scaled, what tells it from others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.dicom.values import joined_text, many, number_of, real_of, reals_of, text_of, whole_of

if TYPE_CHECKING:
    from pydicom import Dataset

_RADIOGRAPHS = ("CR", "DX", "MG", "IO", "PX", "RG", "RF", "XA", "US")


@dataclass(frozen=True)
class Frame:
    """One image of an instance: where it lies in the patient (LPS, mm), and how its numbers are stored.

    `along_i`, `along_j`: unit vectors of growing column and of growing row. `pixel_mm`: (i, j), the distance
    between columns and between rows. `apart`: what tells it from others at the same place.
    """

    place: Place
    number: int
    uid: str
    class_uid: str
    order: int
    shape: tuple[int, int]
    position: tuple[float, float, float] | None
    along_i: tuple[float, float, float] | None
    along_j: tuple[float, float, float] | None
    pixel_mm: tuple[float, float] | None
    thickness_mm: float | None
    slope: float
    intercept: float
    apart: tuple[tuple[str, str], ...]
    flat: bool = False
    """Whether it is a radiograph, which has no place and is a picture by itself."""


def frames_of(
    place: Place, said: Dataset, count: int, class_uid: str, shape: tuple[int, int]
) -> Iterator[Frame]:
    """What a header says of each of its frames, `shape` (columns, rows). Raises DataError."""
    uid = text_of(said.get("SOPInstanceUID"))
    order = whole_of(said.get("InstanceNumber")) or 0
    orientation = reals_of(said.get("ImageOrientationPatient"), 6) or _of_detector(
        said, "ImageOrientationPatient", 6
    )
    position = reals_of(said.get("ImagePositionPatient"), 3) or _of_detector(said, "ImagePositionPatient", 3)
    spacing = reals_of(said.get("PixelSpacing" if said.get("PixelSpacing") else "ImagerPixelSpacing"), 2)
    flat = count == 1 and position is None and text_of(said.get("Modality")) in _RADIOGRAPHS
    offsets = _offsets(said, count)
    dose = number_of(place, said, "DoseGridScaling")
    for n in range(count):
        group = groups_of(said, n)
        own = (
            reals_of(said_in(group, "PlaneOrientationSequence", "ImageOrientationPatient"), 6) or orientation
        )
        at = reals_of(said_in(group, "PlanePositionSequence", "ImagePositionPatient"), 3)
        if at is None and position and own:
            at = _shifted(place, position, own, offsets[n]) if offsets else (position if count == 1 else None)
        measures = "PixelMeasuresSequence"
        mm = reals_of(said_in(group, measures, "PixelSpacing"), 2) or spacing
        scaling = _having(group, "PixelValueTransformationSequence", "RescaleSlope") or said
        slope, intercept = (number_of(place, scaling, name) for name in ("RescaleSlope", "RescaleIntercept"))
        thick = real_of(said_in(group, measures, "SpacingBetweenSlices")) or real_of(
            said_in(group, measures, "SliceThickness")
        )
        yield Frame(
            place,
            n,
            uid,
            class_uid,
            order,
            shape,
            at,
            _unit(place, own[:3]) if own else None,
            _unit(place, own[3:]) if own else None,
            (mm[1], mm[0]) if mm else None,
            thick or real_of(said.get("SpacingBetweenSlices")) or real_of(said.get("SliceThickness")),
            slope if slope is not None else 1.0 if dose is None else dose,
            intercept if intercept is not None else 0.0,
            _apart(said, group, n),
            flat,
        )


_APART = (
    *("EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("AcquisitionNumber", "TriggerTime", "ImageType", "EchoTime", "InversionTime", "FlipAngle"),
    *("SequenceName", "FrameReferenceTime", "AcquisitionTime", "ContentTime"),
)
_VECTORS = (
    *("EnergyWindowVector", "DetectorVector", "PhaseVector", "RRIntervalVector", "TimeSlotVector"),
    "TimeSliceVector",
)
"""Of nuclear medicine: a number for each frame."""
_AROUND = ("RotationVector", "AngularViewVector")
"""Where these are, frames are views from around the patient, and no slices."""
_APART_IN_FRAMES = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "StackID"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("DiffusionGradientDirectionSequence", "DiffusionGradientOrientation"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
)


def _apart(said: Dataset, group: tuple[Dataset, ...], n: int) -> tuple[tuple[str, str], ...]:
    found = [(name, joined_text(said.get(name))) for name in _APART]
    found += [(name, text_of(value[n])) for name in _VECTORS if n < len(value := many(said.get(name)))]
    inner = tuple(item for one in group for item in (one, *(s[0] for s in sequences_of(one))))
    found += [(name, joined_text(said_in(inner, sequence, name))) for sequence, name in _APART_IN_FRAMES]
    return tuple((name, value) for name, value in found if value)


def groups_of(said: Dataset, n: int) -> tuple[Dataset, ...]:
    """The functional groups of a frame, its own before those that all share."""
    own = said.get("PerFrameFunctionalGroupsSequence")
    shared = said.get("SharedFunctionalGroupsSequence")
    return (*([own[n]] if own and n < len(own) else []), *([shared[0]] if shared else []))


def said_in(groups: tuple[Dataset, ...], sequence: str, name: str) -> Any:
    found = _having(groups, sequence, name)
    return None if found is None else found.get(name)


def _having(groups: tuple[Dataset, ...], sequence: str, name: str) -> Any:
    """The first item of a sequence in the groups that says so."""
    for group in groups:
        inner = group.get(sequence)
        if inner and name in inner[0]:
            return inner[0]
    return None


def sequences_of(group: Dataset) -> list[Any]:
    return [element.value for element in group if element.VR == "SQ" and element.value]


def _of_detector(said: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Nuclear medicine keeps position and orientation of its frames with the detector."""
    inner = said.get("DetectorInformationSequence")
    return reals_of(inner[0].get(name), count) if inner else None


def _offsets(said: Dataset, count: int) -> list[float] | None:
    """How far each frame lies from the first, along the normal, where frames say no position."""
    if count == 1:
        return None
    given = [real_of(value) for value in many(said.get("GridFrameOffsetVector"))]
    offsets = [value for value in given if value is not None]
    if len(offsets) == count:
        return [value - offsets[0] for value in offsets]
    step = real_of(said.get("SpacingBetweenSlices"))
    slices = _slices(said, count)
    return [n * step for n in slices] if step and slices else None


def _slices(said: Dataset, count: int) -> list[int] | None:
    """Which slice each frame is, from 0; None where frames are no slices."""
    given = [whole_of(value) for value in many(said.get("SliceVector"))]
    if len(given) == count:
        return [n - 1 for n in given]
    kinds = {text_of(word).upper() for word in many(said.get("ImageType"))[2:]}
    varying = any(len({*map(text_of, many(said.get(name)))}) > 1 for name in _VECTORS)
    if varying or any(said.get(name) for name in _AROUND) or kinds & _NO_SLICES:
        return None
    return list(range(count))


_NO_SLICES = {"STATIC", "DYNAMIC", "GATED", "WHOLE BODY", "TOMO", "GATED TOMO"}


def _shifted(
    place: Place, position: tuple[float, ...], six: tuple[float, ...], by: float
) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = _unit(place, six[:3]), _unit(place, six[3:])
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    x, y, z = (p + by * n for p, n in zip(position, normal))
    return x, y, z


def _unit(place: Place, vector: tuple[float, ...]) -> tuple[float, float, float]:
    length = sum(v * v for v in vector) ** 0.5
    if not 0.9 < length < 1.1:
        raise DataError(f"{place}: its image orientation has no unit vectors; copy it again from its source")
    x, y, z = (v / length for v in vector)
    return x, y, z
