"""`medfuse quantize`: int8 where held-out cases say that it costs nothing, and a clock that it is faster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import CheckpointError
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import aligned, number, typed
from medfuse.runs.folder import WEIGHTS, fold_folders
from medfuse.trained.loading import EXPORTED, weights_file

if TYPE_CHECKING:
    from medfuse.model.gate import Gate

BOUND = 0.001
_MOST_LAYERS = 10


def quantize_model(
    run: Path,
    *,
    data: Path | None = None,
    bound: float = BOUND,
    seed: int = 1,
    trust: Sequence[str] = (),
    overwrite: bool = False,
    reporter: Reporter,
) -> Result:
    """Judge int8 for a run, or for each fold of a cross-validation; exit code 1 where it is not taken.

    `bound`: how far Dice and NSD of a class may fall, at the upper end of the interval. `data`: a pipeline
    file with the cases, where the run does not say them.
    """
    files = [weights_file(one, best=False) for one in fold_folders(run) or [run]]
    for file in files:
        if file.suffix in EXPORTED.values() or file.name != WEIGHTS:
            raise CheckpointError(f"{file}: is no run with {WEIGHTS}; give the run that it comes from")
    from medfuse.model.openvino import installed as openvino_installed
    from medfuse.model.quantized import installed
    from medfuse.runs.quantizing import quantize_run
    from medfuse.runs.source import source_of

    openvino_installed()
    installed()
    gates: dict[Path, Gate] = {}
    for file in files:
        if len(files) > 1:
            reporter.say(f"{file.parent}:")
        source = source_of(file, data)
        how: dict[str, Any] = {"bound": bound, "seed": seed, "trust": trust, "overwrite": overwrite}
        gates[file.parent] = quantize_run(file, source, **how, reporter=reporter)
    lines = [line for folder, gate in gates.items() for line in _lines(folder, gate)]
    if all(gate.passed for gate in gates.values()):
        lines.append(f"`medfuse infer {typed(run)} …` takes it where it is fastest; the manifest says so")
    values = {str(folder): gate.model_dump(mode="json") for folder, gate in gates.items()}
    code = 0 if all(gate.passed for gate in gates.values()) else 1
    return Result("\n".join(lines), {"passed": code == 0, "gates": values}, code=code)


def _lines(folder: Path, gate: Gate) -> list[str]:
    """The table of a gate, and what comes of it."""
    times = ", ".join(f"{seconds:.3g} s in {kind}" for kind, seconds in gate.seconds.items())
    head = (
        f"{folder}: calibrated on {gate.windows} windows of {len(gate.calibration)} training cases; a window "
        f"takes {times}"
    )
    rows = [["class", "measure", "fp32", "int8", "drop", "95 % interval", "patients", ""]]
    for row in gate.rows:
        ends = "–" if row.low is None else f"{number(row.low, sign=True)} … {number(row.high, sign=True)}"
        drop, verdict = number(row.drop, sign=True), "" if row.bears else "does not bear it"
        cells = [number(row.fp32), number(row.int8), drop, ends, str(row.patients), verdict]
        rows.append([row.label, row.measure, *cells])
    kept = gate.kept
    more = f", and {len(kept) - _MOST_LAYERS} more" if len(kept) > _MOST_LAYERS else ""
    return [
        head,
        *([aligned(rows)] if gate.rows else []),
        *([f"in floating point: {', '.join(kept[:_MOST_LAYERS])}{more}"] if kept and gate.passed else []),
        f"{folder}: int8 is taken" if gate.passed else f"{folder}: int8 is refused:",
        *(f"  {reason}" for reason in gate.reasons),
    ]
