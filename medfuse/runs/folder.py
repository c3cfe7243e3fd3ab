"""A run folder: whether it holds weights, what else may be in it, and what a new training in it replaces."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from medfuse.core.errors import MedfuseError
from medfuse.core.files import reported
from medfuse.core.lock import locked
from medfuse.model.gate import FILES as GATE_FILES
from medfuse.runs.records import DATA, FINGERPRINT, LOCK, PINNED, PIPELINE, PLAN, RESOLVED, TRANSFER

ANOTHER_NAME = "give this run another name (--set name=…)"
FOLD_ALL = "fold_all"
"""In the folder of a pipeline's name: the run of the final model, as nnU-Net calls it."""
PROBE = ".probe-"
"""How the name of a folder begins that is gone when `medfuse probe` ends."""
WEIGHTS = "weights_last.safetensors"
VIEW = "view"
JUDGED = (
    "summary.json",
    "quality.json",
    "quality.html",
    "quality_out_of_fold.csv",
    "report.html",
    "postprocess.json",
    "overlap.json",
    "view.html",
    VIEW,
    *GATE_FILES,
)
"""What says how good the weights are, and so is of no use once they change."""

STATES = ("training_state.pt", "training_state.previous.pt")

_OF_ONE_TRAINING = (
    *STATES,
    WEIGHTS,
    "weights_best.safetensors",
    *JUDGED,
    "metrics.jsonl",
    "tensorboard",
    "precision.json",
    "frozen_maps.json",
    "teacher.json",
    *(PIPELINE, DATA, LOCK, PLAN, FINGERPRINT, RESOLVED, TRANSFER, PINNED),
)


def holds_weights(folder: Path) -> bool:
    """Whether anything has been trained here, so that the folder belongs to its pipeline and data.

    What a start leaves that was refused or stopped before its first weights binds nothing.
    """
    return has_state(folder) or any(folder.glob("weights_*.safetensors"))


def has_state(folder: Path) -> bool:
    """Whether there is anything to carry a training on from."""
    return any((folder / name).exists() for name in STATES)


def clear(folder: Path) -> None:
    """Remove all that one training left, what binds the folder first. Files of others stay, and label maps.

    Label maps in `predictions` are replaced as everywhere: those that medfuse wrote and nobody changed.
    """
    _remove(folder, _OF_ONE_TRAINING)


def forget_judgement(folder: Path) -> None:
    """Remove what was said of weights that are about to change, or are gone."""
    _remove(folder, JUDGED)


def _remove(folder: Path, names: Iterable[str]) -> None:
    with reported(folder):
        for name in names:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def fold_folders(folder: Path) -> list[Path]:
    """The runs of a cross-validation, by their fold; none where `folder` holds no such thing."""
    found = [path for path in folder.glob("fold_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def refuse_cross_validation(folder: Path) -> None:
    """A folder holds one run or the folds of one, as both would write the same files."""
    for fold in fold_folders(folder):
        if holds_weights(fold):
            raise MedfuseError(
                f"{folder} holds a cross-validation; carry it on with --folds, or give this run another name "
                "(--set name=…)"
            )
        with locked(fold, instead=ANOTHER_NAME):  # one may just be prepared
            pass


def refuse_single_run(folder: Path) -> None:
    """The reverse of `refuse_cross_validation`."""
    if holds_weights(folder):
        raise MedfuseError(
            f"{folder} holds the run of a single fold; give the cross-validation another name "
            "(--set name=…), or delete that folder"
        )
