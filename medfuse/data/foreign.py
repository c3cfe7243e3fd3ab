"""Images that a model was plainly not trained for: in how far they are another kind, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf

from medfuse.core.prepared import Outlook
from medfuse.core.text import listed
from medfuse.data.plan import DataPlan, is_ct
from medfuse.data.profile import PERCENTS, SHAPES, Profile, shape_of
from medfuse.data.seen import extent, plane_of
from medfuse.data.units import AIR_HU, NARROW

SEVERAL = 2.05
"""Times that a spacing or an extent is beyond any that training saw: two, whatever headers round."""
TURNED_DEGREES = 20.0
"""Beyond any grid of training. Augmentation turns patches by as much."""
FEW = 5
"""Of fewer cases the least and the most tell little of others."""
_SHARE = 0.1  # of the range of values that an image may fail to reach
_NARROWER = 4.0  # times that values in another unit are closer together
_HALF = 0.5  # of a range by which another case may lie beyond it
_TAILS = (0.2, 1.0, 1.0)  # by which each of SHAPES may at least, in its unit
_NAMED = 3
KINDS = ("modality", "flat", "deep", "spacing", "short", "field_of_view", "plane", "turned", "intensities")
TOLD = "unlike the images of training"


def in_lines(found: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """Kind → line about all cases of that kind, of case → kind → how."""
    lines: dict[str, str] = {}
    for kind in sorted({kind for said in found.values() for kind in said}, key=KINDS.index):
        those = [name for name, said in found.items() if kind in said]
        count = f" ({len(those)} of {len(found)})" if len(found) > 1 else ""
        lines[kind] = f"{TOLD}: {listed(those, _NAMED)}{count}: {found[those[0]][kind]}"
    return lines


def strange(plan: DataPlan, outlook: Outlook) -> Mapping[str, str]:
    """Kind → in how far an image is of another kind, told from its header.

    Single slices for a network of volumes and the reverse, another modality, a spacing far from any, a field
    of view of another size, grids that are turned or sliced otherwise, and numbers too short for the values
    of a channel that is not scaled by its own. Of a plan that does not know what training saw, its own
    spacing and patch count.
    """
    found = _said((_modality, _flat, _deep, _spacing, _short, _plane, _turned), plan, outlook)
    if not {"flat", "deep", "spacing"} & {*found}:  # millimetres that are not believed tell nothing more
        found |= _said((_field_of_view,), plan, outlook)
    return found


def _said(
    looks: Sequence[Callable[[DataPlan, Outlook], str]], plan: DataPlan, one: Outlook
) -> dict[str, str]:
    return {look.__name__.strip("_"): said for look in looks if (said := look(plan, one))}


def strange_values(plan: DataPlan, profiles: Sequence[Profile]) -> Mapping[str, str]:
    """Kind → in how far the intensities of a case are of another kind; `profiles`: of each of its channels.

    Of a channel that is scaled by fixed numbers, such as CT, its percentiles count; of others what is the
    same in any unit, as scanners differ in their gains.
    """
    seen = plan.seen
    if seen is None or not seen.percentiles:
        return {}
    for channel, how, values, ends, shapes, found in zip(
        plan.channels, plan.normalization, seen.values, seen.percentiles, seen.shapes, profiles
    ):
        own = shape_of(found)
        if not own:
            continue
        if said := (
            _percentiles(channel, ends, found, seen.cases)
            if how.is_fixed
            else _like_ct(channel, values, found) or _shapes(channel, shapes, own, seen.cases)
        ):
            return {"intensities": said}
    return {}


def _percentiles(channel: str, ends: tuple[Profile, Profile], found: Profile, cases: int) -> str:
    least, most = ends
    if not least:
        return ""
    span, remedy = most[-1] - least[0], "look whether it is in the same unit and of the same kind"
    unit = " HU" if is_ct(channel) else ""
    if found[5] - found[1] < (narrowest := max(least[5] - most[1], 0.0)) / _NARROWER:
        return (
            f"{channel} goes from {found[1]:.4g} to {found[5]:.4g} (5th to 95th percentile), where training "
            f"saw {narrowest:.4g}{unit} between them; {remedy}"
        )
    for n in (3, 1, 5):
        slack = max(_HALF * (most[n] - least[n]), _SHARE * span, NARROW) * (2 if cases < FEW else 1)
        low = -inf if n == 3 else least[n] - slack  # more air around a patient moves the median down
        if not low <= found[n] <= most[n] + slack:
            what = "median" if PERCENTS[n] == 50 else f"{PERCENTS[n]:g}th percentile"
            return (
                f"the {what} of {channel} is {found[n]:.4g}, where training saw {least[n]:.4g} to "
                f"{most[n]:.4g}{unit}; {remedy}"
            )
    return ""


def _shapes(channel: str, ends: tuple[Profile, Profile], own: Profile, cases: int) -> str:
    least, most = ends
    if not least:
        return ""
    for what, low, high, floor, number in zip(SHAPES, least, most, _TAILS, own):
        slack = max((high - low) * (_HALF if floor < 1 else 1), floor) * (2 if cases < FEW else 1)
        if not low - slack <= number <= high + slack:
            return (
                f"intensities of {channel} are spread otherwise: {what} is {number:.3g}, where training saw "
                f"{low:.3g} to {high:.3g}; look whether contrast and modality are the same"
            )
    return ""


def _like_ct(channel: str, values: tuple[float, float], found: Profile) -> str:
    if values[0] <= AIR_HU / 2 or found[1] > AIR_HU / 2:
        return ""
    return (
        f"{channel} goes down to {found[0]:.4g} as CT does, where training saw nothing below "
        f"{values[0]:.4g}; give the modality that it was trained on"
    )


def _modality(plan: DataPlan, outlook: Outlook) -> str:
    known = plan.seen.modalities if plan.seen else ()
    if not known and len(outlook.modalities) == len(plan.channels):
        known = tuple(filter(None, map(_named, plan.channels)))
    for now, seen in zip(outlook.modalities, known if len(known) == len(outlook.modalities) else ()):
        if now and seen and now not in seen:
            return f"its modality is {now}, where training saw {' and '.join(seen)}"
    return ""


_MR = ("mr", "t1", "t2", "pd", "flair", "dwi", "adc", "swi")
_PET = ("pet", "pt", "suv")


def _named(channel: str) -> tuple[str, ...]:
    """The modality that a channel's name says; any where it does not say."""
    if is_ct(channel):
        return ("CT",)
    name = channel.strip().lower()
    return ("MR",) if name.startswith(_MR) else ("PT",) if name.startswith(_PET) else ("",)


def _field_of_view(plan: DataPlan, outlook: Outlook) -> str:
    if plan.seen is None or not plan.seen.extent_mm:
        return ""
    (least, most), grid = plan.seen.extent_mm, outlook.geometry
    reach = extent(grid.ras_shape, grid.ras_spacing_mm)
    for axis, name in _axes(plan):
        if grid.ras_shape[axis] > 1 and max(reach[axis] / most[axis], least[axis] / reach[axis]) >= SEVERAL:
            return (
                f"a field of view of {reach[axis]:.3g} mm along {name}, where training saw "
                f"{_range(least[axis], most[axis])}; crop it, or give what shows as much as those"
            )
    return ""


def _plane(plan: DataPlan, outlook: Outlook) -> str:
    seen, grid = plan.seen, outlook.geometry
    plane = plane_of(grid.ras_shape, grid.ras_spacing_mm)
    if seen is None or not seen.planes or not plane or {plane, ""} & {*seen.planes}:
        return ""
    return f"slices across {plane}, where training saw slices across {' and '.join(seen.planes)}"


def _turned(plan: DataPlan, outlook: Outlook) -> str:
    most, degrees = plan.seen.oblique_degrees if plan.seen else None, outlook.geometry.oblique_degrees
    if most is None or degrees < most + TURNED_DEGREES:
        return ""
    return (
        f"its axes are turned by {degrees:.0f} degrees against the patient's, where training saw {most:.0f} "
        "at most; resample it along them"
    )


def _range(least: float, most: float) -> str:
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in (least, most)))


def _flat(plan: DataPlan, outlook: Outlook) -> str:
    least = plan.seen.shape[0] if plan.seen else plan.patch_size
    for axis, name in _axes(plan):
        if outlook.geometry.ras_shape[axis] == 1 < least[axis]:
            saw = f"training saw {least[axis]} at least" if plan.seen else "the network takes volumes"
            return f"one voxel thin along {name}, where {saw}, so that labels will mean little"
    return ""


def _deep(plan: DataPlan, outlook: Outlook) -> str:
    most = plan.seen.shape[1] if plan.seen else ()
    if any(n == 1 < now for n, now in zip(most, outlook.geometry.ras_shape)):
        return "volumes, where training saw single slices alone, such as pictures"
    return ""


def _spacing(plan: DataPlan, outlook: Outlook) -> str:
    least, most = plan.seen.spacing_mm if plan.seen else (plan.spacing_mm, plan.spacing_mm)
    spacing = outlook.geometry.ras_spacing_mm
    for axis, name in _axes(plan):
        times = max(spacing[axis] / most[axis], least[axis] / spacing[axis])
        if outlook.geometry.ras_shape[axis] > 1 and times >= SEVERAL:
            saw = _range(least[axis], most[axis])
            return (
                f"a spacing of {spacing[axis]:.3g} mm along {name}, where training saw {saw}; look whether "
                "the header is right"
            )
    return ""


def _short(plan: DataPlan, outlook: Outlook) -> str:
    values = plan.seen.values if plan.seen else ()
    for channel, how, (least, most), (lowest, highest) in zip(
        plan.channels, plan.normalization, values, outlook.limits
    ):
        slack = _SHARE * (most - least)
        if how.is_fixed and (lowest > least + slack or highest < most - slack):
            return (
                f"whole numbers from {lowest:.0f} to {highest:.0f}, where {channel} had {least:.4g} to "
                f"{most:.4g} in training; give them as the scanner wrote them"
            )
    return ""


def _axes(plan: DataPlan) -> Iterator[tuple[int, str]]:
    """The axes that the network sees, with their names."""
    yield from enumerate("xyz"[: len(plan.patch_size)])
