"""int8 behind a gate: calibrated on training cases, judged on held-out ones by class, timed against bf16."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.files import UNFINISHED, claimed, file_hash, make_folder, reported, write_json
from medfuse.core.json_text import shortened
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.model.gate import FILES, NETWORK, RECORD, WINDOWS, Beside, Gate, Layer, Row, rounded
from medfuse.runs.calibration import Calibration, calibration
from medfuse.runs.int8_judge import Judge, prepared, unborne, unjudged
from medfuse.runs.source import Source
from medfuse.trained.loading import by_onnxruntime, load_trained
from medfuse.trained.trained import Trained

if TYPE_CHECKING:
    import openvino
    from torch import Tensor

    from medfuse.core.engine import Running

_STORED = 4  # windows that another processor looks at
_GAIN = 0.97  # of the other's time: what is less is the clock's
_RUINED = 0.01  # share of the voxels of windows that are decided otherwise, from which layers are looked at
_SAID = 3  # layers, in a reason
_INSTEAD = "quantise a copy of the folder"


def quantize_run(
    weights: Path,
    source: Source,
    *,
    bound: float,
    seed: int,
    trust: Sequence[str] = (),
    overwrite: bool = False,
    reporter: Reporter,
) -> Gate:
    """The gate of the run whose weights these are, which is kept beside them; found before where it was.

    Raises MedfuseError where nothing can be quantised or judged.
    """
    from medfuse.model.int8 import is_here

    folder, digest = weights.parent, file_hash(weights)
    if not source.split.validation:
        raise DataError(
            f"{folder}: holds no case out, so nothing can judge int8; quantise a run that does, such as a "
            "fold of its cross-validation, or name held-out cases by --data FILE"
        )
    with locked(make_folder(folder), instead=_INSTEAD):
        known = None if overwrite else Beside(weights, digest).gate()
        if known and (known.bound, known.seed) == (bound, seed) and is_here(known):
            reporter.say(f"{folder}: was judged before; --overwrite judges it again")
            return known
        trained = load_trained([weights], device="cpu", trust=trust)
        with _aside(folder) as staging:
            work = _Work.of(trained, Judge(trained, source, staging, reporter), seed)
            found = work.through(bound)
            return keep(folder, staging, work.gate(found, bound, seed, digest), work.quantized(found))


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A hidden folder in the run's, which is gone in the end."""
    path = folder / f"{UNFINISHED}{secrets.token_hex(4)}"
    try:
        with reported(path):
            path.mkdir()
        with claimed(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Quantized:
    """What passed: the network, and windows with what it decides of them."""

    network: openvino.Model
    windows: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class _Tried:
    """A network in int8 but for the layers `kept`: its time for a window, what held-out cases say of it, and
    what speaks against it."""

    kept: tuple[str, ...]
    network: openvino.Model
    seconds: Mapping[str, float]
    rows: tuple[Row, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        """The largest upper end of a drop; more than any where none was measured."""
        ends = [1.0 if row.high is None else row.high for row in self.rows]
        return max(ends, default=2.0)


@dataclass(eq=False)
class _Work:
    """One network on its way: as OpenVINO has it, its windows, and what runs it where int8 does not."""

    trained: Trained
    judge: Judge
    network: openvino.Model
    windows: Calibration
    usual: Running
    errors: dict[str, float]

    @classmethod
    def of(cls, trained: Trained, judge: Judge, seed: int) -> _Work:
        from medfuse.model.openvino import runner

        network = converted(trained)
        cases = judge.source.cases(judge.source.split.train)
        windows = calibration(trained, cases, seed=seed, reporter=judge.reporter)
        return cls(trained, judge, network, windows, runner(network, windows.windows[0], "auto"), {})

    def through(self, bound: float) -> _Tried:
        """All layers in int8; where a class does not bear that, without the worst layer, two, four, …

        It is the first that passes; else, of those that are fast, the one that loses least.
        """
        from medfuse.model.quantized import layers_of

        now, exact = self._timed(()), None
        best = now
        while not now.reasons:
            exact = exact or self.judge.of(prepared(self.network, "fp32"), "fp32")
            short = self.judge.of(prepared(now.network, "int8"), "int8")
            rows = tuple(self.judge.rows(exact, short, bound))
            now = replace(now, rows=rows, reasons=tuple(unborne(rows, bound)))
            best = min(now, best, key=lambda one: one.worst)
            if not now.reasons:
                return now
            count = max(1, 2 * len(now.kept))
            if unjudged(rows) or count >= len(layers_of(self.network)):
                return best
            now = self._timed(self._worst_layers()[:count])
        self._look_for_ruined_layers(now)
        return now if now is best or not best.rows else replace(best, reasons=(*now.reasons, *best.reasons))

    def _timed(self, kept: tuple[str, ...]) -> _Tried:
        """Quantised without the layers `kept`; it is a reason against it if that gains nothing."""
        from medfuse.model.openvino import compiled
        from medfuse.model.quantized import quantize, seconds_in_turns

        windows, cases = self.windows.windows, self.windows.cases
        without = f" without {len(kept)} layer{'s' * (len(kept) != 1)}" if kept else ""
        self.judge.reporter.say(f"calibrating on {len(windows)} windows of {len(cases)} cases{without}")
        network = quantize(self.network, windows, without=kept)
        runs = {"int8": compiled(network, windows[0], "int8"), self.other: self.usual}
        seconds = rounded(seconds_in_turns(runs, windows[0]))
        return _Tried(kept, network, seconds, reasons=tuple(_no_gain(seconds, self.other, without)))

    @property
    def other(self) -> str:
        """The precision that int8 is timed against."""
        return str(self.usual.engine["precision"])

    def _worst_layers(self) -> tuple[str, ...]:
        """Every layer, the one that bears int8 worst first."""
        from medfuse.model.quantized import errors_alone

        windows = self.windows.windows
        self.errors = self.errors or errors_alone(self.network, windows, windows[:2])
        return (*self.errors,)

    def _look_for_ruined_layers(self, tried: _Tried) -> None:
        """Where windows are plainly decided otherwise, though no held-out case is judged."""
        from medfuse.model.int8 import share_alike
        from medfuse.model.openvino import compiled
        from medfuse.model.quantized import decided

        first = self.windows.windows[0]
        runs = [compiled(self.network, first, "fp32"), compiled(tried.network, first, "int8")]
        alike = [
            share_alike(*(decided(run(window), self.kind) for run in runs))
            for window in self.windows.windows[:_STORED]
        ]
        if 1 - min(alike) > _RUINED and not self.errors:
            self._worst_layers()

    @property
    def kind(self) -> Literal["softmax", "regions"]:
        return "regions" if self.trained.plan.regions else "softmax"

    def gate(self, found: _Tried, bound: float, seed: int, digest: str) -> Gate:
        """The record of what was found."""
        from medfuse.model.int8 import machine_here

        layers = tuple(
            Layer(name=name, error=float(f"{error:.3g}"), kept=name in found.kept)
            for name, error in self.errors.items()
        )
        machine, versions = machine_here()
        return Gate(
            weights=digest,
            passed=not found.reasons,
            reasons=(*found.reasons, *([_worst(layers)] if found.reasons and layers else [])),
            bound=bound,
            seed=seed,
            kind=self.kind,
            calibration=self.windows.cases,
            windows=len(self.windows.windows),
            held_out=self.judge.source.split.validation,
            seconds=dict(found.seconds),
            rows=found.rows,
            layers=layers,
            machine=machine,
            versions=versions,
            files={},
        )

    def quantized(self, found: _Tried) -> Quantized | None:
        """What is kept of a network that passed."""
        import torch

        from medfuse.model.openvino import compiled
        from medfuse.model.quantized import decided

        if found.reasons:
            return None
        windows = self.windows.windows[:_STORED]
        run = compiled(found.network, windows[0], "int8")
        labels = [decided(run(window), self.kind) for window in windows]
        return Quantized(found.network, torch.cat(windows), torch.cat(labels))


def converted(trained: Trained) -> openvino.Model:
    """The network as OpenVINO has it. Raises MedfuseError where it cannot have it."""
    import torch

    from medfuse.model.openvino import convert

    image = trained.plan.image
    try:
        return convert(trained.segmenter(), torch.zeros((1, image.channels, *image.patch_size)))
    except MedfuseError:
        raise
    except Exception as error:  # OpenVINO's, and whatever a network does in a trace
        raise MedfuseError(
            f"OpenVINO cannot convert this network, so it has no int8 ({shortened(str(error), 200)})"
        ) from error


def judge_onnx(weights: Path, source: Source, path: Path, gate: Gate, trust: Sequence[str]) -> list[str]:
    """In words, which classes do not bear what ONNX Runtime makes of a quantised file; by the same gate."""
    trained = load_trained([weights], device="cpu", trust=trust)
    with _aside(path.parent) as staging:
        judge = Judge(trained, source, staging, Reporter())
        exact = judge.of(prepared(converted(trained), "fp32"), "fp32")
        short = judge.of(by_onnxruntime(path), "int8")
        return unborne(judge.rows(exact, short, gate.bound), gate.bound)


def _no_gain(seconds: Mapping[str, float], other: str, without: str) -> list[str]:
    """In words that int8 is not faster `without` some layers, or nothing."""
    if seconds["int8"] < _GAIN * seconds[other]:
        return []
    return [
        f"it gains nothing{without}: {seconds['int8']:.3g} s a window, and {seconds[other]:.3g} s in {other}"
    ]


def _worst(layers: Sequence[Layer]) -> str:
    said = ", ".join(f"{layer.name} ({layer.error:.2g})" for layer in layers[:_SAID])
    return f"layers that bear it worst, by the relative error of the logits with nothing else in int8: {said}"


def keep(folder: Path, staging: Path, gate: Gate, quantized: Quantized | None) -> Gate:
    """Put the record, and what passed, in their places: the record goes first and comes last."""
    from medfuse.model.openvino import save
    from medfuse.model.weights import save_tensors

    if quantized is not None:
        save(quantized.network, staging / NETWORK, {"int8_of": gate.weights})
        windows = {"windows": quantized.windows, "labels": quantized.labels}
        save_tensors(staging / WINDOWS, windows, {"int8_of": gate.weights})
        files = {name: file_hash(staging / name) for name in FILES if name != RECORD}
        gate = gate.model_copy(update={"files": files})
    write_json(staging / RECORD, gate.model_dump(mode="json"))
    with reported(folder):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        for name in reversed(FILES):
            if (staging / name).exists():
                (staging / name).replace(folder / name)
    return gate
