"""What a run says before training: what its dataset holds beside its cases, and what will not be learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medfuse.runs.run import Run

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan


def doubts(run: Run, fingerprint: Fingerprint, plan: DataPlan) -> Iterator[str]:
    """One line for each; what is unsound has been refused before."""
    from medfuse.data.doubts import label_doubts, patch_doubts, plane_doubts, split_doubts
    from medfuse.data.suspicions import suspicions
    from medfuse.train.budget import Budget, too_few

    yield from run.info.notes
    yield from split_doubts(run.info, run.split)
    yield from label_doubts(run.info, fingerprint.cases, run.split)
    for suspicion in suspicions(
        fingerprint, run.info, plan.spacing_mm, normalization=plan.normalization, split=run.split
    ):
        yield suspicion.line
    yield from patch_doubts(len(plan.classes), plan.patch_size)
    yield from plane_doubts(plan.patch_size, fingerprint.cases)
    steps = Budget.of(run.pipeline.train).steps
    if steps and not run.pipeline.model.transfer and (warning := too_few(steps)):
        yield warning
