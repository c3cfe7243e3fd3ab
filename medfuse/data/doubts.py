"""What is odd about a dataset though it is sound, said before training with what would help."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from math import prod

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.labels import members
from medfuse.core.text import listed
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.split import nothing_held_out


def split_doubts(info: DatasetInfo, split: Split) -> Iterator[str]:
    """Labelled cases that are in neither part of a split, and files that several cases have in common."""
    used = {*split.train, *split.validation}
    unused = [case.name for case in info.cases if case.label and case.name not in used]
    if unused:
        are = "case is" if len(unused) == 1 else "cases are"
        yield (
            f"warning: {len(unused)} labelled {are} in neither part of this fold of the splits and not used: "
            f"{listed(unused)}; add them to the splits, or draw folds by another `split`"
        )
    yield from _shared_files(info, split)


def unjudged_doubts(split: Split, given: Sequence[Split]) -> Iterator[str]:
    """That a split holds out no case, where it does not, and the cases that none of the `given` folds has."""
    if split.validation:
        return
    yield nothing_held_out(split)
    known = {name for fold in given for name in (*fold.train, *fold.validation)}
    aside = [name for name in split.train if name not in known]
    if known and aside:
        train = "case trains that is" if len(aside) == 1 else "cases train that are"
        yield (
            f"warning: {len(aside)} labelled {train} in no fold of the splits: {listed(aside)}; take "
            f"{'its label' if len(aside) == 1 else 'their labels'} out of the dataset if kept aside by intent"
        )


def unlabelled_doubts(
    unlabelled: Sequence[Case], patient_of: Mapping[str, str], split: Split
) -> Iterator[str]:
    """Cases that pseudo-labels are made for, of patients who are held out. patient_of: of labelled cases."""
    held = {patient_of[name] for name in split.validation if name in patient_of}
    if seen := [case.name for case in unlabelled if case.patient in held]:
        are = "case" if len(seen) == 1 else "cases"
        yield (
            f"warning: pseudo-labels learn from {len(seen)} {are} of held-out patients ({listed(seen, 6)}), "
            "so that Dice tells of patients whose scans were seen; take them out of the dataset"
        )


def _shared_files(info: DatasetInfo, split: Split) -> Iterator[str]:
    common = {path: names for path, names in _users(info).items() if len(names) > 1}
    sides = {*split.train}, {*split.validation}
    joined = any(all(side & {*names} for side in sides) for names in common.values())
    advice = (
        "keep such cases on one side by `split: {group: …}` or a CSV's column `patient`, as Dice now tells "
        "of what was learned"
        if joined
        else "leave it where this is meant"
    )
    if common:
        files = [f"{path} ({listed(names)})" for path, names in common.items()]
        are = "file is" if len(files) == 1 else "files are"
        yield f"warning: {len(files)} {are} of several cases: {listed(files)}; give each its own, or {advice}"


def _users(info: DatasetInfo) -> dict[str, list[str]]:
    """Names of the cases that have a file as image or label."""
    users: dict[str, list[str]] = {}
    for case in info.cases:
        for path in dict.fromkeys(map(os.path.normpath, case.files)):
            users.setdefault(path, []).append(case.name)
    return users


def label_doubts(info: DatasetInfo, facts: Sequence[CaseFacts], split: Split) -> Iterator[str]:
    """Labels that no label map holds, or none of those that train or judge; values that a region lacks.

    `facts` may be those of a sample of the cases, and then tell of it alone.
    """
    whole = len(facts) >= sum(case.label is not None for case in info.cases)
    none = "no label map" if whole else f"none of the {len(facts):,} label maps that were looked at"
    mend = "mend" if whole else "look whether others do, else mend"
    labels = {name: value for name, value in info.labels.items() if value != 0}
    values = {case.name: {*case.values} for case in facts}
    everywhere = {value for found in values.values() for value in found}
    held = {
        name: {case for case, found in values.items() if found & {*members(value)}}
        for name, value in labels.items()
    }
    nowhere = [name for name, cases in held.items() if not cases]
    if nowhere:
        yield (
            f"warning: {none} holds {_with_values(nowhere, labels)}; a network cannot learn what it "
            f"never sees, and no Dice tells of it: {mend} the value, or leave the label out"
        )
    rest = [name for name in labels if name not in nowhere]
    if untaught := [name for name in rest if not held[name] & {*split.train}]:
        yield (
            f"warning: no training case holds {_with_values(untaught, labels)}, but others do: it cannot be "
            "learned; move such a case into training, or draw folds with `split: {stratify: true}`"
        )
    unjudged = [name for name in rest if not held[name] & {*split.validation}]
    if unjudged and split.validation:
        yield (
            f"warning: no held-out case holds {_with_values(unjudged, labels)}: how well it is found "
            "will not be known; hold out such a case, or train with --folds all"
        )
    for name in rest:
        absent = [value for value in members(labels[name]) if value not in everywhere]
        if absent:
            yield (
                f"warning: {none} holds {', '.join(map(str, absent))}, which the region {name} unites "
                f"with others; {mend} the values, or leave them out"
            )


def patch_doubts(classes: int, patch_size: Sequence[int]) -> Iterator[str]:
    """More classes than voxels in a patch."""
    if classes > prod(patch_size):
        size = " × ".join(map(str, patch_size))
        yield (
            f"warning: a patch of {size} has fewer voxels than there are classes ({classes}), and cannot "
            "show them: raise sample.patch_size, or look whether all these labels are meant"
        )


def plane_doubts(patch_size: Sequence[int], facts: Sequence[CaseFacts]) -> Iterator[str]:
    """Slices that a network of two axes, which are x and y, sees from their edge."""
    for axis, name in enumerate("xy") if len(patch_size) == 2 else ():
        if all(case.shape[axis] == 1 for case in facts):
            size = " × ".join(map(str, facts[0].shape))
            yield (
                f"warning: every case is one voxel thin along {name} ({facts[0].name}: {size}), and a patch "
                "of two sides lies in x and y, so that it shows lines: give sample.patch_size three sides "
                "(`medfuse init --dimensions 3`)"
            )


def _with_values(names: Sequence[str], labels: Mapping[str, int | tuple[int, ...]]) -> str:
    return listed([f"{name} ({', '.join(map(str, members(labels[name])))})" for name in names])
