"""Which tensor of a file is which of a network: by their names, or by their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from medfuse.model.nnunet_names import plain_name

Shapes = Mapping[str, Sequence[int]]
"""Of tensors, by their names."""


def by_name(own: Iterable[str], sources: Iterable[str]) -> dict[str, str]:
    """The network's name → the file's, each without what all names of its side begin with, where that helps.

    So `module.`, `backbone.` and the like, which wrappers put before every name, do not matter; nor do
    nnU-Net's names of a plain U-Net.
    """
    own, sources = list(own), list(sources)
    readings = [dict(zip(sources, sources)), {plain: k for k in sources if (plain := plain_name(k))}]
    best: dict[str, str] = {}
    for here in beginnings(own):
        for reading, there in ((r, start) for r in readings for start in beginnings(r)):
            short = {name.removeprefix(there): source for name, source in reading.items()}
            found = {k: short[k.removeprefix(here)] for k in own if k.removeprefix(here) in short}
            best = max(best, found, key=len)
    return best


def beginnings(names: Iterable[str]) -> list[str]:
    """`["", "a.", "a.b."]` of a.b.c and a.b.d: what may be taken off before all of them."""
    found = [""]
    for parts in zip(*(name.split(".")[:-1] for name in names)):
        if len({*parts}) > 1:
            break
        found.append(f"{found[-1]}{parts[0]}.")
    return found


def by_order(own: Shapes, sources: Shapes, pairs: Mapping[str, str]) -> dict[str, str]:
    """What `pairs` leave over, by the longest runs of one kind, output channels and kernel in both."""

    def left(shapes: Shapes, used: Iterable[str]) -> dict[str, tuple[Any, ...]]:
        taken = {*used}
        return {name: _look(name, shape) for name, shape in shapes.items() if name not in taken}

    here, there = left(own, pairs), left(sources, pairs.values())
    runs = SequenceMatcher(None, [*here.values()], [*there.values()], autojunk=False).get_matching_blocks()
    names, theirs = [*here], [*there]
    return {names[run.a + i]: theirs[run.b + i] for run in runs for i in range(run.size)}


def _look(name: str, shape: Sequence[int]) -> tuple[Any, ...]:
    """What two tensors in the same place of two networks share, whatever their names, axes or input."""
    rest = max(shape[2:]) if len(shape) > 3 else tuple(shape[1:])
    return name.rpartition(".")[2], tuple(shape[:1]), rest


def likely_prefix(own: Shapes, chosen: Iterable[str]) -> str:
    """Below what the most names of the file are the network's."""
    names = {k.removeprefix(start) for start in beginnings(own) for k in own}
    votes = Counter(
        k[:i] for k in chosen for i, letter in enumerate(k) if letter == "." and k[i + 1 :] in names
    )
    return max(votes, key=votes.__getitem__, default="")
