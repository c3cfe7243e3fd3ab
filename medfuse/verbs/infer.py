"""`medfuse infer`: label maps of new scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case
from medfuse.core.errors import OutputError
from medfuse.core.memory import parse_bytes
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.runs.models import load_model
from medfuse.trained.trained import Trained
from medfuse.verbs.crews import ALONE, Workers
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.dicom.web import address_of, is_remote, local
from medfuse.volumes.endings import ending

if TYPE_CHECKING:
    from medfuse.infer.ledger import Outcome
    from medfuse.infer.probabilities import ProbabilityFormat
    from medfuse.volumes.dicom.seg import SegKind


def infer_volumes(
    weights: Sequence[Path],
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    max_memory: str | None = None,
    probabilities: ProbabilityFormat | None = None,
    overwrite: bool = False,
    trust: str | Iterable[str] = (),
    scans: Scans = ALL,
    strict: bool = False,
    formats: Sequence[str] = (),
    seg_type: SegKind = "labelmap",
    statistics: bool = False,
    store: bool = False,
    workers: Workers = ALONE,
    shard: tuple[int, int] | None = None,
    reporter: Reporter,
) -> Result:
    """Label maps of every volume in `inputs`, in `max_memory` (such as 4GiB) above the loaded model.

    What medfuse did not write into `output`, or somebody changed, stays unless `overwrite`. `scans`: which
    DICOM series are meant. What else stands in `inputs` is told. `strict`: whether images that are unlike
    those of training fail. `formats`: of label maps, where not that of each image.
    `statistics`: whether statistics.json and statistics.csv are written too. `workers`: who
    shares the cases; those of this machine have each a part of its cores and of `max_memory`.
    `shard`: only this part (from 0) of so many, beside other processes anywhere that do the other parts.

    What is fetched from a DICOMweb server is stored there again with `store`, as DICOM segmentations, and at
    another server where that is the `output`.
    """
    from medfuse.infer.formats import formats_of
    from medfuse.verbs.storing import Storing

    storing = Storing.of(output, inputs, formats_of(formats), store=store)
    names, output = storing.formats, storing.folder
    workers.plugin()  # before anything is read
    limit = parse_bytes(max_memory) if max_memory is not None else None
    if ending(output) and not output.is_dir():
        raise OutputError(f"{output}: is the name of an image; --output is the folder for the label maps")
    model, cases = _model_and_cases(weights, inputs, overrides, best, device, trust, scans, reporter)
    from medfuse.infer.shards import Shard
    from medfuse.verbs.work import How, fleet_of

    how = How(
        weights=tuple(weights),
        overrides=tuple(overrides),
        best=best,
        device=device,
        max_memory=limit,
        probabilities=probabilities,
        formats=tuple(names),
        seg_type=seg_type,
        strict=strict,
        overwrite=overwrite,
    )
    outcome = model.infer(
        cases,
        output,
        reporter,
        max_memory=limit,
        probabilities=probabilities,
        overwrite=overwrite,
        strict=strict,
        formats=names,
        seg_type=seg_type,
        statistics=statistics,
        fleet=fleet_of(output, how, trust, workers) if workers.are_others else None,
        shard=None if shard is None else Shard(*shard),
    )
    return storing.finish(outcome_text(outcome, output), outcome, cases, reporter)


def explain_volumes(
    weights: Sequence[Path],
    inputs: Sequence[str | Path],
    *,
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    max_memory: str | None = None,
    probabilities: ProbabilityFormat | None = None,
    trust: str | Iterable[str] = (),
    scans: Scans = ALL,
    strict: bool = False,
    formats: Sequence[str] = (),
    seg_type: SegKind = "labelmap",
    reporter: Reporter,
) -> Result:
    """What `infer_volumes` would take: windows, time and memory of every case. Writes nothing.

    It has failed where a case cannot be done.
    """
    from medfuse.infer.formats import formats_of

    names = formats_of(formats)
    limit = parse_bytes(max_memory) if max_memory is not None else None
    model, cases = _model_and_cases(weights, inputs, overrides, best, device, trust, scans, reporter)
    plans = model.plans(
        cases,
        limit,
        probabilities=probabilities is not None,
        strict=strict,
        formats=names,
        seg_type=seg_type,
    )
    return Result(plans.text(), plans.values(), code=2 if plans.faults else 0)


def _model_and_cases(
    weights: Sequence[Path],
    inputs: Sequence[str | Path],
    overrides: Iterable[str],
    best: bool,
    device: str,
    trust: str | Iterable[str],
    scans: Scans,
    reporter: Reporter,
) -> tuple[Trained, list[Case]]:
    from medfuse.infer.cases import find_inputs, left_out_of, refuse_missing

    refuse_missing([Path(place) for place in inputs if not _is_address(place)])
    model = load_model(weights, overrides=overrides, best=best, device=device, trust=trust, reporter=reporter)
    places = local(inputs, reporter)
    cases = find_inputs(places, model.plan.channels, scans)
    for line in left_out_of(places, cases):
        reporter.say(line)
    return model, cases


def _is_address(place: str | Path) -> bool:
    """Whether it is of a DICOMweb server. Raises DataError for one that is none."""
    return is_remote(place) and bool(address_of(place))


def outcome_text(outcome: Outcome, output: Path) -> Result:
    """How many cases were written, were finished already, failed, and were left, with the reasons."""
    lines = [f"{len(outcome.done)} written, {len(outcome.skipped)} were finished already: {output}"]
    lines += [outcome.quality] if outcome.quality else []
    for cases, what in (
        (outcome.failed, "failed"),
        (outcome.left, "left as they are; move their files away, or --overwrite"),
    ):
        if cases:
            lines += [f"{len(cases)} {what}:", *(f"  {name}: {reason}" for name, reason in cases.items())]
    values = {
        "output": output,
        "manifest": outcome.manifest,
        "written": outcome.done,
        "finished_already": outcome.skipped,
        "failed": outcome.failed,
        "left": outcome.left,
        "quality": outcome.quality,
    }
    return Result("\n".join(lines), values, code=2 if outcome.failed or outcome.left else 0)
