"""Which cases train and which judge: given folds, or folds drawn by seed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medfuse.api import DatasetInfo, Split
from medfuse.core.errors import DataError
from medfuse.data.listing import read_splits
from medfuse.data.settings import SplitSettings


def choose_split(info: DatasetInfo, settings: SplitSettings) -> Split:
    """Fold `settings.fold` of the file in `settings`, else of the dataset's own folds, else of drawn ones.

    Raises DataError for a fold that does not exist, and for folds that do not fit the dataset.
    """
    labelled = sorted(case.name for case in info.cases if case.label is not None)
    source = settings.file or Path("the dataset's own splits")
    splits = read_splits(settings.file) if settings.file else info.splits
    if not splits:
        if len(labelled) < settings.folds:
            raise DataError(
                f"split.folds is {settings.folds}, but the dataset has {len(labelled)} labelled cases; "
                "use fewer folds, or give `split.file`"
            )
        source, splits = Path("the drawn splits"), draw_folds(labelled, settings.folds, settings.seed)
    if settings.fold >= len(splits):
        raise DataError(
            f"split.fold is {settings.fold}, but {source} has {len(splits)} folds, counted from 0"
        )
    split = splits[settings.fold]
    _check(split, set(labelled), f"{source}, fold {settings.fold}")
    return split


def draw_folds(names: Sequence[str], folds: int, seed: int) -> tuple[Split, ...]:
    """k folds over sorted `names`; with nnU-Net's seed and number of folds, exactly nnU-Net's folds.

    That is scikit-learn's shuffled `KFold`: the first len(names) % folds folds hold out one case more.
    """
    names = sorted(names)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    held_out = [set(part.tolist()) for part in np.array_split(order, folds)]
    return tuple(
        Split(
            tuple(name for i, name in enumerate(names) if i not in out),
            tuple(name for i, name in enumerate(names) if i in out),
        )
        for out in held_out
    )


def _check(split: Split, labelled: set[str], where: str) -> None:
    faults = []
    if unknown := sorted({*split.train, *split.validation} - labelled):
        faults.append(
            f"{where}: names cases that the dataset lacks or that have no label: {', '.join(unknown)}"
        )
    if both := sorted(set(split.train) & set(split.validation)):
        faults.append(
            f"{where}: cases both train and judge, which makes the result worthless: {', '.join(both)}"
        )
    for what, names in (("train", split.train), ("val", split.validation)):
        if not names:
            faults.append(f"{where}: `{what}` is empty; give it at least one case")
    if faults:
        raise DataError(*faults)
