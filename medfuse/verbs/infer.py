"""`medfuse infer`: label maps of new scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import Case
from medfuse.core import storage
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.memory import parse_bytes
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.quality.table import NAME as TABLE
from medfuse.runs.models import load_model
from medfuse.trained.trained import Trained
from medfuse.verbs.bids_scans import bids_cases, is_dataset
from medfuse.verbs.crews import ALONE, LOCAL, Workers
from medfuse.volumes.dicom.series import ALL, Scans
from medfuse.volumes.dicom.web import address_of, is_remote, local
from medfuse.volumes.endings import ending

if TYPE_CHECKING:
    from medfuse.infer.away import Scratch
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
    from medfuse.infer.away import Away, Scratch
    from medfuse.infer.bucket import Bucket
    from medfuse.infer.formats import formats_of
    from medfuse.infer.manifest import NAME
    from medfuse.verbs.storing import Storing
    from medfuse.verbs.work import How, fleet_of

    workers.ready()
    with Scratch(scans) as scratch:
        bucket = None
        if storage.is_remote(output):
            _refuse_elsewhere(output, probabilities, statistics=statistics, workers=workers, shard=shard)
            bucket = Bucket(output, scratch.folder / "labels")
            output = bucket.folder
        storing = Storing.of(output, inputs, formats_of(formats), store=store)
        names, output = storing.formats, storing.folder
        limit = parse_bytes(max_memory) if max_memory is not None else None
        if ending(output) and not output.is_dir():
            raise OutputError(f"{output}: is the name of an image; --output is the folder for the label maps")
        networks = not workers.are_others or limit is not None  # by which a limit is planned
        model, cases, given = _model_and_cases(
            weights, inputs, overrides, best, device, trust, scans, scratch, reporter, networks=networks
        )
        if limit is not None and any(isinstance(case, Away) for case in cases):
            raise MedfuseError("--max-memory: is planned from headers, which are elsewhere; leave it out")
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
            scans=scans,
        )
        from medfuse.infer.shards import Shard

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
            scratch=scratch,
            bucket=bucket,
            given=given,
        )
        if bucket is not None:
            where = outcome.quality.replace(str(output / TABLE), f"{bucket.shown}/{TABLE}")
            return outcome_text(replace(outcome, quality=where), bucket.shown, f"{bucket.shown}/{NAME}")
        return storing.finish(outcome_text(outcome, output), outcome, cases, reporter)


def _refuse_elsewhere(
    output: str | Path,
    probabilities: ProbabilityFormat | None,
    *,
    statistics: bool,
    workers: Workers,
    shard: object,
) -> None:
    """Raises OutputError where what is asked for cannot be written into a bucket, all at once."""
    faults = []
    if probabilities == "zarr":
        faults.append("--probabilities zarr: is a folder, which no bucket holds as a whole; choose nifti")
    if statistics:
        faults.append("--statistics: reads label maps again; leave it out, and run it on a folder")
    if shard is not None:
        faults.append("--shard: its parts agree in the output folder; name a folder, and copy it from there")
    if workers.are_others and workers.engine != LOCAL:
        faults.append(
            f"--engine {workers.engine}: its workers agree in the output folder, and {output} is none; name "
            "one that all of them see and copy it from there, or give each machine a part of the cases"
        )
    if faults:
        raise OutputError(*faults)


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
    workers: Workers = ALONE,
    price: str | None = None,
    shard: tuple[int, int] | None = None,
    reporter: Reporter,
) -> Result:
    """What `infer_volumes` would take: windows, time and memory of every case. Writes nothing.

    With several `workers`, or the `price` of one's hour, some cases are really done, into a folder that is
    gone afterwards: they say how long all will take, what that costs, and how long the last worker goes on
    alone. It has failed where a case cannot be done. `shard`: of this part of the cases alone.
    """
    from medfuse.infer.away import Away, Scratch
    from medfuse.infer.forecast import Price
    from medfuse.infer.formats import formats_of
    from medfuse.infer.shards import Shard
    from medfuse.verbs.forecast import age_s, foretold
    from medfuse.verbs.work import How

    names, cost = formats_of(formats), Price.of(price) if price is not None else None
    workers.plugin()
    limit = parse_bytes(max_memory) if max_memory is not None else None
    if away := [place for place in inputs if storage.is_remote(place)]:
        raise MedfuseError(
            *(
                f"{storage.Storage(place).shown}: --explain reads headers, which are elsewhere; copy a part "
                "of it here"
                for place in away
            )
        )
    with Scratch(scans) as scratch:
        model, cases, _ = _model_and_cases(
            weights, inputs, overrides, best, device, trust, scans, scratch, reporter
        )
    if any(isinstance(case, Away) for case in cases):
        raise MedfuseError("--explain: reads headers, and images of the table are elsewhere; copy them here")
    if shard is not None:
        mine = {case.name for case in Shard(*shard).of(cases)}
        cases = [case for case in cases if case.name in mine]
    before_s = age_s()
    plans = model.plans(
        cases,
        limit,
        probabilities=probabilities is not None,
        strict=strict,
        formats=names,
        seg_type=seg_type,
    )
    code = 2 if plans.faults else 0
    if cost is None and not workers.are_others:
        return Result(plans.text(), plans.values(), code)
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
    )
    made = foretold(model, cases, plans, how, workers, cost, trust, before_s=before_s, reporter=reporter)
    faults = "".join(f"{name}: {reason}\n" for name, reason in plans.faults.items())
    return Result(f"{faults}{made.text()}", {**plans.values(), "forecast": made.values()}, code)


def _model_and_cases(
    weights: Sequence[Path],
    inputs: Sequence[str | Path],
    overrides: Iterable[str],
    best: bool,
    device: str,
    trust: str | Iterable[str],
    scans: Scans,
    scratch: Scratch,
    reporter: Reporter,
    *,
    networks: bool = True,
) -> tuple[Trained, list[Case], dict[str, dict[str, Any]]]:
    """What is to be done by what, and what a table says of the cases beside."""
    from medfuse.infer.cases import refuse_missing
    from medfuse.infer.found import find_cases

    inputs = [place if storage.is_remote(place) else storage.local_path(place) for place in inputs]
    away = [place for place in inputs if storage.is_remote(place)]
    refuse_missing([Path(place) for place in inputs if place not in away and not _is_address(place)])
    for place in away:
        storage.Storage(place)  # which refuses what is no address
    how: dict[str, Any] = {"overrides": overrides, "best": best, "device": device, "trust": trust}
    model = load_model(weights, networks=networks, reporter=reporter, **how)
    places = local([place for place in inputs if place not in away], reporter)
    bids = [place for place in places if is_dataset(place)]
    known = [case for root in bids for case in bids_cases(root, model.plan.channels)]
    others = [place for place in places if place not in bids]
    found = find_cases(others, away, model.plan.channels, scans, scratch, known)
    for line in found.left_out:
        reporter.say(line)
    return model, found.cases, found.given


def _is_address(place: str | Path) -> bool:
    """Whether it is of a DICOMweb server. Raises DataError for one that is none."""
    return is_remote(place) and bool(address_of(place))


def outcome_text(outcome: Outcome, output: Path | str, manifest: str = "") -> Result:
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
        "manifest": manifest or outcome.manifest,
        "written": outcome.done,
        "finished_already": outcome.skipped,
        "failed": outcome.failed,
        "left": outcome.left,
        "quality": outcome.quality,
    }
    return Result("\n".join(lines), values, code=2 if outcome.failed or outcome.left else 0)
