"""`medfuse features`: activations of any layer or node of a trained run, case by case into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medfuse.api import Case, FeatureInfo
from medfuse.core.errors import MedfuseError
from medfuse.core.files import remove_leftovers
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.infer.cases import find_inputs, left_out_of
from medfuse.infer.feature_files import FORMATS, Format, check_format, file_names, write_maps
from medfuse.infer.features import FeatureMap, Pool, feature_maps
from medfuse.infer.folder import refuse_to_replace_images, work_through
from medfuse.model.engines import whole_engine
from medfuse.model.selection import select
from medfuse.trained.loading import load_trained, weights_file
from medfuse.trained.trained import Trained, case_progress
from medfuse.verbs.infer import outcome_text
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.dicom.web import local


def save_features(
    weights: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    layers: Sequence[str],
    pool: Pool = "none",
    kind: Format = "npz",
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    trust: str | Iterable[str] = (),
    scans: Scans = ALL,
    reporter: Reporter,
) -> Result:
    """`layers` (names and globs) of every case in `inputs`, and manifest.json; finished cases are skipped.

    Layers of a backbone that the graph does not tap are tapped for this. Test-time mirroring and the runtime
    of `infer` play no part: maps are those of torch in float32.
    """
    if not layers:
        raise MedfuseError("--layers: name taps or nodes between commas, such as encoder.stages.3,decoded")
    if kind == "nifti" and pool != "none":
        raise MedfuseError(f"--format nifti: is for whole maps; leave out --pool {pool}, or use --format npz")
    check_format(kind)
    model = load_trained(
        [weights_file(weights, best=best)], device=device, overrides=overrides, maps=layers, trust=trust
    )
    assert model.graph is not None, "what was exported is refused where maps are wanted"
    chosen = select(model.graph, layers)
    names = [f.name for f in chosen]
    places = local(inputs, reporter)
    cases = find_inputs(places, model.plan.channels, scans)
    for line in left_out_of(places, cases):
        reporter.say(line)

    model.tell_of_foreign(cases)

    def files(case: Case) -> list[str]:
        return file_names(case.name, names, kind)

    def former(case: Case) -> dict[str, str]:
        others = (name for other in FORMATS for name in file_names(case.name, names, other))
        return dict.fromkeys([name for name in others if name not in files(case)], "")

    refuse_to_replace_images(cases, lambda case: [output / name for name in files(case)], "feature map")
    for folder in {(output / name).parent for case in cases for name in file_names(case.name, names, kind)}:
        remove_leftovers(folder)
    settings = model.settings
    facts = {
        "weights": list(model.hashes),
        "layers": names,
        "pool": pool,
        "format": kind,
        "patch_size": list(model.plan.patch_size),
        "overlap": settings.overlap,
    }
    job = _Job(model, chosen, pool, kind)
    with reporter.track(f"features of {len(cases)} cases", 100 * len(cases)) as advance:
        progress = case_progress(reporter, advance)
        outcome = work_through(cases, job.save, facts, output, files, former, progress, overwrite=overwrite)
    return outcome_text(outcome, output)


@dataclass(frozen=True)
class _Job:
    """How one case becomes files."""

    model: Trained
    layers: Sequence[FeatureInfo]
    pool: Pool
    kind: Format

    def save(self, case: Case, folder: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Write the maps; return what the manifest says of them."""
        model, windows = self.model, 0

        def count(done: int, of: int) -> None:
            nonlocal windows
            windows = of
            progress(done, of)

        maps = feature_maps(
            model.prepare(case),
            self.network,
            self.layers,
            patch_size=model.plan.patch_size,
            overlap=model.settings.overlap,
            batch_size=model.settings.batch_size,
            pool=self.pool,
            device=model.device,
            progress=count,
        )
        write_maps(folder, case.name, maps, self.kind)
        engine = whole_engine({"runtime": "torch", "precision": "fp32"}, model.device)
        return {
            "engines": [engine],
            "windows": windows,
            "layers": {m.name: _facts(m) for m in maps},
        }

    def network(self, windows: Tensor) -> Mapping[str, Tensor]:
        made = self.model.segmenter()(windows, (), tuple(f.name for f in self.layers))
        maps: Mapping[str, Tensor] = made[2]
        return maps


def _facts(one: FeatureMap) -> dict[str, Any]:
    return {
        "shape": list(one.values.shape),
        "stride": list(one.stride),
        "spacing_mm": list(one.spacing_mm),
        "affine": one.affine.tolist(),
    }
