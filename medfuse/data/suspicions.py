"""What is suspicious about a sound dataset, told from its fingerprint: in numbers, with what would help."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import pi, prod, sqrt

import numpy as np

from medfuse.api import DatasetInfo, Split
from medfuse.core.text import listed
from medfuse.data.fingerprint import CaseFacts, Fingerprint
from medfuse.data.grids import (
    fields_of_view,
    lost_distance,
    lost_spacing,
    mm,
    orientations,
    single_slices,
    usual_spacing,
)
from medfuse.data.plan import Normalization
from medfuse.data.units import units

TINY = 8
"""Voxels: two along each axis. One voxel more or less is a tenth of the Dice."""
COVERING = 0.95
"""Of a case's voxels: more than a structure takes, however closely the image is cropped to it."""
FOLDS = 5
"""That are usual. A label of fewer cases is in none of those that one of the folds holds out."""
FEW_CASES = 10
"""With fewer, a fold judges by one case, and that case decides."""
USUAL_SPREAD = 0.1
"""Standard deviation of Dice between cases, as challenges report it for organs; lesions have more."""
_NAMED = 3


@dataclass(frozen=True)
class Suspicion:
    """`kind` is a word for programs, `line` the sentence for people."""

    kind: str
    line: str


def suspicions(
    fingerprint: Fingerprint,
    info: DatasetInfo,
    spacing_mm: Sequence[float],
    *,
    normalization: Sequence[Normalization] = (),
    split: Split | None = None,
) -> tuple[Suspicion, ...]:
    """What is odd about the cases of a fingerprint, which may be a sample of those of `info`.

    `spacing_mm` is the planned one. Without `normalization` channels are scaled as `auto` does. With a
    `split`, labels that a side of it lacks are left to `data.doubts.label_doubts`.
    """
    cases = fingerprint.cases
    labels = [name for name, value in info.labels.items() if value != 0]
    looks: dict[str, Callable[[], Iterator[str]]] = {
        "lost_spacing": lambda: lost_spacing(cases),
        "lost_distance": lambda: lost_distance(cases),
        "fields_of_view": lambda: fields_of_view(cases),
        "orientations": lambda: orientations(cases),
        "single_slices": lambda: single_slices(cases),
        "units": lambda: units(cases, info.channels, normalization),
        "duplicates": lambda: _duplicates(cases, info, split),
        "tiny": lambda: _tiny(cases, labels, spacing_mm),
        "covering": lambda: _covering(cases, labels),
        "rare": lambda: _rare(cases, labels, info, split),
        "few_cases": lambda: _few_cases(info, split),
    }
    found: list[Suspicion] = []
    for kind, look in looks.items():
        if kind in ("lost_distance", "fields_of_view") and found:
            continue  # millimetres that are not believed tell nothing more
        found += (Suspicion(kind, line) for line in look())
    return tuple(found)


def _duplicates(cases: Sequence[CaseFacts], info: DatasetInfo, split: Split | None) -> Iterator[str]:
    """Images that are the same under several paths; of paths that cases share `split_doubts` tells."""
    images = {case.name: {os.path.normpath(path) for path in case.images} for case in info.cases}
    paths: dict[str, set[str]] = {}
    users: dict[str, set[str]] = {}
    for case in cases:
        for path, digest in case.files.items():
            if digest and os.path.normpath(path) in images.get(case.name, ()):
                paths.setdefault(digest, set()).add(os.path.normpath(path))
                users.setdefault(digest, set()).add(case.name)
    groups = {tuple(sorted(users[d])) for d in users if len(users[d]) > 1 and len(paths[d]) > 1}
    if not groups:
        return
    joined = split and any({*split.train} & {*names} and {*split.validation} & {*names} for names in groups)
    advice = (
        "some of them train and their copies judge, so that Dice tells of what was learned: keep one of each"
        if joined
        else "keep one of each, or all on one side of every fold (`split: {group: …}`)"
    )
    told = [_equal(names) for names in sorted(groups)]
    yield (f"warning: images of several cases are the same, byte for byte: {listed(told, _NAMED)}; {advice}")


def _equal(names: Sequence[str]) -> str:
    more = len(names) - 2 * _NAMED
    return " = ".join(names[: 2 * _NAMED]) + (f" = … {more} more" if more > 0 else "")


def _tiny(cases: Sequence[CaseFacts], labels: Sequence[str], spacing_mm: Sequence[float]) -> Iterator[str]:
    """Structures of a few voxels of the planned spacing, or thinner than one."""
    voxel, files = prod(spacing_mm), usual_spacing(cases)
    flat = all(case.shape[2] == 1 for case in cases)
    for name in labels:
        held = [(case, ml) for case in cases if (ml := case.volumes_ml.get(name, 0.0)) > 0]
        if not held:
            continue
        volume = 1000 * float(np.median([ml for _, ml in held]))
        piece = 1000 * float(np.median([case.pieces_ml.get(name, ml) for case, ml in held]))
        across = (6 * piece / pi) ** (1 / 3)
        thin = not flat and across < max(spacing_mm)
        if volume >= TINY * voxel and not thin:
            continue
        advice = (
            f"plan for finer voxels (`preprocess.spacing_mm`; the files have about {mm(files)} mm)"
            if prod(files) < 0.8 * voxel
            else "the files are no finer, so images of a higher resolution would help; raise "
            "`sample.foreground`, and ask whether it is found rather than for its Dice"
        )
        yield (
            f"warning: {name} is tiny: in the median case that has it ({len(held)} have), it takes "
            f"{volume / voxel:.2g} voxels of {mm(spacing_mm)} mm"
            + (f" and {_alike(piece, volume)} about {across:.2g} mm thick, less than a voxel is long" * thin)
            + f"; {advice}"
        )


def _alike(piece: float, whole: float) -> str:
    return "is" if piece > 0.9 * whole else "its pieces are"


def _covering(cases: Sequence[CaseFacts], labels: Sequence[str]) -> Iterator[str]:
    sizes_ml = [prod(case.shape) * prod(case.spacing_mm) / 1000 for case in cases]
    for name in labels:
        share = float(np.median([case.volumes_ml.get(name, 0.0) / ml for case, ml in zip(cases, sizes_ml)]))
        if share > COVERING:
            yield (
                f"warning: {name} covers {share:.0%} of the voxels of the median case; look whether its "
                "value is the background's, or whether images are given as label maps"
            )


def _rare(
    cases: Sequence[CaseFacts], labels: Sequence[str], info: DatasetInfo, split: Split | None
) -> Iterator[str]:
    """Labels of so few patients that a fold has none; of that a sample of the cases does not tell."""
    patient = {case.name: case.patient or case.name for case in info.cases if case.label is not None}
    if len(cases) < len(patient):
        return
    for name in labels:
        held = [case.name for case in cases if case.volumes_ml.get(name, 0.0) > 0]
        people = len({patient.get(case, case) for case in held})
        if not 0 < people < FOLDS or len(held) == len(cases):
            continue
        if split:
            taught, judged = (len({*held} & {*side}) for side in (split.train, split.validation))
            if not (taught and judged):
                continue  # as `label_doubts` says
            means = f"{taught} of them train, {judged} judge"
        elif people == 1:
            means = "it can be learned or judged, not both"
        else:
            means = f"of {FOLDS} folds {FOLDS - people} have none to judge by"
        one = ", all of one patient" if people == 1 < len(held) else ""
        yield (
            f"warning: {name} is in {len(held)} of {len(cases)} cases ({listed(held, _NAMED)}{one}): "
            f"{means}; add cases that have it, spread them by `split: {{stratify: true}}`, or unite it with "
            "another label"
        )


def _few_cases(info: DatasetInfo, split: Split | None) -> Iterator[str]:
    patient = {case.name: case.patient or case.name for case in info.cases if case.label is not None}
    people = len({*patient.values()})
    if not 1 < people < FEW_CASES or (split and not split.validation):  # where all train, no Dice is told
        return
    held = len({patient.get(n, n) for n in split.validation}) if split else max(1, people // FOLDS)
    one = "case" if people == len(patient) else "patient"
    of = "" if people == len(patient) else f" of {people} patients"
    yield (
        f"warning: {len(patient)} labelled cases{of}: Dice of {held} held-out {one}{'s' if held > 1 else ''} "
        f"is known to about ± {2 * USUAL_SPREAD / sqrt(held):.2g}; judge each once by `medfuse run FILE "
        "--folds all`, and add cases where a smaller difference matters"
    )
