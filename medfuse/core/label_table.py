"""The table of labels: what each value of a label map is called, its code and its colour.

It feeds DICOM segmentations, NIfTI, NRRD, the report and whoever shows labels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass

from medfuse.core.codes import KINDS, Code
from medfuse.core.labels import LabelValue, members
from medfuse.core.organs import Meant, meant_by


@dataclass(frozen=True)
class LabelSays:
    """What a dataset says of a label beside its value; empty where it says nothing."""

    code: str = ""
    color: str = ""


@dataclass(frozen=True)
class LabelEntry:
    """A label: `value` is what is written for it, and all of `members` belong to it.

    Those are more than `value` alone where labels are regions, which may lie within each other. `kind`: what
    kind of thing it is. `side`: left or right, where its code does not say it. `within`: of a finding, the
    organ.
    """

    name: str
    value: int
    members: tuple[int, ...]
    color: str
    code: Code | None = None
    kind: Code = KINDS["organ"]
    side: Code | None = None
    within: Code | None = None

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as numbers from 0 to 255."""
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue


def entries_of(
    labels: Mapping[str, LabelValue],
    given: Mapping[str, LabelSays] | None = None,
    region_order: tuple[int, ...] = (),
) -> tuple[LabelEntry, ...]:
    """An entry for each label but the background, in the order of their values; of regions, in their order.

    What was not `given` is what medfuse's list of organs says of its name; a colour is always there, and no
    two labels have the same unless that was given.
    """
    named = [name for name, value in labels.items() if value != 0]
    written = region_order or tuple(members(labels[name])[0] for name in named)
    said = {name: (given or {}).get(name, LabelSays()) for name in named}
    taken = {say.color.lower() for say in said.values() if say.color}
    made = []
    for place, (name, value) in enumerate(zip(named, written)):
        color = said[name].color.lower()
        if not color:
            meant = meant_by(name)
            color = _free(meant.known.color if meant else palette_color(place), taken)
            taken.add(color)
        made.append(_entry(name, value, members(labels[name]), color, said[name].code))
    return tuple(made) if region_order else tuple(sorted(made, key=lambda entry: entry.value))


def _entry(name: str, value: int, belong: tuple[int, ...], color: str, given: str) -> LabelEntry:
    meant = meant_by(name)
    code = _code(given, meant, name)
    return LabelEntry(
        name,
        value,
        belong,
        color,
        code,
        KINDS[meant.known.kind if meant else "organ"],
        meant.side if meant and code and not _says(code, meant.side) else None,
        meant.within if meant else None,
    )


def _code(given: str, meant: Meant | None, name: str) -> Code | None:
    known = meant.known.code if meant else None
    if not given:
        return known
    code = Code.of(given)
    if code.meaning:
        return code
    alike = known and (known.scheme, known.value) == (code.scheme, code.value)
    return known if alike else Code(code.scheme, code.value, name[:64])


def _says(code: Code, side: Code | None) -> bool:
    return side is not None and side.meaning.lower() in code.meaning.lower().split()


def palette_color(place: int) -> str:
    """A colour for the label at a place of the table: neighbours are far from each other in hue."""
    hue = (0.02 + place * 0.618034) % 1
    return _hex(*colorsys.hsv_to_rgb(hue, (0.65, 0.45, 0.85)[place % 3], (0.9, 0.98, 0.75)[place // 3 % 3]))


def _free(color: str, taken: set[str]) -> str:
    """`color`, or one near it that is not taken: that of the right kidney is a little darker."""
    red, green, blue = (n / 255 for n in bytes.fromhex(color[1:]))
    step = 0
    while color in taken:
        step += 1
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        value = value * 0.85**step if step < 8 else value
        color = _hex(*colorsys.hsv_to_rgb((hue + 0.013 * (step // 8 + step % 2)) % 1, saturation, value))
        if step > 100:
            color = palette_color(step)
    return color


def _hex(red: float, green: float, blue: float) -> str:
    return "#" + bytes(round(255 * part) for part in (red, green, blue)).hex()
