"""`medfuse infer --explain --workers N`: a few cases are really done, and tell of the whole folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case
from medfuse.core.crew import cores
from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.infer.away import size_of_images
from medfuse.infer.forecast import Forecast, Price, Sample, forecast, sampled
from medfuse.infer.manifest import NAME, read_manifest
from medfuse.verbs.crews import LOCAL, Workers
from medfuse.verbs.work import How, fleet_of

if TYPE_CHECKING:
    from medfuse.infer.plan import Plans
    from medfuse.trained.trained import Trained

_MOST_ON_A_CORE = 2
"""Workers: more than that are not meant for this machine."""


def foretold(
    model: Trained,
    cases: Sequence[Case],
    plans: Plans,
    how: How,
    workers: Workers,
    price: Price | None,
    trust: str | Iterable[str],
    *,
    before_s: float,
    reporter: Reporter,
) -> Forecast:
    """What `workers` will take for `cases`, of which some are done into a folder that is gone afterwards.

    Local workers are tried as they will be, side by side, where this machine has cores for them. Others are
    taken to be machines such as this one, and one process does the sample. before_s: what the call itself
    takes until it starts workers.
    """
    there = {plan.name: (plan.windows, prod(plan.shape)) for plan in plans.plans}
    if not there:
        raise MedfuseError(*(f"{name}: {why}" for name, why in plans.faults.items()), "no case can be done")
    by_name = {case.name: case for case in cases if case.name in there}
    here = workers.engine == LOCAL and workers.count <= _MOST_ON_A_CORE * cores()
    beside = workers.count if here else 1
    names = sampled({name: size[0] for name, size in there.items()}, beside)
    with tempfile.TemporaryDirectory(prefix="medfuse-sample-") as folder:
        output, began = Path(folder) / "out", datetime.now(UTC)
        outcome = model.infer(
            [by_name[name] for name in names],
            output,
            reporter,
            max_memory=how.max_memory,
            probabilities=how.probabilities,
            strict=how.strict,
            formats=how.formats,
            seg_type=how.seg_type,
            fleet=fleet_of(output, how, trust, Workers(count=beside)),
        )
        for name, why in outcome.failed.items():
            reporter.say(f"{name}: {why}")
        _, content = read_manifest(output / NAME)
    order = [case.name for case in _in_order(by_name.values(), together=workers.are_others)]
    sample = Sample.of(content["cases"], began)
    before_s = before_s if workers.are_others else 0.0  # which one process alone spends as its worker did
    return forecast(there, sample, workers.count, order=order, before_s=before_s, alike=not here, price=price)


def _in_order(cases: Iterable[Case], *, together: bool) -> list[Case]:
    """As they are taken: by a fleet the largest first."""
    if not together:
        return list(cases)
    return sorted(cases, key=lambda case: (-size_of_images(case), case.name))


def age_s() -> float:
    """For how long this process has been there; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    return 0.0
