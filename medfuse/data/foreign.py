"""Images that a model was plainly not trained for, in a line for each way in which they are another kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from medfuse.core.prepared import Outlook
from medfuse.core.text import listed
from medfuse.data.plan import DataPlan

_SEVERAL = 2.9  # times that a spacing is beyond any that training saw: three, whatever headers round
_SHARE = 0.1  # of the range of values that an image may fail to reach
_NAMED = 3


def foreign(plan: DataPlan, outlooks: Sequence[Outlook]) -> Mapping[str, str]:
    """Kind → line, where some of the images are unlike all that the plan was made from.

    Told from headers: single slices for a network of volumes and the reverse, a spacing far from any, and
    numbers too short for the values of a channel that is not scaled by its own. Of a plan that does not know
    what training saw, its own spacing and patch count.
    """
    lines: dict[str, str] = {}
    for kind in (_flat, _deep, _spacing, _short):
        found = {outlook.name: said for outlook in outlooks if (said := kind(plan, outlook))}
        if found:
            names, how = listed([*found], _NAMED), next(iter(found.values()))
            count = f" ({len(found)} of {len(outlooks)})" if len(outlooks) > 1 else ""
            lines[kind.__name__] = f"unlike the images of training: {names}{count}: {how}"
    return lines


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
        if outlook.geometry.ras_shape[axis] > 1 and times >= _SEVERAL:
            saw = " to ".join(dict.fromkeys(f"{end[axis]:.3g}" for end in (least, most)))
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
