"""Case after case into one folder: skip what is finished, survive what fails, write down what was done."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

import medfuse
from medfuse.api import Case
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import make_folder, write_json
from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue, map_values, members
from medfuse.core.prepared import Prepared
from medfuse.core.volumes import write_volume
from medfuse.infer.cases import output_name
from medfuse.infer.export import to_label_map
from medfuse.infer.postprocess import logit_shifts, tidy
from medfuse.infer.settings import InferSettings, PostprocessSettings
from medfuse.infer.sliding import Network, flip_combinations, predict_logits
from medfuse.infer.windows import plan_grid

log = logging.getLogger(__name__)

Work = Callable[[Case, Callable[[int, int], None]], dict[str, Any]]
"""Makes the files of a case, telling (windows done, windows in all); returns its entry in the manifest, with
`windows`, and `file` and `bytes`, or `files`: names → bytes where there are several."""


@dataclass(frozen=True)
class Progress:
    """Where the work stands: case `number` of `cases` (from 1), and `windows_done` of its `windows`."""

    case: str
    number: int
    cases: int
    state: Literal["predicting", "done", "skipped", "failed"] = "predicting"
    windows_done: int = 0
    windows: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of the cases, by name. `failed` holds the reasons."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: Mapping[str, str]
    manifest: Path


@dataclass(frozen=True)
class Recipe:
    """All that a label map depends on, apart from its images. While it stays, finished cases are skipped.

    weights: one hash per fold. labels: name → value, in the order of the network's classes; a region
    has several. region_order: where labels are regions, the value to write for each, later ones over earlier
    ones.
    """

    weights: tuple[str, ...]
    labels: Mapping[str, LabelValue]
    patch_size: tuple[int, ...]
    settings: InferSettings
    region_order: tuple[int, ...] = ()

    @property
    def written(self) -> tuple[int, ...]:
        """The value that is written for each of the network's outputs."""
        return self.region_order or map_values(self.labels.values())

    def facts(self) -> dict[str, Any]:
        regions = {"region_order": list(self.region_order)} if self.region_order else {}
        return {
            **regions,
            "weights": list(self.weights),
            "labels": {n: list(v) if isinstance(v, tuple) else v for n, v in self.labels.items()},
            "patch_size": list(self.patch_size),
            "settings": self.settings.model_dump(mode="json", exclude={"batch_size"}),
        }


def infer_cases(
    cases: Sequence[Case],
    *,
    prepare: Callable[[Case], Prepared],
    networks: Sequence[Network],
    recipe: Recipe,
    output: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Write a label map for every case into `output`, with the geometry of its image, and manifest.json.

    A case that is finished, from the same images and recipe, is skipped. One that fails is named with its
    reason and the rest go on. Raises OutputError before any work where `output` cannot be written or a
    label map would replace an image, and at once where the disk is full.
    """
    flip_combinations(recipe.settings.mirror, len(recipe.patch_size))
    refuse_to_replace_images(cases, lambda case: [output / output_name(case)])
    job = _Job(prepare, networks, recipe, output, device)
    return work_through(cases, job.infer, recipe.facts(), output, progress)


def work_through(
    cases: Sequence[Case],
    work: Work,
    facts: Mapping[str, Any],
    output: Path,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """`work` on every case that `output`/manifest.json does not list as finished under the same `facts`.

    A case that fails is named with its reason and the rest go on. Raises OutputError, as that concerns all.
    """
    manifest = _Manifest(make_folder(output) / "manifest.json", facts)
    last: list[Progress] = []
    for number, case in enumerate(cases, 1):
        here = Progress(case.name, number, len(cases))
        if manifest.has(case):
            last.append(replace(here, state="skipped"))
        else:
            last.append(_attempt(work, case, manifest, here, progress))
        progress(last[-1])
    manifest.finish()
    return Outcome(
        done=tuple(p.case for p in last if p.state == "done"),
        skipped=tuple(p.case for p in last if p.state == "skipped"),
        failed={p.case: p.reason for p in last if p.state == "failed"},
        manifest=manifest.path,
    )


def _attempt(
    work: Work, case: Case, manifest: _Manifest, here: Progress, progress: Callable[[Progress], None]
) -> Progress:
    """Work on one case and note what came of it. A full disk concerns every case, so OutputError passes."""
    progress(here)
    began, inputs = time.monotonic(), _files(case.images)
    try:
        entry = work(case, lambda done, of: progress(replace(here, windows_done=done, windows=of)))
    except OutputError:
        raise
    except Exception as error:
        reason = _reason(case, error)
        manifest.note_failure(case, reason)
        return replace(here, state="failed", reason=reason)
    seconds = round(time.monotonic() - began, 3)
    manifest.note(case, {**entry, "inputs": inputs, "written": _now(), "seconds": seconds})
    return replace(here, state="done", windows_done=entry["windows"], windows=entry["windows"])


@dataclass(frozen=True)
class _Job:
    """How one case becomes a label map."""

    prepare: Callable[[Case], Prepared]
    networks: Sequence[Network]
    recipe: Recipe
    output: Path
    device: torch.device | str

    def infer(self, case: Case, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Write the label map; return its entry in the manifest."""
        prepared = self.prepare(case)
        settings, labels = self.recipe.settings, self.recipe.labels
        logits = predict_logits(
            prepared.image,
            self.networks,
            patch_size=self.recipe.patch_size,
            classes=len(self.recipe.written),
            overlap=settings.overlap,
            batch_size=settings.batch_size,
            mirror=settings.mirror,
            device=self.device,
            progress=progress,
        )
        order, steps = self.recipe.region_order, settings.postprocess
        kind: Literal["classes", "regions"] = "regions" if order else "classes"
        if isinstance(steps, PostprocessSettings) and steps.threshold:
            regions = [name for name, value in labels.items() if value != 0]
            with torch.inference_mode():  # in place, as logits may be as large as memory allows
                logits -= logits.new_tensor(logit_shifts(steps, regions))[:, None, None, None]
        label_map = to_label_map(logits, prepared.geometry, self.recipe.written, kind)
        if isinstance(steps, PostprocessSettings):
            label_map = tidy(label_map, steps, labels, order, prepared.geometry.voxel_ml)
        path = self.output / output_name(case)
        write_volume(path, label_map, like=prepared.source)
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "windows": len(plan_grid(prepared.image.shape[1:], self.recipe.patch_size, settings.overlap)),
            "volumes_ml": volumes_ml(label_map, prepared.geometry, labels),
        }


def volumes_ml(
    label_map: npt.NDArray[Any], geometry: Geometry, labels: Mapping[str, LabelValue]
) -> dict[str, float]:
    """Millilitres of each label but the background (value 0), rounded to a microlitre."""
    values, counts = np.unique(label_map, return_counts=True)
    voxels = dict(zip(values.tolist(), counts.tolist()))
    return {
        name: round(sum(voxels.get(v, 0) for v in members(value)) * geometry.voxel_ml, 3)
        for name, value in labels.items()
        if value != 0
    }


class _Manifest:
    """manifest.json: what was made by which weights from what. It is written anew after every case.

    Entries of another recipe are dropped: every file that it lists belongs to the weights it names.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._folder = path.parent
        before = _read(path)
        same = all(before.get(key) == value for key, value in facts.items())
        cases = before["cases"] if same and "cases" in before else {}
        self._content: dict[str, Any] = {
            "medfuse": medfuse.__version__,
            "started": _now(),
            "finished": None,
            **facts,
            "cases": cases,
            "failed": {},
        }

    def has(self, case: Case) -> bool:
        """Whether the case's files are there, whole, and made from its images as they are now."""
        entry = self._content["cases"].get(case.name)
        if entry is None or entry["inputs"] != _files(case.images) or not entry["inputs"]:
            return False
        files = entry["files"] if "files" in entry else {entry["file"]: entry["bytes"]}
        return all(size_of(self._folder / name) == size for name, size in files.items())

    def note(self, case: Case, entry: Mapping[str, Any]) -> None:
        self._content["cases"][case.name] = entry
        write_json(self.path, self._content)

    def note_failure(self, case: Case, reason: str) -> None:
        self._content["cases"].pop(case.name, None)
        self._content["failed"][case.name] = reason
        write_json(self.path, self._content)

    def finish(self) -> None:
        self._content["finished"] = _now()
        write_json(self.path, self._content)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; -1 where there is neither."""
    if path.is_dir():
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.stat().st_size if path.is_file() else -1


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "medfuse" not in content:
        raise OutputError(
            f"{path}: is not a manifest that medfuse wrote; move it away, or choose another output folder"
        )
    return content


def _files(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Each file with its size and time, by which a changed input is noticed; empty where one is missing."""
    try:
        return [
            {"file": str(p.absolute()), "bytes": p.stat().st_size, "modified_ns": p.stat().st_mtime_ns}
            for p in paths
        ]
    except OSError:
        return []


def refuse_to_replace_images(
    cases: Sequence[Case], files: Callable[[Case], Sequence[Path]], what: str = "label map"
) -> None:
    """Raises OutputError where one of the `files` that a case is to get is an image of any case."""
    images = {image.resolve() for case in cases for image in case.images}
    if clashes := [path for case in cases for path in files(case) if path.resolve() in images]:
        raise OutputError(
            *(f"{path}: the {what} would replace an image; choose another output folder" for path in clashes)
        )


def _reason(case: Case, error: Exception) -> str:
    if isinstance(error, MedfuseError):
        return "; ".join(error.lines)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "needs more memory than is free; close other programs, or use a machine with more"
    log.error("case %s failed unexpectedly", case.name, exc_info=error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (please report it)"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
