"""`medfuse rank`: which scans of a pool to annotate next, and label maps to begin with."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import medfuse
from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.files import write_text
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.seal import refuse_others, write_own_json
from medfuse.core.storage import is_remote
from medfuse.core.text import aligned
from medfuse.infer.manifest import NAME, Entry, read_manifest
from medfuse.infer.table import is_table
from medfuse.model.plan import IMAGE
from medfuse.quality.ranking import doubt, in_turn
from medfuse.runs.folder import fold_folders
from medfuse.runs.records import DATA, TrainedOn, read_record
from medfuse.trained.loading import graph_of, weights_file
from medfuse.verbs.feature_maps import FeatureJob, HowFeatures
from medfuse.verbs.features import save_features
from medfuse.verbs.infer import infer_volumes
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.dicom.web import is_remote as is_web
from medfuse.volumes.read import read_labels

Cost = Literal["cases", "slices"]

JSON, CSV = "ranking.json", "ranking.csv"
_COLUMNS = ("place", "case", "doubt", "by", "novelty", "cost", "image")
_FEW = 20


def rank_pool(
    weights: Path,
    inputs: Sequence[str | Path],
    output: Path,
    *,
    number: int = _FEW,
    labelled: Sequence[Path] = (),
    cost: Cost = "cases",
    layer: str = "",
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    trust: str | Iterable[str] = (),
    scans: Scans = ALL,
    reporter: Reporter,
) -> Result:
    """Infer `inputs` into `output`, and write ranking.csv and ranking.json there: `number` cases in the order
    in which to annotate them, then the others.

    labelled: scans that are annotated already, whose likes add little. layer: the map that tells scans apart;
    the coarsest that is tapped if not given. Raises MedfuseError.
    """
    _refuse_tables((*inputs, *labelled))
    refuse_others(output / JSON, overwrite=overwrite)
    how: dict[str, Any] = {"best": best, "device": device, "overwrite": overwrite, "trust": trust}
    how |= {"scans": scans, "reporter": reporter}
    overrides = tuple(overrides)
    _refuse_layer(weights, layer, how)
    known = _vectors(weights, labelled, output / "features_labelled", layer, how) if labelled else {}
    made = infer_volumes([weights], inputs, output, overrides=overrides, **how)
    left_out = {**made.values["failed"], **made.values["left"]}
    done = {*made.values["written"], *made.values["finished_already"]}
    before, content = read_manifest(output / NAME)
    entries = {name: before.cases[name] for name in sorted(done & before.cases.keys())}
    if not entries:
        raise DataError(*(f"{name}: {reason}" for name, reason in left_out.items()), "no case can be ranked")
    vectors = _vectors(weights, inputs, output / "features", layer, how)
    doubts = {name: doubt(content["cases"][name].get("quality", {})) for name in entries}
    costs = {name: _slices(output, entry) if cost == "slices" else 1.0 for name, entry in entries.items()}
    order, novelty = in_turn(
        [doubts[name][0] for name in entries],
        _table(vectors, [*entries]),
        [*costs.values()],
        known=_table(known, [*known], like=vectors),
        number=number,
    )
    names = [*entries]
    rest = sorted(
        {*range(len(names))} - {*order}, key=lambda i: (-doubts[names[i]][0] * novelty[i], names[i])
    )
    rows = [
        _row(place, name, doubts[name], novelty[i], costs[name], entries[name])
        for place, i in enumerate([*order, *rest], 1)
        for name in [names[i]]
    ]
    _write(output, rows, len(order))
    annotated = _annotated(weights, entries)
    return Result(
        "\n".join([_text(rows, len(order), left_out, output), *_annotated_text(annotated, weights)]),
        {
            "output": output,
            "chosen": rows[: len(order)],
            "others": rows[len(order) :],
            "left_out": left_out,
            "annotated": annotated,
        },
        code=made.code,
        rows=lambda: rows,
    )


def _refuse_tables(places: Sequence[str | Path]) -> None:
    """Raises DataError for what is no scan or folder here, before anything is inferred."""
    if found := [place for place in places if is_table(place) or (is_remote(place) and not is_web(place))]:
        remedy = "give scans and folders of scans on this machine"
        raise DataError(*(f"{place}: is not taken by rank; {remedy}" for place in found))


def _refuse_layer(weights: Path, layer: str, how: Mapping[str, Any]) -> None:
    """Raises MedfuseError where the network has no such map, before anything is inferred."""
    if layer:
        source = weights_file((fold_folders(weights) or [weights])[0], best=how["best"])
        FeatureJob.of(HowFeatures(weights=source, layers=(layer,), device=how["device"]), how["trust"])


def _annotated(weights: Path, entries: Mapping[str, Entry]) -> list[str]:
    """Cases whose images the run has with a label: what it was trained on, and what judged it."""
    own = weights if weights.is_dir() else weights.parent
    files = [folder / DATA for folder in fold_folders(weights) or [own]]
    cases = [case for file in files if file.is_file() for case in read_record(TrainedOn, file).cases.values()]
    known = {image for case in cases if case.label for image in case.images}
    return [
        name for name, entry in entries.items() if any(one.get("sha256") in known for one in entry.inputs)
    ]


def _annotated_text(names: Sequence[str], weights: Path) -> list[str]:
    if not names:
        return []
    some = ", ".join(names[:3]) + (f", … {len(names) - 3} more" if len(names) > 3 else "")
    are = "is" if len(names) == 1 else "are"
    return [f"{len(names)} {are} annotated already, as {weights} has a label of them: {some}"]


def _vectors(
    weights: Path, inputs: Sequence[str | Path], folder: Path, layer: str, how: Mapping[str, Any]
) -> dict[str, npt.NDArray[Any]]:
    """Case → the mean over its voxels of each channel of a map; nothing where the model has no maps."""
    source = weights_file((fold_folders(weights) or [weights])[0], best=how["best"])
    try:
        graph = graph_of(source, how["trust"])
    except MedfuseError as error:
        if layer:
            raise
        how["reporter"].say(f"scans are not told apart by maps: {error.lines[0]}")
        return {}
    taps = [feature for name, feature in graph.features.items() if name != IMAGE]
    chosen = layer or max(taps, key=lambda feature: feature.coarseness).name
    places = [Path(one) for one in inputs]
    save_features(source, places, folder, layers=[chosen], pool="mean", **how)
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            key = next(name for name in file.files if name == chosen or not name.startswith("meta/"))
            found[path.stem] = np.asarray(file[key], np.float64).ravel()
    return found


def _table(
    vectors: Mapping[str, npt.NDArray[Any]],
    names: Sequence[str],
    *,
    like: Mapping[str, npt.NDArray[Any]] | None = None,
) -> npt.NDArray[Any]:
    """(cases, channels); a case without a vector has that of the mean."""
    every = [*(like or vectors).values()]
    if not every:
        return np.zeros((len(names), 0))
    mean = np.mean(every, axis=0)
    return np.array([vectors.get(name, mean) for name in names]).reshape(len(names), len(mean))


def _slices(output: Path, entry: Entry) -> float:
    """How many slices across the thickest axis hold a label: what there is to correct; 1 at least."""
    for name in entry.known():
        try:
            volume = read_labels(output / name)
        except MedfuseError:  # of a format that is no volume
            continue
        axis = int(np.argmax(volume.geometry.spacing_mm))
        there = (volume.array != 0).any(axis=tuple(a for a in range(3) if a != axis))
        return float(max(1, int(there.sum())))
    return 1.0


def _row(
    place: int, name: str, doubted: tuple[float, str], novelty: float, cost: float, entry: Entry
) -> dict[str, Any]:
    image = entry.inputs[0]["file"] if entry.inputs else ""
    values = (place, name, round(doubted[0], 6), doubted[1], round(novelty, 6), cost, image)
    return dict(zip(_COLUMNS, values, strict=True))


def _write(output: Path, rows: Sequence[Mapping[str, Any]], number: int) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(output / CSV, text.getvalue())
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()
    content = {"medfuse": medfuse.__version__, "number": number, "cases": list(rows), "csv_sha256": digest}
    write_own_json(output / JSON, content)


def _text(rows: Sequence[Mapping[str, Any]], number: int, left_out: Mapping[str, str], output: Path) -> str:
    shown = rows[: min(number, _FEW)]
    table = [("", "case", "doubt", "novelty", "cost"), *map(_cells, shown)]
    lines = [f"{len(rows)} cases ranked, {number} to annotate next, by {_by(rows)}:", aligned(table)]
    if number > len(shown):
        lines.append(f"and {number - len(shown)} more in {output / CSV}")
    if left_out:
        lines += [f"{len(left_out)} are not ranked:", *(f"  {n}: {reason}" for n, reason in left_out.items())]
    return "\n".join([*lines, f"ranking: {output / CSV}", f"label maps to begin with: {output}"])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (f"{row['doubt']:.3f}", f"{row['novelty']:.2f}", f"{row['cost']:g}")
    return (str(row["place"]), row["case"], *numbers)


def _by(rows: Sequence[Mapping[str, Any]]) -> str:
    words = {
        "expected": "the Dice that is expected",
        "folds": "how the networks agree",
        "flips": "how the mirrored passes agree",
    }
    words |= {"heads": "how the heads agree", "entropy": "the entropy on the surface"}
    found = [*dict.fromkeys(words[row["by"]] for row in rows if row["by"] in words)]
    return " or ".join(found) or "what was found"
