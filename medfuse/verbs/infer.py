"""`medfuse infer`: label maps of new scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case
from medfuse.core.memory import parse_bytes
from medfuse.core.reporter import Reporter
from medfuse.trained import Trained, load_trained, weights_file

if TYPE_CHECKING:
    from medfuse.infer.manifest import Outcome


@dataclass(frozen=True)
class Inferred:
    """What `medfuse infer` says at its end."""

    text: str
    failed: bool


def infer_volumes(
    weights: Sequence[Path],
    inputs: Sequence[Path],
    output: Path,
    *,
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    max_memory: str | None = None,
    probabilities: bool = False,
    reporter: Reporter,
) -> Inferred:
    """Label maps of every volume in `inputs`, in `max_memory` (such as 4GiB) above the loaded model."""
    limit = parse_bytes(max_memory) if max_memory else None
    model, cases = _model_and_cases(weights, inputs, overrides, best, device)
    outcome = model.infer(cases, output, reporter, max_memory=limit, probabilities=probabilities)
    return outcome_text(outcome, output)


def explain_volumes(
    weights: Sequence[Path],
    inputs: Sequence[Path],
    *,
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    max_memory: str | None = None,
) -> str:
    """What `infer_volumes` would take: windows, time and memory of every case. Writes nothing."""
    limit = parse_bytes(max_memory) if max_memory else None
    model, cases = _model_and_cases(weights, inputs, overrides, best, device)
    return model.plans(cases, limit).text()


def _model_and_cases(
    weights: Sequence[Path], inputs: Sequence[Path], overrides: Iterable[str], best: bool, device: str
) -> tuple[Trained, list[Case]]:
    from medfuse.infer.cases import find_inputs

    paths = [weights_file(path, best=best) for path in weights]
    model = load_trained(paths, device=device, overrides=overrides)
    return model, find_inputs(inputs, model.plan.channels)


def outcome_text(outcome: Outcome, output: Path) -> Inferred:
    """How many cases were written, were finished already, and failed, with the reasons."""
    lines = [f"{len(outcome.done)} written, {len(outcome.skipped)} were finished already: {output}"]
    if outcome.failed:
        lines += [f"{len(outcome.failed)} failed:"]
        lines += [f"  {name}: {reason}" for name, reason in outcome.failed.items()]
    return Inferred("\n".join(lines), bool(outcome.failed))
