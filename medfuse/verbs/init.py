"""`medfuse init`: a pipeline file planned for a dataset and a machine, every value with its reason."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medfuse.api import DatasetInfo, Split
from medfuse.core.errors import MedfuseError
from medfuse.core.files import make_folder, write_text
from medfuse.core.memory import bytes_text, total_memory
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import by, duration, typed
from medfuse.planning.bench import Dimensions
from medfuse.planning.candidates import Candidate, scaling
from medfuse.planning.meter import Meter
from medfuse.planning.planner import TIMED_SHARE, Clock, Planner, table
from medfuse.planning.sizing import more_minutes
from medfuse.planning.space import SHARE_OF_A_TRAINING
from medfuse.planning.text import Text, minutes_left
from medfuse.planning.timed import plan_within
from medfuse.planning.timing import timing
from medfuse.planning.trials import MOST_JUDGING, MOST_PAIRED, Trials, inner_split
from medfuse.searching.budget import FEWEST_SECONDS
from medfuse.verbs.schema import LINE, write_schema_beside

if TYPE_CHECKING:
    import torch

    from medfuse.data.detect import Detected
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan

OF_ALL_MEMORY = 0.9
"""Most of the device's memory that a step may take, whatever the budget."""

NOT_SEARCHED = (
    "--seconds-per-case: a search tries networks of other cost than the planned one; plan without --search, "
    "then add a `search:` section of what leaves the network as it is"
)
ONLY_NNUNETS = "there is only nnU-Net's plan without --minutes; give these, and others are thought of"


def init_pipeline(
    data: Path,
    *,
    output: Path | None = None,
    budget: int,
    minutes: float | None = None,
    device: str = "auto",
    dimensions: Dimensions | Literal["auto"] = "auto",
    trials: bool = True,
    compare: int = 1,
    search: bool = False,
    seconds_per_case: float | None = None,
    reporter: Reporter,
) -> Result:
    """Look at the dataset `data`, measure training steps, write a commented pipeline; say what was done.

    budget: bytes that a training step may take on `device`. minutes: of planning and training. trials:
    whether candidates are trained to choose between them. compare: how many of the best are written. search:
    whether the minutes are those of a `medfuse search`, whose space is written too. seconds_per_case: what
    `medfuse infer` may take for the median scan, on `device`.
    Raises MedfuseError where a file exists, the data is faulty, or no plan keeps to the time of a scan.
    """
    if seconds_per_case is not None and search:
        raise MedfuseError(NOT_SEARCHED)
    output = output or Path("pipelines") / f"{_name(data)}.yaml"
    files = [output, *(output.with_stem(f"{output.stem}_{n}") for n in range(2, compare + 1))]
    total = minutes if search else None
    if total is not None:
        minutes = SHARE_OF_A_TRAINING * total
        fewest = 1.25 * FEWEST_SECONDS / 60  # as planning takes a part
        if minutes < fewest:
            raise MedfuseError(
                f"--minutes {total:g}: leave each training of a search {60 * minutes:.1f} seconds; give "
                f"{math.ceil(fewest / SHARE_OF_A_TRAINING)} at least"
            )
    clock = Clock(minutes, time.monotonic(), TIMED_SHARE if seconds_per_case is not None else 0.0)
    looked = _look(data, files, budget=budget, device=device, clock=clock, reporter=reporter)
    where, budget, plan, fingerprint = looked.device, looked.budget, looked.plan, looked.fingerprint
    found, odd, split, whose = looked.found, looked.suspicions, looked.split, looked.whose
    planner = Planner(
        fingerprint,
        plan,
        where,
        budget,
        clock,
        reporter,
        None if dimensions == "auto" else dimensions,
        scaling(odd),
        compare,
    )
    reporter.say(f"  median case: {by(planner.finest.shape)} voxels of {_mm(plan.spacing_mm)} mm")
    candidates = planner.candidates()
    within = None
    if seconds_per_case is not None:
        reporter.say(f"plans for {seconds_per_case:g} s a scan")
        within = plan_within(seconds_per_case, candidates, planner, Meter(found.info, fingerprint, where))
        candidates = within.all
    own = len(within.plans) if within else len(candidates)

    def text(
        file: Path,
        candidate: Candidate,
        spent: float = 0.0,
        tried: Sequence[str] = (),
        about: Sequence[str] = (),
    ) -> str:
        of_it = 0.0 if search else spent  # a search has minutes beside those of a training
        parts = (found, fingerprint, candidate, split, whose, file, minutes, budget, LINE, of_it, tried)
        left = total and max(0.1, round(total - spent / 60, 2))
        return Text(*parts, search=left, within=about, seconds_per_case=seconds_per_case).text()

    most_judging = MOST_PAIRED if within and within.binds else MOST_JUDGING
    inner = inner_split(looked.known, looked.patients, seed=1, most_judging=most_judging)
    made = Trials()
    if trials:
        texts = [text(output, candidate) for candidate in candidates]
        how = {"compared": len(candidates) - own, "most_judging": most_judging}
        made = planner.tried(candidates, texts, found.info, inner, output.resolve().parent, **how)
    spent, tried = clock.spent(), tuple(table(candidates, made))
    order = [number for number in made.best(len(candidates)) if number < own][:compare]
    costs = [timing(within, number, made, looked.patients) if within else None for number in order]
    best = [candidates[number] for number in order]
    if minutes:
        left = 60 * minutes_left(minutes, 0.0 if search else spent)
        paces = (made.pace(number) or candidates[number].size.cost.pace for number in order)
        best = [candidate.paced(left, pace) for candidate, pace in zip(best, paces)]
    _refuse_to_replace(files)  # measuring took minutes
    write_schema_beside(output)
    for file, candidate, cost in zip(files, best, costs):
        write_text(file, text(file, candidate, spent, tried, cost.lines if cost else ()))
    first = costs[0].lines if costs[0] else ()
    said = [
        *first,
        *_said(best[0], where.type, minutes, clock.share),
        *_next(files[: len(best)], compare, minutes, search),
    ]
    size = best[0].size
    values = {
        "files": files[: len(best)],
        "dimensions": best[0].dimensions,
        "patch_size": best[0].bench.image(size.patch_size).patch_size,
        "batch_size": size.batch_size,
        "channels": size.width,
        "step_seconds": size.cost.seconds,
        "step_bytes": size.cost.bytes,
        "checkpointing": best[0].bench.checkpointing,
        "accumulate": size.batch_size if best[0].bench.accumulates else 1,
        "device": where.type,
        "tried": tried,
        **({"seconds_per_case": costs[0].values} if costs[0] else {}),
        "notes": said,
    }
    return Result("\n".join([*tried, *said]), values)


def init_from(
    data: Path,
    source: str,
    *,
    output: Path | None = None,
    budget: int,
    minutes: float | None = None,
    device: str = "auto",
    reporter: Reporter,
) -> Result:
    """As `init_pipeline`, of the network that `source` says it is of, with its weights (planning.sources)."""
    from medfuse.data.plan import make_plan, median_shape
    from medfuse.data.settings import PreprocessSettings, SampleSettings
    from medfuse.planning.sources import read_start
    from medfuse.planning.started import StartedText, bench, plan_patch

    output = output or Path("pipelines") / f"{_name(data)}.yaml"
    clock = Clock(minutes, time.monotonic())
    _refuse_to_replace([output])
    start = read_start(source)
    looked = _look(data, [output], budget=budget, device=device, clock=clock, reporter=reporter)
    known = PreprocessSettings(spacing_mm=start.spacing_mm or "auto", normalize=start.normalize)
    plan = make_plan(looked.fingerprint, looked.found.info, known, SampleSettings())
    reporter.say(f"  starts from {start.what}")
    patch = plan_patch(
        start,
        median_shape(looked.fingerprint, plan.spacing_mm),
        bench(start, plan, looked.device),
        budget=looked.budget,
        minutes=minutes,
    )
    parts = (looked.found, plan, start, patch, looked.split, looked.whose, output, minutes, clock.spent())
    text = StartedText(*parts, LINE, source).text()
    _refuse_to_replace([output])
    write_schema_beside(output)
    write_text(output, text)
    takes = f"a step: about {duration(patch.seconds)} and {bytes_text(patch.bytes)} on {looked.device.type}"
    said = [f"patch {by(patch.size)}: {patch.reason}", takes, *_next([output], 1, minutes)]
    values = {
        "files": [output],
        "patch_size": patch.size,
        "step_seconds": patch.seconds,
        "step_bytes": patch.bytes,
        "device": looked.device.type,
        "starts_from": start.what,
        "notes": said,
    }
    return Result("\n".join(said), values)


@dataclass(frozen=True)
class _Looked:
    """What is known of a dataset once its files were looked at, and of the machine.

    known: the cases of the fold that were looked at. patients: whose they are. suspicions: kinds of what is
    odd.
    """

    found: Detected
    fingerprint: Fingerprint
    plan: DataPlan
    split: dict[str, Any]
    whose: str
    known: Split
    patients: Mapping[str, str]
    suspicions: frozenset[str]
    device: torch.device
    budget: int


def _look(
    data: Path, files: Sequence[Path], *, budget: int, device: str, clock: Clock, reporter: Reporter
) -> _Looked:
    """Look at the dataset, and tell what is odd about it. Raises MedfuseError where `files` are there."""
    from medfuse.core.device import pick_device, settle
    from medfuse.data.detect import detect
    from medfuse.data.doubts import label_doubts
    from medfuse.data.fingerprint import take_fingerprint
    from medfuse.data.plan import make_plan
    from medfuse.data.sampled import looked_at, sampled
    from medfuse.data.settings import PreprocessSettings, SampleSettings, SplitSettings
    from medfuse.data.split import choose_split, patients
    from medfuse.data.suspicions import suspicions

    _refuse_to_replace(files)
    where = pick_device(device)
    settle(where)
    if (most := int(OF_ALL_MEMORY * total_memory(where))) < budget:
        budget = most
        reporter.say(f"a step may take {bytes_text(budget)}, as there is no more on {where.type}")
    with reporter.track("looking at label maps", 1) as advance:
        found = detect(data, progress=lambda done, _: advance(0, f"{done}"))
    labelled = [case for case in found.info.cases if case.label]
    split, whose = _split(found.info)
    settings = SplitSettings(**split)
    outer = choose_split(found.info, settings)  # what is faulty is refused before anything is measured
    make_folder(files[0].parent)  # and so is what cannot be written
    sample = sampled(labelled, seconds=clock.for_looking())
    with reporter.track(f"checking {len(sample)} cases", len(sample)) as advance:
        fingerprint = take_fingerprint(
            sample,
            found.info,
            tolerance_mm=PreprocessSettings().tolerance_mm,
            progress=lambda done, _: advance(done, ""),
        )
    plan = make_plan(fingerprint, found.info, PreprocessSettings(), SampleSettings())
    odd = suspicions(fingerprint, found.info, plan.spacing_mm, normalization=plan.normalization)
    everyone = tuple(case.name for case in sample)
    doubts = label_doubts(found.info, fingerprint.cases, Split(everyone, everyone))
    partly = filter(None, [looked_at(sample, labelled)])
    for line in (*partly, *found.info.notes, *doubts, *(suspicion.line for suspicion in odd)):
        reporter.say(line)
    return _Looked(
        found,
        fingerprint,
        plan,
        split,
        whose,
        Split(tuple(name for name in outer.train if name in everyone), outer.validation),
        patients(found.info.cases, settings),
        frozenset(suspicion.kind for suspicion in odd),
        where,
        budget,
    )


def _said(chosen: Candidate, device: str, minutes: float | None, planning: float) -> list[str]:
    size = chosen.size
    advice = more_minutes(size, minutes, planning) if minutes else ""
    return [
        f"{chosen.dimensions}-D: {chosen.reason}",
        f"{size.width} channels: {size.width_reason}",
        f"patch {by(chosen.bench.image(size.patch_size).patch_size)}: {size.patch_reason}",
        f"{size.batch_size} patches a step: {size.batch_reason}",
        f"a step: {duration(size.cost.seconds)} and {bytes_text(size.cost.bytes)} on {device}",
        *([advice] if advice else []),
    ]


def _next(files: Sequence[Path], wanted: int, minutes: float | None, search: bool = False) -> list[str]:
    """What was written, and what to do with it."""
    if len(files) == 1:
        only = "there is only one plan that is worth a thought here" if minutes else ONLY_NNUNETS
        few = [only] if wanted > 1 else []
        file = typed(files[0])
        return [
            *few,
            f"wrote {file}: read it, change what you like, then `medfuse check {file}` and "
            f"`medfuse {'search' if search else 'run'} {file}`",
        ]
    names = " ".join(typed(file) for file in files)
    return [f"wrote {names}, from the best on: read them, then `medfuse compare {names}`"]


def _refuse_to_replace(files: Sequence[Path]) -> None:
    there = [file for file in files if os.path.lexists(file)]
    if there:
        way_out = "choose another file by --output, or remove it"
        raise MedfuseError(*(f"{file}: is there already; {way_out}" for file in there))


def _name(data: Path) -> str:
    return re.sub(r"\W+", "_", data.resolve().stem).strip("_").lower() or "pipeline"


def _split(info: DatasetInfo) -> tuple[dict[str, Any], str]:
    """`split:` of the pipeline, and whose folds they are."""
    from medfuse.data.patients import group_of
    from medfuse.data.settings import SplitSettings
    from medfuse.data.split import patients

    if info.splits:
        return {"fold": 0}, "of the dataset's own folds"
    labelled = [case for case in info.cases if case.label]
    known = any(case.patient for case in labelled)
    group = None if known else group_of([case.name for case in labelled])
    told = {"group": group} if group else {}
    usual = SplitSettings(**told)
    people = len({*patients(info.cases, usual).values()})
    folds = max(2, min(usual.folds, people))
    drawn = f"of {folds} that medfuse draws"
    if group:
        drawn += "; cases of one patient, as their names tell, stay on one side"
    elif known and people < len(labelled):
        drawn += f"; cases of one patient, as the dataset tells, stay on one side ({people} patients)"
    return {"fold": 0, **({"folds": folds} if folds != usual.folds else {}), **told}, drawn


def _mm(spacing: tuple[float, ...]) -> str:
    return "×".join(f"{s:g}" for s in spacing)
