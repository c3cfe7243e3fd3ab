"""Codes of terminologies, such as SNOMED CT's for organs: what a text says, and whether it can be one."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_LETTERS = 16  # of a scheme and of a code in DICOM
MOST_LETTERS_OF_A_MEANING = 64


@dataclass(frozen=True)
class Code:
    """A concept: `value` in the terminology `scheme`, and what it means in words."""

    scheme: str
    value: str
    meaning: str = ""

    @classmethod
    def of(cls, text: str) -> Code:
        """From `SCT 10200004`, or `SCT 10200004 Liver`. Raises ValueError."""
        scheme, _, rest = text.strip().partition(" ")
        value, _, meaning = rest.strip().partition(" ")
        odd = re.fullmatch(r"[A-Za-z][\w-]*", scheme) is None or re.fullmatch(r"[\w.^-]+", value) is None
        if odd or not meaning.isprintable() or "\\" in meaning:
            raise ValueError(
                f"{text!r} is no code; write the terminology and its code, such as 'SCT 10200004', and "
                "perhaps its meaning"
            )
        for what, word, most in (
            ("terminology", scheme, MOST_LETTERS),
            ("code", value, MOST_LETTERS),
            ("meaning", meaning.strip(), MOST_LETTERS_OF_A_MEANING),
        ):
            if len(word) > most:
                raise ValueError(f"{text!r}: its {what} has {len(word)} letters, and DICOM takes {most}")
        if scheme == "SCT" and not is_snomed(value):
            raise ValueError(
                f"{text!r}: {value} is no code of SNOMED CT, as its check digit is wrong; look the number up "
                "once more"
            )
        return cls(scheme, value, meaning.strip())

    def __str__(self) -> str:
        return f"{self.scheme} {self.value} {self.meaning}".strip()


LEFT, RIGHT = Code("SCT", "7771000", "Left"), Code("SCT", "24028007", "Right")
KINDS = {
    "organ": Code("SCT", "123037004", "Anatomical Structure"),
    "tissue": Code("SCT", "85756007", "Tissue"),
    "substance": Code("SCT", "91720002", "Body Substance"),
    "finding": Code("SCT", "49755003", "Morphologically Abnormal Structure"),
    "object": Code("SCT", "260787004", "Physical object"),
}
"""What kinds of things labels are, in DICOM's words."""


def is_snomed(value: str) -> bool:
    """Whether a number is one of SNOMED CT: 6 to 18 digits, the last of which tests the others (Verhoeff)."""
    if not re.fullmatch(r"[1-9][0-9]{5,17}", value):
        return False
    rest = 0
    for place, digit in enumerate(reversed(value)):
        rest = _product(rest, _moved(int(digit), place))
    return rest == 0


def _product(a: int, b: int) -> int:
    """Of two symmetries of a pentagon: turns are 0 to 4, and reflections 5 to 9."""
    turn = a % 5 + b % 5 if a < 5 else a % 5 - b % 5
    return turn % 5 + 5 * ((a >= 5) != (b >= 5))


def _moved(digit: int, times: int) -> int:
    for _ in range(times % 8):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit
