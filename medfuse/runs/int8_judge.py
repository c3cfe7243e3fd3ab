"""Networks held against the references of held-out cases, class by class: how far int8 falls behind fp32."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medfuse.core.errors import DataError
from medfuse.core.reporter import Reporter
from medfuse.core.text import number
from medfuse.model.gate import Row
from medfuse.runs.source import Source
from medfuse.trained.trained import Prepared, Trained

if TYPE_CHECKING:
    import openvino
    from torch import Tensor

    from medfuse.core.engine import Engine, Running
    from medfuse.report.evaluate import Evaluation
    from medfuse.report.metrics import CaseMetrics

Measure = Literal["Dice", "NSD"]
MEASURES: tuple[Measure, ...] = ("Dice", "NSD")
FEWEST_PATIENTS = 2
"""Of a class, for an interval."""


@dataclass(eq=False)
class Judge:
    """Judges what runs a network on held-out cases of `source`. `staging`: a folder for their label maps."""

    trained: Trained
    source: Source
    staging: Path
    reporter: Reporter

    def of(self, run: Prepared, precision: str) -> Evaluation:
        """Metrics of held-out cases, labelled as `infer` does it by what runs the network."""
        from medfuse.infer.cases import output_name
        from medfuse.report.evaluate import evaluate_pairs
        from medfuse.report.pairs import Pair

        cases = self.source.cases(self.source.split.validation)
        self.reporter.say(f"judging {len(cases)} held-out cases in {precision}")
        settings = self.trained.settings.model_copy(update={"runtime": None, "postprocess": "none"})
        model = replace(self.trained, networks=(run,), settings=settings)
        folder = self.staging / precision
        shutil.rmtree(folder, ignore_errors=True)  # of another choice of layers
        outcome = model.infer(cases, folder, self.reporter)
        if outcome.failed:
            raise DataError(*(f"{name}: {reason}" for name, reason in outcome.failed.items()))
        pairs = [Pair(case.name, folder / output_name(case), case.label) for case in cases if case.label]
        found = evaluate_pairs(
            pairs,
            self.source.info.labels,
            ignore=self.source.info.ignore,
            tolerance_mm=self.source.pipeline.preprocess.tolerance_mm,
        )
        if found.errors:
            raise DataError(*found.errors)
        return found

    def rows(self, exact: Evaluation, short: Evaluation, bound: float) -> list[Row]:
        """How far `short` falls behind `exact`, for each class and measure."""
        patient_of = self.source.patients
        rows = []
        for label in exact.labels:
            for measure in MEASURES:
                before, after = (
                    {c.name: _value(c.metrics[label], measure) for c in e.cases} for e in (exact, short)
                )
                pairs: dict[str, list[tuple[float, float]]] = {}
                for name in before:
                    two = before[name], after.get(name)
                    if two != (None, None):  # where one of them sees nothing that there is not, it is right
                        value = tuple(1.0 if one is None else one for one in two)
                        pairs.setdefault(patient_of.get(name, name), []).append((value[0], value[1]))
                rows.append(_row(label, measure, pairs, bound))
        return rows


def prepared(network: openvino.Model, precision: str) -> Prepared:
    """The network as OpenVINO runs it in that precision."""
    return Prepared(partial(_compiled, network, precision))


def _compiled(network: openvino.Model, precision: str, example: Tensor, kept: Engine | None) -> Running:
    from medfuse.core.engine import Running
    from medfuse.model.engines import whole_engine
    from medfuse.model.openvino import compiled

    run = compiled(network, example, precision)
    return Running(run, **whole_engine({"runtime": "openvino", **run.engine}, example.device))


def _value(metrics: CaseMetrics, measure: str) -> float | None:
    return metrics.dice if measure == "Dice" else metrics.nsd


def _row(
    label: str,
    measure: Measure,
    pairs: Mapping[str, Sequence[tuple[float, float]]],
    bound: float,
) -> Row:
    """pairs: patient → of each of its cases the value in fp32 and in int8."""
    from medfuse.report.intervals import mean_interval

    said: dict[str, Any] = {"label": label, "measure": measure, "patients": len(pairs)}
    if len(pairs) < FEWEST_PATIENTS:
        return Row(**said, fp32=None, int8=None, drop=None, low=None, high=None, bears=False)
    means = np.array([np.mean(values, axis=0) for values in pairs.values()])
    drops = means[:, 0] - means[:, 1]
    of = mean_interval(drops, bounds=None)
    assert of, "every patient has a drop"
    low, high = of.ends()
    fp32, int8 = (round(float(mean), 6) for mean in means.mean(axis=0))
    ends = {"drop": float(drops.mean()), "low": low, "high": high}
    return Row(**said, fp32=fp32, int8=int8, **{k: round(v, 6) for k, v in ends.items()}, bears=high <= bound)


def unborne(rows: Sequence[Row], bound: float) -> list[str]:
    """In words, which classes do not bear it."""
    reasons = []
    for row in rows:
        if row.drop is not None and row.high is not None and not row.bears:
            falls = f"falls by {number(row.drop)}, and" if row.drop > 0 else "does not fall here, but may"
            reasons.append(
                f"{row.label}: {row.measure} {falls} by up to {number(row.high)} on other cases "
                f"(bound {bound:g})"
            )
    few = {row.label: row.patients for row in rows if row.drop is None}
    return reasons + [
        f"{label}: {patients} held-out patient{'s have' if patients != 1 else ' has'} it, and a drop has an "
        f"interval from {FEWEST_PATIENTS} on"
        for label, patients in few.items()
    ]


def unjudged(rows: Sequence[Row]) -> bool:
    """Whether a class has too few patients, which no choice of layers mends."""
    return any(row.drop is None for row in rows)
