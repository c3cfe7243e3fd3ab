"""`medfuse init`: a pipeline file planned for a dataset and a machine, every value with its reason."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Literal

from medfuse.api import DatasetInfo, Split
from medfuse.core.errors import MedfuseError
from medfuse.core.files import make_folder, write_text
from medfuse.core.memory import bytes_text, total_memory
from medfuse.core.reporter import Reporter
from medfuse.core.text import by
from medfuse.planning.bench import Dimensions
from medfuse.planning.candidates import Candidate, scaling
from medfuse.planning.planner import Clock, Planner, table
from medfuse.planning.sizing import more_minutes
from medfuse.planning.text import Text
from medfuse.planning.trials import Trials, inner_split
from medfuse.verbs.schema import LINE, write_schema_beside

OF_ALL_MEMORY = 0.9
"""Most of the device's memory that a step may take, whatever the budget."""


def init_pipeline(
    data: Path,
    *,
    output: Path | None = None,
    budget: int,
    minutes: float | None = None,
    device: str = "auto",
    dimensions: Dimensions | Literal["auto"] = "auto",
    trials: bool = True,
    reporter: Reporter,
) -> str:
    """Look at the dataset `data`, measure training steps, write a commented pipeline; say what was done.

    `budget`: bytes that a training step may take on `device`. minutes: of planning and training. trials:
    whether candidates are trained to choose between them. Raises MedfuseError where the file exists or the
    data is faulty.
    """
    from medfuse.core.device import pick_device, settle
    from medfuse.data.detect import detect
    from medfuse.data.doubts import label_doubts
    from medfuse.data.fingerprint import take_fingerprint
    from medfuse.data.plan import make_plan
    from medfuse.data.sampled import looked_at, sampled
    from medfuse.data.settings import PreprocessSettings, SampleSettings, SplitSettings
    from medfuse.data.split import choose_split, patients
    from medfuse.data.suspicions import suspicions

    clock = Clock(minutes, time.monotonic())
    output = output or Path("pipelines") / f"{_name(data)}.yaml"
    _refuse_to_replace(output)
    where = pick_device(device)
    settle(where)
    budget = min(budget, int(OF_ALL_MEMORY * total_memory(where)))
    with reporter.track("looking at label maps", 1) as advance:
        found = detect(data, progress=lambda done, _: advance(0, f"{done}"))
    labelled = [case for case in found.info.cases if case.label]
    split, whose = _split(found.info)  # what cannot be split is refused before anything is measured
    make_folder(output.parent)  # and so is what cannot be written
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
    planner = Planner(
        fingerprint,
        plan,
        where,
        budget,
        clock,
        reporter,
        None if dimensions == "auto" else dimensions,
        scaling({suspicion.kind for suspicion in odd}),
    )
    reporter.say(f"  median case: {by(planner.finest.shape)} voxels of {_mm(plan.spacing_mm)} mm")
    candidates = planner.candidates()

    def text(candidate: Candidate, spent: float = 0.0, tried: tuple[str, ...] = ()) -> str:
        return Text(
            found, fingerprint, candidate, split, whose, output, minutes, budget, LINE, spent, tried
        ).text()

    settings = SplitSettings(**split)
    outer = choose_split(found.info, settings, fingerprint.cases)
    known = Split(tuple(name for name in outer.train if name in everyone), outer.validation)
    inner = inner_split(known, patients(found.info.cases, settings), seed=1)
    made = Trials()
    if trials:
        texts = [text(candidate) for candidate in candidates]
        made = planner.tried(candidates, texts, found.info, inner, output.resolve().parent)
    chosen = candidates[made.chosen]
    if minutes:
        chosen = chosen.paced(60 * minutes - clock.spent(), made.pace() or chosen.size.cost.pace)
    _refuse_to_replace(output)  # measuring took minutes
    write_schema_beside(output)
    write_text(output, text(chosen, clock.spent(), tuple(table(candidates, made))))
    size = chosen.size
    advice = more_minutes(size, minutes) if minutes else ""
    return "\n".join(
        [
            f"{chosen.dimensions}-D: {chosen.reason}",
            *table(candidates, made),
            f"{size.width} channels: {size.width_reason}",
            f"patch {by(chosen.bench.image(size.patch_size).patch_size)}: {size.patch_reason}",
            f"{size.batch_size} patches a step: {size.batch_reason}",
            f"a step: {size.cost.seconds:.2f} s and {bytes_text(size.cost.bytes)} on {where.type}",
            *([advice] if advice else []),
            f"wrote {output}: read it, change what you like, then `medfuse check {output}` and "
            f"`medfuse run {output}`",
        ]
    )


def _refuse_to_replace(output: Path) -> None:
    if os.path.lexists(output):
        raise MedfuseError(f"{output}: is there already; choose another file by --output, or remove it")


def _name(data: Path) -> str:
    return re.sub(r"\W+", "_", data.resolve().stem).strip("_").lower() or "pipeline"


def _split(info: DatasetInfo) -> tuple[dict[str, int], str]:
    """`split:` of the pipeline, and whose folds they are. Raises DataError where nothing can be held out."""
    from medfuse.data.settings import SplitSettings
    from medfuse.data.split import all_splits, patients

    if info.splits:
        return {"fold": 0}, "of the dataset's own folds"
    usual = SplitSettings()
    folds = max(2, min(usual.folds, len({*patients(info.cases, usual).values()})))
    all_splits(info, SplitSettings(folds=folds))
    drawn = f"of {folds} that medfuse draws"
    return {"fold": 0, **({"folds": folds} if folds != usual.folds else {})}, drawn


def _mm(spacing: tuple[float, ...]) -> str:
    return "×".join(f"{s:g}" for s in spacing)
