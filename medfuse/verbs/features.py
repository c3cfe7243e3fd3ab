"""`medfuse features`: activations of any layer or node of a trained run, case by case into a folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medfuse.core.errors import MedfuseError
from medfuse.core.files import remove_leftovers
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.infer.cases import find_inputs, left_out_of
from medfuse.infer.feature_files import Format, check_format
from medfuse.infer.features import Pool
from medfuse.infer.folder import refuse_to_replace_images, work_through
from medfuse.trained.loading import weights_file
from medfuse.trained.trained import case_progress
from medfuse.verbs.crews import ALONE, Workers
from medfuse.verbs.feature_maps import FeatureJob, HowFeatures, fleet_of
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
    workers: Workers = ALONE,
    reporter: Reporter,
) -> Result:
    """`layers` (names and globs) of every case in `inputs`, and manifest.json; finished cases are skipped.

    Layers of a backbone that the graph does not tap are tapped for this. Test-time mirroring and the runtime
    of `infer` play no part: maps are those of torch in float32. `workers`: who shares the cases.
    """
    if not layers:
        raise MedfuseError("--layers: name taps or nodes between commas, such as encoder.stages.3,decoded")
    if kind == "nifti" and pool != "none":
        raise MedfuseError(f"--format nifti: is for whole maps; leave out --pool {pool}, or use --format npz")
    check_format(kind)
    how = HowFeatures(
        weights=weights_file(weights, best=best).resolve(),
        layers=tuple(layers),
        pool=pool,
        kind=kind,
        overrides=tuple(overrides),
        device=device,
        overwrite=overwrite,
    )
    job = FeatureJob.of(how, trust)
    model = job.model
    places = local(inputs, reporter)
    cases = find_inputs(places, model.plan.channels, scans)
    for line in left_out_of(places, cases):
        reporter.say(line)

    model.tell_of_foreign(cases)

    refuse_to_replace_images(cases, lambda case: [output / name for name in job.files(case)], "feature map")
    for folder in {(output / name).parent for case in cases for name in job.files(case)}:
        remove_leftovers(folder)
    fleet = fleet_of(output, how, trust, workers) if workers.are_others else None
    with reporter.track(f"features of {len(cases)} cases", 100 * len(cases)) as advance:
        outcome = work_through(
            cases,
            job.save,
            job.facts,
            output,
            job.files,
            job.former,
            case_progress(reporter, advance),
            overwrite=overwrite,
            fleet=fleet,
        )
    return outcome_text(outcome, output)
