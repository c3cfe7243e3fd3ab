"""Which cases train and which judge: given folds, or folds drawn by seed."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.errors import DataError
from medfuse.core.patients import patients_in
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.listing import read_splits
from medfuse.data.settings import SplitSettings

SIZES = 3
"""Into how many classes of size, of equal number, stratified folds sort cases by their foreground."""


def choose_split(info: DatasetInfo, settings: SplitSettings, facts: Sequence[CaseFacts] = ()) -> Split:
    """Fold `settings.fold` of `all_splits`; for `all` every labelled case trains, whatever folds there are.

    Raises DataError for a fold that does not exist.
    """
    if settings.fold == "all":
        given_splits(info, settings)  # a faulty file is told, though it decides nothing here
        return Split(tuple(sorted(case.name for case in info.cases if case.label is not None)), ())
    source, splits = all_splits(info, settings, facts)
    if settings.fold >= len(splits):
        raise DataError(
            f"split.fold is {settings.fold}, but there are {len(splits)} folds in {source}, counted from 0"
        )
    split = splits[settings.fold]
    _check(split, patients(info.cases, settings), f"{source}, fold {settings.fold}")
    return split


def all_splits(
    info: DatasetInfo, settings: SplitSettings, facts: Sequence[CaseFacts] = ()
) -> tuple[str, tuple[Split, ...]]:
    """The folds of the file in `settings`, else the dataset's own, else drawn ones; and whose they are.

    `facts` are needed for stratified folds, and change nothing but those. Raises DataError.
    """
    if splits := given_splits(info, settings):
        return str(settings.file or "the dataset's own splits"), splits
    patient_of = patients(info.cases, settings)
    if (units := len({*patient_of.values()})) < settings.folds:
        ending = "" if units == 1 else "s"
        single = units == len(patient_of)
        what = f"labelled case{ending}" if single else f"patient{ending} with labelled cases"
        if units < 2:  # of which no folds can be made, however many are asked for
            alone = ", or train unjudged: `split: {fold: all}`" if units else ""
            raise DataError(
                f"the dataset has {units} {what}; training needs two at least, one of them to judge by: "
                f"add some{alone}"
            )
        raise DataError(
            f"split.folds is {settings.folds}, but the dataset has {units} {what}; "
            f"write `split: {{folds: {units}}}`, or give `split.file`"
        )
    if settings.stratify or units < len(patient_of):
        strata = strata_of(facts, info) if settings.stratify else {}
        drawn = draw_balanced_folds(patient_of, settings.folds, settings.seed, strata)
    else:
        drawn = draw_folds([*patient_of], settings.folds, settings.seed)
    return "the drawn splits", drawn


def given_splits(info: DatasetInfo, settings: SplitSettings) -> tuple[Split, ...]:
    """The folds of the file in `settings`, else the dataset's own; none where there are neither."""
    return read_splits(settings.file) if settings.file else info.splits


def nothing_held_out(split: Split) -> str:
    """What is said wherever a split has no case that judges."""
    cases = len(split.train)
    who = f"all {cases} labelled cases train" if cases > 1 else "the one labelled case trains"
    return f"{who} and none is held out (split.fold: all), so nothing is judged"


def patients(cases: Sequence[Case], settings: SplitSettings) -> dict[str, str]:
    """Labelled case → its patient, which is the case itself where nothing says more. Raises DataError."""
    labelled = {case.name: case.patient or case.name for case in cases if case.label is not None}
    if settings.group is None:
        return labelled
    try:
        return patients_in(labelled, settings.group)
    except ValueError as error:
        raise DataError(f"split.group {error}") from error


def strata_of(facts: Sequence[CaseFacts], info: DatasetInfo) -> dict[str, frozenset[str]]:
    """What each case should be spread over folds by: its labels, and how large its foreground is."""
    volumes = {
        case.name: {name: ml for name, ml in case.volumes_ml.items() if info.labels[name] != 0}
        for case in facts
    }
    by_size = sorted(volumes, key=lambda name: (sum(volumes[name].values()), name))
    size_class = {name: rank * SIZES // len(by_size) for rank, name in enumerate(by_size)}
    return {
        name: frozenset({label for label, ml in found.items() if ml > 0} | {f"size {size_class[name]}"})
        for name, found in volumes.items()
    }


def draw_folds(names: Sequence[str], folds: int, seed: int) -> tuple[Split, ...]:
    """k folds over sorted `names`; with nnU-Net's seed and number of folds, exactly nnU-Net's folds.

    That is scikit-learn's shuffled `KFold`: the first len(names) % folds folds hold out one case more.
    """
    names = sorted(names)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    held_out = [{names[i] for i in part} for part in np.array_split(order, folds)]
    return _splits(names, held_out)


def draw_balanced_folds(
    patient_of: Mapping[str, str], folds: int, seed: int, strata: Mapping[str, frozenset[str]]
) -> tuple[Split, ...]:
    """k folds that keep a patient together and have about as many cases, of each of the `strata`, each.

    Patients with most cases go first, then those that bring what is rarest, else in an order drawn by `seed`;
    each to the fold that has least of what it brings.
    """
    cases_of: dict[str, list[str]] = {}
    for name in sorted(patient_of):
        cases_of.setdefault(patient_of[name], []).append(name)
    drawn = [[*cases_of][i] for i in np.random.RandomState(seed).permutation(len(cases_of))]
    totals = Counter(what for name in patient_of for what in _brings(name, strata))
    held_out: list[set[str]] = [set() for _ in range(folds)]
    has: list[Counter[str]] = [Counter() for _ in range(folds)]
    brought = {p: Counter(w for name in cases_of[p] for w in _brings(name, strata)) for p in drawn}
    for patient in sorted(drawn, key=lambda p: (-len(cases_of[p]), min(totals[w] for w in brought[p]))):
        brings = brought[patient]
        cost = [sum(n * now[what] / totals[what] for what, n in brings.items()) for now in has]
        fold = min(range(folds), key=lambda i: (cost[i], len(held_out[i]), i))
        held_out[fold].update(cases_of[patient])
        has[fold].update(brings)
    return _splits(sorted(patient_of), held_out)


def _brings(name: str, strata: Mapping[str, frozenset[str]]) -> frozenset[str]:
    return strata.get(name, frozenset()) | {"any case"}


def _splits(names: Sequence[str], held_out: Sequence[set[str]]) -> tuple[Split, ...]:
    return tuple(
        Split(tuple(n for n in names if n not in out), tuple(n for n in names if n in out))
        for out in held_out
    )


def _check(split: Split, patient_of: Mapping[str, str], where: str) -> None:
    faults = []
    if unknown := sorted({*split.train, *split.validation} - {*patient_of}):
        faults.append(
            f"{where}: names cases that the dataset lacks or that have no label: {', '.join(unknown)}"
        )
    if both := sorted(set(split.train) & set(split.validation)):
        faults.append(
            f"{where}: cases both train and judge, which makes the result worthless: {', '.join(both)}"
        )
    train, judge = (
        {patient_of[n] for n in names if n in patient_of and n not in both}
        for names in (split.train, split.validation)
    )
    if shared := sorted(train & judge):
        faults.append(
            f"{where}: patients whose cases both train and judge: {', '.join(shared)}; move them to one side"
        )
    for what, names in (("train", split.train), ("val", split.validation)):
        if not names:
            unjudged = (
                ", or train on all cases and judge nothing: `split: {fold: all}`" if what == "val" else ""
            )
            faults.append(f"{where}: `{what}` is empty; give it at least one case{unjudged}")
    if faults:
        raise DataError(*faults)
