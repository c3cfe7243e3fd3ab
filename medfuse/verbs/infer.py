"""`medfuse infer`: label maps of new scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.reporter import Reporter
from medfuse.trained import load_trained, weights_file

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
    reporter: Reporter,
) -> Inferred:
    """Label maps of every volume in `inputs`."""
    from medfuse.infer.cases import find_inputs

    model = load_trained(
        [weights_file(path, best=best) for path in weights], device=device, overrides=overrides
    )
    cases = find_inputs(inputs, model.plan.channels)
    return outcome_text(model.infer(cases, output, reporter), output)


def outcome_text(outcome: Outcome, output: Path) -> Inferred:
    """How many cases were written, were finished already, and failed, with the reasons."""
    lines = [f"{len(outcome.done)} written, {len(outcome.skipped)} were finished already: {output}"]
    if outcome.failed:
        lines += [f"{len(outcome.failed)} failed:"]
        lines += [f"  {name}: {reason}" for name, reason in outcome.failed.items()]
    return Inferred("\n".join(lines), bool(outcome.failed))
