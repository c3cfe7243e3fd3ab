"""int8 behind a gate: calibrated on training cases, judged on held-out ones by class, timed against bf16."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.errors import CheckpointError, DataError, MedfuseError
from medfuse.core.files import UNFINISHED, claimed, file_hash, make_folder, reported
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.core.text import number, typed
from medfuse.model.gate import FILES, NETWORK, RECORD, WINDOWS, Beside, Gate, Layer, Row, rounded
from medfuse.pipeline import Pipeline, load_pipeline
from medfuse.runs.calibration import calibration
from medfuse.runs.problems import placed_split
from medfuse.runs.records import DATA, RESOLVED, TrainedOn, read_record
from medfuse.runs.run import located, read_dataset
from medfuse.trained.loading import load_trained, read_weights
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
_STORED = 4  # windows that another processor looks at
_GAIN = 0.97  # of the other's time: what is less is the clock's
_RUINED = 0.01  # share of the voxels of windows that are decided otherwise, from which layers are looked at
_SAID = 3  # layers, in a reason
_WAIT = "wait until it has ended"


@dataclass(frozen=True)
class Source:
    """The cases of a run: what it was trained on, and what it never saw."""

    pipeline: Pipeline
    info: DatasetInfo
    split: Split

    def cases(self, names: Sequence[str]) -> list[Case]:
        by_name = {case.name: case for case in self.info.cases}
        if lost := [name for name in names if name not in by_name]:
            raise DataError(
                f"{self.pipeline.data.root}: has no case {', '.join(lost[:3])} any more, which the run "
                "knows; put it back, or name the dataset by --data FILE"
            )
        return [by_name[name] for name in names]

    @property
    def patients(self) -> dict[str, str]:
        from medfuse.data.split import patients

        return patients(self.info.cases, self.pipeline.split)


def source_of(weights: Path, data: Path | None) -> Source:
    """The cases of the run that holds `weights`; `data`: a pipeline file that says them in its stead, by the
    fold that the weights say they are of.

    Raises CheckpointError where the folder does not say them, and DataError where files are others than those
    that it was trained on, or held-out ones are among those.
    """
    folder = weights.parent
    record = folder / DATA
    kept = read_record(TrainedOn, record) if record.is_file() else None
    file = data or folder / RESOLVED
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: does not say which cases its weights were trained on, as of a model from elsewhere; "
            "name a pipeline file with their `data` and `split`: "
            f"medfuse quantize {typed(folder)} --data FILE"
        )
    fold = read_weights(weights)[1].get("fold") if data else None
    overrides = [f"split.fold={fold}"] if isinstance(fold, int) else []
    pipeline, document = load_pipeline(file, overrides)
    with located(document):
        info = read_dataset(pipeline)
        split = kept.split if kept and data is None else placed_split(pipeline, info)
    source = Source(pipeline, info, split)
    if kept:
        _refuse_changed(folder, source, kept, given=data is not None)
    return source


def _refuse_changed(folder: Path, source: Source, kept: TrainedOn, *, given: bool) -> None:
    from medfuse.data.fingerprint import hash_files

    names = [*source.split.train, *source.split.validation]
    hashes = hash_files(source.cases(names))
    images = {case.name: tuple(hashes[str(path)] for path in case.images) for case in source.cases(names)}
    if given:
        trained = {kept.cases[name].images for name in kept.train if name in kept.cases}
        if seen := [name for name in source.split.validation if images[name] in trained]:
            raise DataError(
                f"{folder}: its weights were trained on {', '.join(seen[:3])}, which --data holds out; a "
                "gate is judged on cases that training never saw"
            )
        return
    changed = [name for name in names if name in kept.cases and images[name] != kept.cases[name].images]
    if changed:
        raise DataError(
            f"{folder}: the files of {', '.join(changed[:3])} have changed since its weights were trained; "
            "put them back, or name the dataset by --data FILE"
        )


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
    with locked(make_folder(folder), instead=_WAIT):
        known = None if overwrite else Beside(weights, digest).gate()
        if known and (known.bound, known.seed) == (bound, seed) and is_here(known):
            reporter.say(f"{folder}: was judged before; --overwrite judges it again")
            return known
        trained = load_trained([weights], device="cpu", trust=trust)
        with _aside(folder) as staging:
            work = _Work(trained, source, staging, reporter)
            gate, quantized = work.through(bound=bound, seed=seed, digest=digest)
            return keep(folder, staging, gate, quantized)


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A hidden folder in the run's, which is gone in the end."""
    import secrets

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


@dataclass(frozen=True)
class _Tried:
    """Layers that stay in floating point, what held-out cases say of that, and what speaks against it."""

    kept: tuple[str, ...]
    rows: tuple[Row, ...]
    reasons: tuple[str, ...]

    def worst(self) -> float:
        """The largest upper end of a drop; more than any where none was measured."""
        ends = [1.0 if row.high is None else row.high for row in self.rows]
        return max(ends, default=2.0)


@dataclass(eq=False)
class _Work:
    """What the way through the gate needs."""

    trained: Trained
    source: Source
    staging: Path
    reporter: Reporter

    def through(self, *, bound: float, seed: int, digest: str) -> tuple[Gate, Quantized | None]:
        """All layers in int8; where a class does not bear that, without the worst layer, two, four, …"""
        import torch

        from medfuse.model.int8 import machine_here, share_alike
        from medfuse.model.openvino import compiled, runner
        from medfuse.model.quantized import decided, errors_alone, layers_of, quantize, seconds_in_turns

        train = self.source.cases(self.source.split.train)
        held_out = self.source.cases(self.source.split.validation)
        network = self.converted()
        chosen = calibration(self.trained, train, seed=seed, reporter=self.reporter)
        shown, kind = chosen.windows[:_STORED], self._kind
        example = chosen.windows[0]
        usual = runner(network, example, "auto")
        other = str(usual.engine["precision"])
        errors: dict[str, float] = {}
        kept: tuple[str, ...] = ()
        best = _Tried((), (), ())
        exact: Evaluation | None = None
        while True:
            without = f" without {len(kept)} layers" if kept else ""
            self.reporter.say(
                f"calibrating on {len(chosen.windows)} windows of {len(chosen.cases)} cases{without}"
            )
            made = quantize(network, chosen.windows, without=kept)
            short = compiled(made, example, "int8")
            seconds = seconds_in_turns({"int8": short, other: usual}, example)
            if reasons := _no_gain(seconds, other):
                best = replace(best, reasons=(*reasons, *best.reasons))
                plain = compiled(network, example, "fp32")
                alike = [share_alike(decided(short(w), kind), decided(plain(w), kind)) for w in shown]
                if not errors and 1 - min(alike) > _RUINED:
                    errors = errors_alone(network, chosen.windows, shown[:2])
                break
            exact = exact or self.judged_by(_prepared(network, "fp32"), "fp32", held_out)
            rows = self.rows(exact, self.judged_by(_prepared(made, "int8"), "int8", held_out), bound)
            tried = _Tried(kept, tuple(rows), tuple(_unborne(rows, bound)))
            best = min(tried, best, key=_Tried.worst)
            if not tried.reasons:
                break
            errors = errors or errors_alone(network, chosen.windows, shown[:2])
            count = max(1, 2 * len(kept))
            if count >= len(layers_of(network)) or _unjudged(rows):
                break
            kept = tuple([*errors][:count])
        layers = tuple(Layer(name=n, error=float(f"{e:.3g}"), kept=n in best.kept) for n, e in errors.items())
        reasons = [*best.reasons, *([_worst(layers)] if best.reasons and layers else [])]
        machine, installed = machine_here()
        gate = Gate(
            weights=digest,
            passed=not reasons,
            reasons=tuple(reasons),
            bound=bound,
            seed=seed,
            kind=kind,
            calibration=chosen.cases,
            windows=len(chosen.windows),
            held_out=tuple(case.name for case in held_out),
            seconds=rounded(seconds),
            rows=best.rows,
            layers=layers,
            machine=machine,
            versions=installed,
            files={},
        )
        if reasons:
            return gate, None
        return gate, Quantized(made, torch.cat(shown), torch.cat([decided(short(w), kind) for w in shown]))

    @property
    def _kind(self) -> Literal["softmax", "regions"]:
        return "regions" if self.trained.plan.regions else "softmax"

    def converted(self) -> openvino.Model:
        import torch

        from medfuse.model.openvino import convert

        image = self.trained.plan.image
        try:
            return convert(self.trained.segmenter(), torch.zeros((1, image.channels, *image.patch_size)))
        except MedfuseError:
            raise
        except Exception as error:  # OpenVINO's, and whatever a network does in a trace
            raise MedfuseError(
                f"OpenVINO cannot convert this network, so it has no int8 ({error})"
            ) from error

    def judged_by(self, run: Prepared, precision: str, cases: Sequence[Case]) -> Evaluation:
        """Metrics of held-out cases, labelled as `infer` does it by what runs the network."""
        from medfuse.infer.cases import output_name
        from medfuse.report.evaluate import evaluate_pairs
        from medfuse.report.pairs import Pair

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


def judge_onnx(weights: Path, source: Source, path: Path, gate: Gate, trust: Sequence[str]) -> list[str]:
    """In words, which classes do not bear what ONNX Runtime makes of a quantised file; by the same gate."""
    from medfuse.trained.loading import by_onnxruntime

    trained = load_trained([weights], device="cpu", trust=trust)
    with _aside(path.parent) as staging:
        work = _Work(trained, source, staging, Reporter(quiet=True))
        held_out = source.cases(source.split.validation)
        exact = work.judged_by(_prepared(work.converted(), "fp32"), "fp32", held_out)
        short = work.judged_by(by_onnxruntime(path), "int8", held_out)
        return _unborne(work.rows(exact, short, gate.bound), gate.bound)


def _prepared(network: openvino.Model, precision: str) -> Prepared:
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


def _no_gain(seconds: Mapping[str, float], other: str) -> list[str]:
    """In words that int8 is not faster, or nothing."""
    if seconds["int8"] < _GAIN * seconds[other]:
        return []
    return [f"it gains nothing: {seconds['int8']:.3g} s a window, and {seconds[other]:.3g} s in {other}"]


def _unborne(rows: Sequence[Row], bound: float) -> list[str]:
    """In words, which classes do not bear it."""
    reasons = []
    for row in rows:
        if row.drop is not None and row.high is not None and not row.bears:
            reasons.append(
                f"{row.label}: {row.measure} falls by {number(row.drop)}, and by up to {number(row.high)} on "
                f"other cases (bound {bound:g})"
            )
    few = {row.label: row.patients for row in rows if row.drop is None}
    return reasons + [
        f"{label}: {patients} held-out patient{'s have' if patients != 1 else ' has'} it, and a drop has an "
        f"interval from {FEWEST_PATIENTS} on"
        for label, patients in few.items()
    ]


def _unjudged(rows: Sequence[Row]) -> bool:
    """Whether a class has too few patients, which no choice of layers mends."""
    return any(row.drop is None for row in rows)


def _worst(layers: Sequence[Layer]) -> str:
    said = ", ".join(f"{layer.name} ({layer.error:.2g})" for layer in layers[:_SAID])
    return f"layers that bear it worst, by the relative error of the logits with nothing else in int8: {said}"


def keep(folder: Path, staging: Path, gate: Gate, quantized: Quantized | None) -> Gate:
    """Put the record, and what passed, in their places: the record goes first and comes last."""
    from medfuse.core.files import write_json
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
