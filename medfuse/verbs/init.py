"""`medfuse init`: a pipeline file planned for a dataset and a machine, every value with its reason."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import yaml

from medfuse.api import DatasetInfo, Split
from medfuse.core.errors import MedfuseError
from medfuse.core.files import make_folder, write_text
from medfuse.core.memory import bytes_text, total_memory
from medfuse.core.reporter import Reporter
from medfuse.core.text import by
from medfuse.runs.bench import MOST_CHANNELS, SLICES, Bench, Dimensions
from medfuse.runs.sizing import MEASURING_SHARE, Limits, Size, more_minutes, size_network, smallest_step
from medfuse.verbs.schema import LINE, write_schema_beside

if TYPE_CHECKING:
    from medfuse.data.detect import Detected
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan

QUICK_STEPS = 10_000
"""A training of fewer steps learns faster with AdamW and mild augmentation."""
RATE_TIMES_WIDTH = 0.08
"""AdamW's peak rate × channels of the first stage: 0.01 at 8, and 0.005 at 16."""
NNUNETS_EPOCHS = 1000
OF_ALL_MEMORY = 0.9
"""Most of the device's memory that a step may take, whatever the budget."""
WIDE = 106  # columns of a comment


def init_pipeline(
    data: Path,
    *,
    output: Path | None = None,
    budget: int,
    minutes: float | None = None,
    device: str = "auto",
    dimensions: Dimensions = "3",
    reporter: Reporter,
) -> str:
    """Look at the dataset `data`, measure training steps, write a commented pipeline; say what was done.

    `budget`: bytes that a training step may take on `device`. Raises MedfuseError where the file exists or
    the data is faulty.
    """
    from medfuse.core.device import pick_device, settle
    from medfuse.data.detect import detect
    from medfuse.data.doubts import label_doubts
    from medfuse.data.fingerprint import take_fingerprint
    from medfuse.data.plan import make_plan, median_shape
    from medfuse.data.settings import PreprocessSettings, SampleSettings

    began = time.monotonic()
    output = output or Path("pipelines") / f"{_name(data)}.yaml"
    _refuse_to_replace(output)
    where = pick_device(device)
    settle(where)
    budget = min(budget, int(OF_ALL_MEMORY * total_memory(where)))
    with reporter.track("looking at label maps", 1) as advance:
        found = detect(data, progress=lambda done, _: advance(0, f"{done}"))
    labelled = [case for case in found.info.cases if case.label]
    _split(found.info)  # what cannot be split is refused before anything is measured
    make_folder(output.parent)  # and so is what cannot be written
    with reporter.track(f"checking {len(labelled)} cases", len(labelled)) as advance:
        fingerprint = take_fingerprint(
            labelled,
            found.info,
            tolerance_mm=PreprocessSettings().tolerance_mm,
            progress=lambda done, _: advance(done, ""),
        )
    everyone = tuple(case.name for case in labelled)
    for line in (*found.info.notes, *label_doubts(found.info, fingerprint.cases, Split(everyone, everyone))):
        reporter.say(line)
    plan = make_plan(fingerprint, found.info, PreprocessSettings(), SampleSettings())
    shape = median_shape(fingerprint, plan.spacing_mm)
    reporter.say(f"  median case: {by(shape)} voxels of {_mm(plan.spacing_mm)} mm")
    if shape[2] == 1 and dimensions != "2":
        reporter.say("  one slice each, so the network has two axes")
        dimensions = "2"
    bench = Bench(plan, dimensions, where, reporter)
    dims = 3 if dimensions == "3" else 2
    bench.load()
    share = MEASURING_SHARE * 60 * minutes if minutes else None
    if share is None or time.monotonic() - began < share / 2:
        bench.choose(*smallest_step(shape, plan.spacing_mm, dims=dims))
    else:
        reporter.say("  measuring in fp32, as finding out whether bf16 is faster would take too long")
    left = None if share is None else share - (time.monotonic() - began)
    size = size_network(
        shape,
        plan.spacing_mm,
        len(labelled),
        bench.measure,
        Limits(budget, 60 * minutes if minutes else None, left),
        dims=dims,
        say=reporter.say,
    )
    text = _Text(found, fingerprint, plan, size, bench, output, minutes, budget).text()
    _refuse_to_replace(output)  # measuring took minutes
    write_schema_beside(output)
    write_text(output, text)
    advice = more_minutes(size, minutes) if minutes else ""
    return "\n".join(
        [
            f"{size.width} channels: {size.width_reason}",
            f"patch {by(bench.image(size.patch_size).patch_size)}: {size.patch_reason}",
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


def _mm(spacing: Sequence[float]) -> str:
    return "×".join(f"{s:g}" for s in spacing)


@dataclass(frozen=True)
class _Text:
    """The pipeline file: a comment with its reason above every planned value."""

    found: Detected
    fingerprint: Fingerprint
    plan: DataPlan
    size: Size
    bench: Bench
    output: Path
    minutes: float | None
    budget: int

    def text(self) -> str:
        parts = [self._head(), self._data(), self._preprocess(), self._sample()]
        parts += [self._augment(), self._model(), "loss: dice_ce\n", self._train()]
        parts += ["infer:\n  overlap: 0.5                  # of neighbouring windows\n"]
        return "\n".join(part for part in parts if part)

    def _head(self) -> str:
        cases, labels = self.fingerprint.cases, ", ".join(self.plan.classes[1:])
        shape = [sorted(sizes)[len(cases) // 2] for sizes in zip(*(case.shape for case in cases))]
        lines = _comment(
            f"{self.output.stem}: {labels} in {', '.join(self.plan.channels)}; planned by `medfuse init` for "
            f"{len(cases)} cases of about {by(shape)} voxels, {bytes_text(self.budget)} of memory a step"
            + (f" and {self.minutes:g} minutes." if self.minutes else ".")
        )
        lines += ["#", f"#   medfuse check {self.output}", f"#   medfuse run {self.output}", "#"]
        lines += ["# Any value can be changed here, or overridden: --set train.minutes=60", LINE]
        return "\n".join(lines) + "\n"

    def _data(self) -> str:
        folder = self.output.resolve().parent
        values = {
            key: os.path.relpath(Path(value).resolve(), folder) if key == "root" else value
            for key, value in self.found.settings.items()
        }
        split, whose = _split(self.found.info)
        lines = [*_comment(self.found.reason), f"data: {_flow(values)}", ""]
        return "\n".join([*lines, f"split: {_flow(split)}  # {whose}", ""])

    def _preprocess(self) -> str:
        reasons = [
            f"{name.removeprefix('normalize.')}: {reason}"
            for name, reason in self.plan.reasons.items()
            if name.startswith("normalize.")
        ]
        return _section(
            "preprocess",
            ("spacing_mm", list(self.plan.spacing_mm), self.plan.reasons["spacing_mm"]),
            ("normalize", "auto", "; ".join(reasons)),
        )

    def _sample(self) -> str:
        image = self.bench.image(self.size.patch_size)
        reason = self.size.patch_reason
        if self.bench.dimensions == "2.5":
            reason += f"; {SLICES} slices, each seen with its neighbours"
        return _section(
            "sample",
            ("patch_size", list(image.patch_size), reason),
            ("batch_size", self.size.batch_size, self.size.batch_reason),
            ("foreground", 0.33, "every third patch is centred on a label, as nnU-Net does"),
        )

    def _quick(self) -> bool:
        return self.size.steps is not None and self.size.steps < QUICK_STEPS

    def _augment(self) -> str:
        if not self._quick():
            return ""
        reason = f"with fewer than {QUICK_STEPS:,} steps, many mild changes teach more than few strong ones"
        return _section(
            "augment",
            ("rotate", 0.5, reason),
            ("rotate_degrees", 20, ""),
            ("scale", 0.5, ""),
            ("scale_range", [0.8, 1.25], ""),
            ("blur", 0.1, ""),
            ("low_resolution", 0, ""),
        )

    def _model(self) -> str:
        size, slices = self.size, self.bench.dimensions == "2.5"
        encoder = self.bench.encoder(size.width, size.patch_size)
        most = MOST_CHANNELS[len(size.patch_size)]
        lines = ["model:", "  backbones:", "    encoder:"]
        indent = 6
        if slices:
            lines += _lines(6, "use", "slices", "2.5-D: a 2-D network sees each slice with its neighbours")
            lines += _lines(6, "neighbours", 1, "slices to see on each side of one")
            lines, indent = [*lines, "      of:"], 8
        lines += _lines(indent, "use", encoder["use"], "")
        doubled = f"doubled with each stage, up to {most}"
        lines += _lines(indent, "channels", encoder["channels"], f"{size.width_reason}; {doubled}")
        far = "an axis is halved while 8 voxels are left and its spacing is within twice the finest"
        lines += _lines(indent, "strides", encoder["strides"], far)
        flat = "3, and 1 along an axis whose voxels are still far apart"
        lines += _lines(indent, "kernels", encoder["kernels"], flat)
        lines += ["  fusion:", "    decoded: {use: unet_decoder, inputs: [encoder.*]}"]
        lines += ["  head: {input: decoded}"]
        if aux := self.bench.model(size.width, size.patch_size).get("aux"):
            lines += ["  aux:", f"    heads: {_flow(aux['heads'])}"]
            lines += _lines(
                4, "schedule", aux["schedule"], "deep supervision: each coarser map weighs half of the finer"
            )
        return "\n".join(lines) + "\n"

    def _train(self) -> str:
        size = self.size
        cost = (
            f"a step took {size.cost.seconds:.2f} s and {bytes_text(size.cost.bytes)} on {self.bench.device}"
        )
        if size.steps is None:
            hours = NNUNETS_EPOCHS * 250 * size.cost.seconds / 3600
            budget: list[tuple[str, Any, str]] = [
                ("epochs", NNUNETS_EPOCHS, f"nnU-Net's, of 250 steps; {cost}: about {hours:.0f} hours")
            ]
        else:
            each = min(250, max(25, size.steps // 20))
            budget = [
                ("minutes", self.minutes, f"{cost}, so that about {size.steps:,} steps fit"),
                ("steps_per_epoch", each, "steps between two looks at held-out cases"),
            ]
        if not self._quick():
            return _section("train", *budget, ("optimizer", "sgd", "nnU-Net's, with poly decay"))
        rate = float(f"{RATE_TIMES_WIDTH / size.width:.2g}")
        return _section(
            "train",
            *budget,
            ("optimizer", "adamw", f"learns faster at first than SGD, which needs {QUICK_STEPS:,} steps"),
            ("learning_rate", rate, "lower for wider networks"),
            ("warmup", 0.05, ""),
            ("decay", "cosine", "to nothing at the end"),
        )


def _section(name: str, *entries: tuple[str, Any, str]) -> str:
    return "\n".join([f"{name}:", *(line for entry in entries for line in _lines(2, *entry))]) + "\n"


def _lines(indent: int, key: str, value: Any, reason: str) -> list[str]:
    """A key, below a comment with its reason."""
    space = " " * indent
    return [*(space + line for line in _comment(reason, indent)), f"{space}{key}: {_flow(value)}"]


def _comment(text: str, indent: int = 0) -> list[str]:
    return [f"# {line}" for line in wrap(text, WIDE - indent)]


def _flow(value: Any) -> str:
    """Plain data on one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
        .removesuffix("\n...\n")
        .strip()
    )
