"""What a path is a model of: a run, the folds of one, weights, what was exported, a bundle, a zip file.

Headers and records are read, within limits; nothing is unpickled, imported or called.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import medfuse
from medfuse.core.errors import CheckpointError, OutputError
from medfuse.core.files import file_hash, no_file
from medfuse.core.json_text import parse_json, read_json, shortened, validated
from medfuse.core.text import listed, typed
from medfuse.data.plan import DataPlan, is_ct
from medfuse.data.plan_facts import NormalizationFacts, SeenFacts
from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.model.hub import PREFIX, fetch_shared
from medfuse.runs.folder import FOLD_ALL, WEIGHTS, fold_folders
from medfuse.sharing.description import FILE, Channel, Description, Label, Training, Windows
from medfuse.sharing.folders import SUMS, changed
from medfuse.sharing.records import (
    score_of,
    sources_of,
    steps_in,
    taught_by,
    training_of,
    unfinished,
    versions_of,
)
from medfuse.trained.facts import plan_of, read_said
from medfuse.trained.loading import EXPORTED, shared_weights

ABOUT = "about"
"""In the facts of a weights file or of an exported one: its description."""
MOST_BYTES = 16 * 2**20  # of a description in a zip file
TAKEN = (
    "give a run folder such as runs/liver, weights that medfuse trained, what `medfuse export` wrote, or a "
    "MONAI bundle"
)
_REMEDY = "export the model again"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_IMPORTED = {"nnunet_epochs": "nnU-Net", "bundle": "a MONAI bundle"}
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".tar")


def describe(path: Path) -> Description:
    """What `path` is a model of. Raises CheckpointError, in a line, for what is none."""
    if str(path).startswith(PREFIX):
        return _read(fetch_shared(path.as_posix(), FILE))
    if kind := no_file(path):
        raise CheckpointError(f"{path}: is {kind}, and no model; {TAKEN}")
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # such as a name that is too long, or has a NUL
        raise CheckpointError(f"{shortened(str(path))}: cannot be read ({error}); {TAKEN}") from None
    if not is_there:
        raise CheckpointError(f"{path}: no such file or folder; {TAKEN}")
    try:
        return _of_folder(path) if is_folder else _of_file(path)
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); see who may read it") from None


def _of_folder(path: Path) -> Description:
    if (path / FILE).is_file():
        return _with_changes(path, _read(path / FILE))
    own = sorted(path.glob("weights_*.safetensors"))
    if own:
        return describe_run(path, own[-1] if path / WEIGHTS not in own else path / WEIGHTS)
    folds = [fold for fold in fold_folders(path) if (fold / WEIGHTS).is_file()]
    if len(folds) == 1:
        return describe_run(folds[0], folds[0] / WEIGHTS)
    if folds:
        return _of_folds(path, folds)
    if (path / FOLD_ALL / WEIGHTS).is_file():
        return describe_run(path / FOLD_ALL, path / FOLD_ALL / WEIGHTS)
    if (path / "configs" / "metadata.json").is_file():
        return _of_bundle(path)
    if (path / "plans.json").is_file():
        raise _of_nnunet(path)
    raise CheckpointError(f"{path}: holds no model that medfuse knows; {TAKEN}")


def _of_nnunet(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: is a model of nnU-Net; run `medfuse import-nnunet {typed(path)} -o runs/NAME` first, and "
        "ask of that run"
    )


def _with_changes(path: Path, said: Description) -> Description:
    """The description of a shared model, with a note where its files are no longer what they were."""
    try:
        other = changed(path)
    except OutputError as error:
        return said.model_copy(update={"notes": (*said.notes, error.lines[0])})
    if not other:
        return said
    more = f"{listed(other, 3)}: not as it was when the model was exported (see {SUMS})"
    return said.model_copy(update={"notes": (*said.notes, more)})


def _of_file(path: Path) -> Description:
    known: Mapping[str, Callable[[Path], Description]] = {
        ".safetensors": _of_weights,
        ".zip": _of_zip,
        ".json": _read,
        **dict.fromkeys(EXPORTED.values(), _of_export),
    }
    if path.suffix in known:
        return known[path.suffix](path)
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        return _of_export(path.with_suffix(".xml"))
    if path.suffix in _PICKLES:
        if beside := _beside(path):
            return beside
        raise CheckpointError(
            f"{path}: is a checkpoint of other tools, which says nothing of its model that can be read "
            "without running it; turn it into a run by `medfuse import-nnunet` or `import-bundle`, or see "
            "what `medfuse init DATA --from` makes of it"
        )
    raise CheckpointError(f"{path}: is no model that medfuse knows; {TAKEN}")


# ---- runs and weights


def describe_run(folder: Path, weights: Path) -> Description:
    """The weights of a run folder, with all that its records say. Raises CheckpointError."""
    described, said = _said_by(weights)
    final = folder.name == FOLD_ALL
    return described.model_copy(
        update={
            "kind": "a final model, trained on all cases" if final else "a run of medfuse",
            "training": training_of(folder, said),
            "score": score_of(folder) if weights.name == WEIGHTS else None,
            "sources": sources_of(folder),
            "versions": versions_of(folder) or described.versions,
            "notes": (*described.notes, *unfinished(folder), *taught_by(folder)),
        }
    )


def _of_folds(path: Path, folds: Sequence[Path]) -> Description:
    """The folds of a cross-validation, which `medfuse infer` averages."""
    first, *others = (describe_run(fold, fold / WEIGHTS) for fold in folds)
    each = [first, *others]
    minutes = [one.training.minutes for one in each if one.training.minutes is not None]
    trained = first.training
    cases = None if trained.cases is None or trained.held_out is None else trained.cases + trained.held_out
    final = path / FOLD_ALL / WEIGHTS
    beside = (
        (f"{FOLD_ALL} beside the folds is one network that all cases trained",) if final.is_file() else ()
    )
    training = trained.model_copy(
        update={
            "cases": cases,
            "held_out": None,
            "minutes": round(sum(minutes), 2) if minutes else None,
            "folds": len(folds),
            "fold": None,
        }
    )
    return first.model_copy(
        update={
            "kind": f"a cross-validation of {len(folds)} folds, which are averaged",
            "weights": tuple(digest for one in each for digest in one.weights),
            "training": training,
            "score": score_of(path),
            "sources": tuple(dict.fromkeys(source for one in each for source in one.sources)),
            "notes": (*dict.fromkeys(note for one in each for note in one.notes), *beside),
        }
    )


def _of_weights(path: Path) -> Description:
    if beside := _beside(path):
        return beside
    if path.parent.joinpath("lock.json").is_file() and path.name.startswith("weights_"):
        return describe_run(path.parent, path)
    return _said_by(path)[0]


def _beside(path: Path) -> Description | None:
    """The description of the shared model that a file is the weights of; None where it is of none."""
    for folder in (path.parent, path.parent.parent):
        if (folder / FILE).is_file() and shared_weights(folder) == path:
            return _with_changes(folder, _read(folder / FILE))
    return None


def _said_by(path: Path) -> tuple[Description, dict[str, Any]]:
    """What a weights file says of itself: its description, and its facts. Raises CheckpointError."""
    from medfuse.model.weights import look_at_weights

    facts, shapes = look_at_weights(path)
    counted = sum(
        math.prod(shape) for name, shape in shapes.items() if name.rpartition(".")[2] not in _STATISTICS
    )
    described = of_facts(path, facts, kind="weights of medfuse", weights=(file_hash(path),))
    return described.model_copy(update={"parameters": counted}), facts


def of_facts(
    path: Path, facts: Mapping[str, Any], *, kind: str, weights: tuple[str, ...] = ()
) -> Description:
    """What the facts of a file say: its description, where it carries one. Raises CheckpointError."""
    if ABOUT in facts:
        carried = _validated(facts[ABOUT], f"{path}: its description")
        return carried.model_copy(update={"kind": kind, "weights": carried.weights or weights})
    said = read_said(path, facts)
    trained = facts.get("trained")
    own = trained if isinstance(trained, Mapping) else {}
    made = describe_plan(plan_of(path, said), name=said.name or path.stem, windows=said.infer)
    return made.model_copy(
        update={
            "kind": kind,
            "medfuse": said.medfuse or medfuse.__version__,
            "weights": weights,
            "training": Training(fold=said.fold, steps=steps_in(facts)),
            "imported": next((_came(what, own) for what in _IMPORTED if what in own), ""),
            "versions": {"medfuse": said.medfuse} if said.medfuse else {},
        }
    )


def _came(what: str, own: Mapping[str, Any]) -> str:
    more = f": {shortened(str(own[what]), 100)}" if what == "bundle" else ""
    return f"{_IMPORTED[what]}{more}"


def describe_plan(plan: DataPlan, *, name: str, windows: Mapping[str, Any]) -> Description:
    """What a data plan says of a model."""
    seen = plan.seen.modalities if plan.seen else ()
    modalities = [one[0] if len(one) == 1 else "" for one in seen]
    modalities += [""] * (len(plan.channels) - len(modalities))
    return Description(
        medfuse=medfuse.__version__,
        name=name,
        kind="",
        dims=2 if len(plan.patch_size) == 2 else 3,
        labels=tuple(
            Label(
                name=entry.name,
                value=entry.value,
                values=entry.members,
                color=entry.color,
                code=str(entry.code or ""),
                kind=str(entry.kind),
                side=str(entry.side or ""),
                within=str(entry.within or ""),
            )
            for entry in plan.entries
        ),
        regions=bool(plan.region_order),
        channels=tuple(
            Channel(
                name=channel,
                modality=modality or ("CT" if is_ct(channel) else ""),
                normalization=NormalizationFacts(**asdict(how)),
            )
            for channel, modality, how in zip(plan.channels, modalities, plan.normalization)
        ),
        spacing_mm=plan.spacing_mm,
        patch_size=plan.patch_size,
        windows=_windows(windows),
        cascade=_cascade(plan),
        seen=SeenFacts(**asdict(plan.seen)) if plan.seen else None,
    )


def _cascade(plan: DataPlan) -> str:
    """What the second stage of a cascade takes of the first; nothing for any other network."""
    parts = []
    if focus := plan.focus:
        parts.append(
            f"runs windows within {focus.margin_mm:g} mm of where its first stage finds anything "
            f"(probability {focus.threshold:g}), {focus.looked_at:.1%} of the volume in training"
        )
    if plan.before:
        parts.append("is shown the label map of its first stage")
    return "; ".join(parts)


def _windows(said: Mapping[str, Any]) -> Windows:
    known = {key: said[key] for key in Windows.model_fields if key in said}
    where = "what it says of its windows"
    if known.get("overlap", "auto") == "auto":
        known["overlap"] = USUAL_OVERLAP
    return validated(Windows, known, where, raises=CheckpointError, remedy=_REMEDY)


# ---- what was exported, and what others wrote


def _of_export(path: Path) -> Description:
    ending = path.suffix
    if ending == EXPORTED["torch"]:
        from medfuse.model.archive import plain_archive

        facts = plain_archive(path)[1]
    elif ending == EXPORTED["onnx"]:
        from medfuse.model import onnx

        facts = onnx.load_facts(path)
    else:
        from medfuse.model import openvino

        facts = openvino.load(path)[1]
    name = next(name for name, own in EXPORTED.items() if own == ending)
    shown = {"onnx": "ONNX", "openvino": "OpenVINO", "torch": "torch"}[name]
    own = str(facts.get("weights", ""))
    weights = (own,) if len(own) == 64 else ()
    return of_facts(path, facts, kind=f"a network exported to {shown}", weights=weights)


def _of_zip(path: Path) -> Description:
    """The description in a zip file, or the bundle that it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == FILE]
            found.sort(key=lambda info: info.filename.count("/"))
            if not found and any(name.endswith("plans.json") for name in archive.namelist()):
                raise _of_nnunet(path)
            if found:
                if found[0].file_size > MOST_BYTES:
                    raise CheckpointError(f"{path}: its {FILE} is too large to be right; {_REMEDY}")
                content = archive.read(found[0])
                where = f"{path}: {FILE}"
                said = parse_json(content, where, raises=CheckpointError, remedy=_REMEDY)
                return _validated(said, where)
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a zip file ({shortened(str(error), 120)}); copy it again, or "
            "unzip it and give the folder"
        ) from error
    return _of_bundle(path)


def _of_bundle(path: Path) -> Description:
    """A bundle that somebody else made, as its configuration says it."""
    from medfuse.imports.bundle import read_bundle

    with read_bundle(path, said_alone=True) as bundle:
        made = describe_plan(
            bundle.plan,
            name=bundle.name,
            windows={"overlap": bundle.overlap, "stepped": bundle.stepped},
        )
        weights = (file_hash(bundle.weights),) if bundle.weights.is_file() else ()
        notes = tuple(shortened(note, 500) for note in bundle.notes)
        more = ("its licence is in LICENSE",) if (bundle.folder / "LICENSE").is_file() else ()
    return made.model_copy(
        update={"kind": "a MONAI bundle of others", "weights": weights, "notes": (*more, *notes)}
    )


def _read(path: Path) -> Description:
    said = read_json(path, raises=CheckpointError, remedy=_REMEDY, most_bytes=MOST_BYTES)
    return _validated(said, str(path))


def _validated(said: Any, where: str) -> Description:
    return validated(Description, said, where, raises=CheckpointError, remedy=_REMEDY)
