"""Labels that come in pairs, left and right, and whether a label map has them exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterable

_OTHER = {"left": "right", "l": "r", "lt": "rt", "lh": "rh", "sinister": "dexter", "sin": "dex"}


def pairs(names: Iterable[str]) -> dict[str, str]:
    """Left → right, of the names that differ in this one word: `kidney_left`, `Left kidney`, `L-lung`."""
    by_words: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        by_words.setdefault(_words(name), []).append(name)
    found = {}
    for words, own in by_words.items():
        for place, word in enumerate(words):
            others = by_words.get((*words[:place], _OTHER.get(word, ""), *words[place + 1 :]), [])
            if len(own) == len(others) == 1:
                found[own[0]] = others[0]
    return found


def _words(name: str) -> tuple[str, ...]:
    parted = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return tuple(re.findall(r"[^\W_]+", parted.lower()))


def exchanged(left: float | None, right: float | None) -> float | None:
    """1 where the left one of a pair lies to the right of the other, else 0; None where one is absent.

    Each is its mean place along x, which grows towards the patient's right.
    """
    return None if left is None or right is None else float(left > right)
