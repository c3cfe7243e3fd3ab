"""Which tensor of a file is which of a network: by their names, or by their order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from medfuse.model.nnunet_names import elsewhere_name, plain_name

Shapes = Mapping[str, Sequence[int]]
"""Of tensors, by their names."""


def by_name(own: Iterable[str], sources: Iterable[str]) -> dict[str, str]:
    """The network's name → the file's, each without what stands before it on its side, where that helps.

    So `module.`, `backbone.` and the like, which wrappers put before every name, do not matter, nor do other
    parts of a larger network that the file is of; nor nnU-Net's names of a plain U-Net, or MedNeXt's at its
    authors'; nor `swin_vit` for `swinViT` and `fc1` for `linear1`, where that is all that differs.
    """
    own, sources = list(own), list(sources)
    mine, theirs = {name: name for name in own}, {name: name for name in sources}
    readings = [
        (mine, theirs),
        (mine, {plain: k for k in sources if (plain := plain_name(k))}),
        (mine, {elsewhere_name(k): k for k in sources}),
        (_loosely(own), _loosely(sources)),
    ]
    best: dict[str, str] = {}
    for ours, others in readings:
        for there in (*beginnings(others), *_inner_beginnings(ours, others)):
            short = {k.removeprefix(there): source for k, source in others.items() if k.startswith(there)}
            for here in beginnings(ours):
                found = {
                    name: short[k.removeprefix(here)]
                    for k, name in ours.items()
                    if k.removeprefix(here) in short
                }
                best = max(best, found, key=len)
    return best


def _loosely(names: Iterable[str]) -> dict[str, str]:
    """Names without what their authors spell in several ways; of names that are then one, none."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"\bfc(?=\d*\b)", "linear", name.lower().replace("_", "")), []).append(name)
    return {loose: same[0] for loose, same in found.items() if len(same) == 1}


def _inner_beginnings(own: Iterable[str], sources: Iterable[str]) -> list[str]:
    """What to take off before the names of one part of the file, where that part alone may be the network."""
    votes = _votes(list(own), sources)
    most = max(votes.values(), default=0)
    first = [start for start, n in votes.items() if n == most]
    rivals = [start for start, n in votes.items() if 2 * n > most and not _within(start, first)]
    return [] if rivals else [f"{start}." for start in first]


def _within(start: str, others: Iterable[str]) -> bool:
    """Whether one is a part of each of the others, or the reverse."""
    return all(f"{start}.".startswith(f"{o}.") or f"{o}.".startswith(f"{start}.") for o in others)


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
    votes = _votes(list(own), chosen)
    return max(votes, key=votes.__getitem__, default="")


def _votes(own: Sequence[str], chosen: Iterable[str]) -> Counter[str]:
    """How many names of the file are the network's, below each beginning."""
    names = {k.removeprefix(start) for start in beginnings(own) for k in own}
    return Counter(
        k[:i] for k in chosen for i, letter in enumerate(k) if letter == "." and k[i + 1 :] in names
    )
