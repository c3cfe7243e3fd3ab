"""The text of a planned pipeline: a comment with its reason above every value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.memory import bytes_text
from medfuse.core.text import by, duration, typed
from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.planning.bench import MOST_CHANNELS, SLICES
from medfuse.planning.lines import comment, data_lines, entry, flow, printable, section
from medfuse.planning.space import space_text

if TYPE_CHECKING:
    from medfuse.data.detect import Detected
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.planning.candidates import Candidate

QUICK_STEPS = 10_000
"""A training of fewer steps learns faster with AdamW and mild augmentation."""
RATE_TIMES_WIDTH = 0.08
"""AdamW's peak rate × channels of the first stage: 0.01 at 8, and 0.005 at 16."""
NNUNETS_EPOCHS = 1000
FEWEST_MINUTES = 0.05
"""That a file trains for, however long planning took."""


@dataclass(frozen=True)
class Text:
    """What a pipeline file is made from.

    split: the section, and `whose` folds it speaks of. minutes: of planning and training; None to train as
    nnU-Net does. spent: seconds that planning took of them. budget: bytes of a step. line: for editors.
    tried: lines about what was tried before this plan was chosen. search: minutes of a search around it.
    within: lines about the time of a scan, where that is limited to `seconds_per_case`.
    """

    found: Detected
    fingerprint: Fingerprint
    candidate: Candidate
    split: dict[str, Any]
    whose: str
    output: Path
    minutes: float | None
    budget: int
    line: str
    spent: float = 0.0
    tried: Sequence[str] = ()
    search: float | None = None
    within: Sequence[str] = ()
    seconds_per_case: float | None = None

    def text(self) -> str:
        parts = [self._head(), self._data(), self._preprocess(), self._sample()]
        parts += [self._augment(), self._model(), "loss: dice_ce\n", self._train()]
        parts += [
            section(
                "infer",
                ("overlap", self.candidate.overlap, self._overlap_reason()),
                (
                    "postprocess",
                    "auto",
                    "for new scans, what raises the Dice of held-out cases; the reported one is before it",
                ),
            )
        ]
        if self.search:
            parts.append(space_text(self.candidate, self.fingerprint, self._rate(), self.search))
        return "\n".join(part for part in parts if part)

    def _head(self) -> str:
        plan, cases = self.candidate.plan, self.fingerprint.cases
        shape = [sorted(sizes)[len(cases) // 2] for sizes in zip(*(case.shape for case in cases))]
        outputs = plan.classes if plan.regions else plan.classes[1:]
        what = f"{', '.join(outputs)} in {', '.join(plan.channels)}"
        within = f" and {self.minutes:g} minutes" if self.minutes else ""
        labelled = sum(case.label is not None for case in self.found.info.cases)
        of = f"{len(cases):,} of {labelled:,}" if len(cases) < labelled else f"{len(cases)}"
        lines = comment(
            f"{self.output.stem}: {what}; planned by `medfuse init` for {of} cases of about "
            f"{by(shape)} voxels, {bytes_text(self.budget)} of memory a step{within}."
        )
        file, does = printable(typed(self.output)), "search" if self.search else "run"
        lines += ["#", f"#   medfuse check {file}", f"#   medfuse {does} {file}", "#"]
        lines += [line for said in self.within for line in comment(said)]
        lines += [
            *(["#"] if self.within else []),
            *self._tried(),
            "# Any value can be changed here, or overridden: --set train.minutes=60",
            self.line,
        ]
        return "\n".join(lines) + "\n"

    def _overlap_reason(self) -> str:
        limit = self.seconds_per_case
        less = limit is not None and self.candidate.overlap != USUAL_OVERLAP
        return "of neighbouring windows" + (f"; what {limit:g} s a scan leave time for" if less else "")

    def _tried(self) -> list[str]:
        """What else there was, and why this was chosen."""
        why = f"The network has {self.candidate.dimensions} axes: {self.candidate.reason}."
        return [*comment(why), *(f"# {line}" for line in self.tried), "#"]

    def _data(self) -> str:
        return data_lines(self.found, self.split, self.whose, self.output)

    def _preprocess(self) -> str:
        reasons = [
            f"{name.removeprefix('normalize.')}: {reason}"
            for name, reason in self.candidate.plan.reasons.items()
            if name.startswith("normalize.")
        ]
        return section(
            "preprocess",
            ("spacing_mm", list(self.candidate.plan.spacing_mm), self.candidate.plan.reasons["spacing_mm"]),
            ("normalize", "auto", "; ".join(reasons)),
        )

    def _sample(self) -> str:
        image = self.candidate.bench.image(self.candidate.size.patch_size)
        reason = self.candidate.size.patch_reason
        if self.candidate.dimensions == "2.5":
            reason += f"; {SLICES} slices, each seen with its neighbours"
        return section(
            "sample",
            ("patch_size", list(image.patch_size), reason),
            ("batch_size", self.candidate.size.batch_size, self.candidate.size.batch_reason),
            ("foreground", 0.33, "every third patch is centred on a label, as nnU-Net does"),
        )

    def _quick(self) -> bool:
        return self.candidate.size.steps is not None and self.candidate.size.steps < QUICK_STEPS

    def _augment(self) -> str:
        if not self._quick():
            return ""
        reason = f"with fewer than {QUICK_STEPS:,} steps, many mild changes teach more than few strong ones"
        return section(
            "augment",
            ("rotate", 0.5, reason),
            ("rotate_degrees", 20, ""),
            ("scale", 0.5, ""),
            ("scale_range", *self.candidate.scaling),
            ("blur", 0.1, ""),
            ("low_resolution", 0, ""),
        )

    def _model(self) -> str:
        size, slices = self.candidate.size, self.candidate.dimensions == "2.5"
        encoder = self.candidate.bench.encoder(size.width, size.patch_size)
        most = MOST_CHANNELS[len(size.patch_size)]
        lines = ["model:", "  backbones:", "    encoder:"]
        indent = 6
        if slices:
            lines += entry(6, "use", "slices", "2.5-D: a 2-D network sees each slice with its neighbours")
            lines += entry(6, "neighbours", 1, "slices to see on each side of one")
            lines, indent = [*lines, "      of:"], 8
        lines += entry(indent, "use", encoder["use"], "")
        doubled = f"doubled with each stage, up to {most}"
        lines += entry(indent, "channels", encoder["channels"], f"{size.width_reason}; {doubled}")
        far = "an axis is halved while 8 voxels are left and its spacing is within twice the finest"
        lines += entry(indent, "strides", encoder["strides"], far)
        flat = "3, and 1 along an axis whose voxels are still far apart"
        lines += entry(indent, "kernels", encoder["kernels"], flat)
        lines += ["  fusion:", "    decoded: {use: unet_decoder, inputs: [encoder.*]}"]
        lines += ["  head: {input: decoded}"]
        if aux := self.candidate.bench.model(size.width, size.patch_size).get("aux"):
            lines += ["  aux:", f"    heads: {flow(aux['heads'])}"]
            lines += entry(
                4, "schedule", aux["schedule"], "deep supervision: each coarser map weighs half of the finer"
            )
        return "\n".join(lines) + "\n"

    def _train(self) -> str:
        size = self.candidate.size
        takes = f"{duration(size.cost.seconds)} and {bytes_text(size.cost.bytes)}"
        cost = f"a step took {takes} on {self.candidate.bench.device}"
        if size.steps is None:
            minutes = NNUNETS_EPOCHS * 250 * size.cost.seconds / 60
            whole = f"{minutes / 60:.0f} hours" if minutes >= 120 else f"{max(1, minutes):.0f} minutes"
            budget: list[tuple[str, Any, str]] = [
                ("epochs", NNUNETS_EPOCHS, f"nnU-Net's, of 250 steps; {cost}: about {whole}")
            ]
        else:
            fit = f"{cost}, so that about {size.steps:,} steps fit"
            left = minutes_left(self.minutes or 0.0, self.spent)
            if self.spent:
                fit += f"; of {self.minutes:g} minutes planning took {self.spent:.0f} seconds"
            budget = [
                ("minutes", int(100 * left) / 100, fit),
                ("steps_per_epoch", between_looks(size.steps), "steps between two looks at held-out cases"),
            ]
        bench = self.candidate.bench
        if bench.checkpointing:
            less = "maps are computed again, as a step would else take more than the budget"
            budget.append(("checkpointing", True, less))
        if bench.accumulates:
            budget.append(("accumulate", size.batch_size, "one patch after the other, for the same reason"))
        if not self._quick():
            return section("train", *budget, ("optimizer", "sgd", "nnU-Net's, with poly decay"))
        return section(
            "train",
            *budget,
            ("optimizer", "adamw", f"learns faster at first than SGD, which needs {QUICK_STEPS:,} steps"),
            ("learning_rate", self._rate(), "lower for wider networks"),
            ("warmup", 0.05, ""),
            ("decay", "cosine", "to nothing at the end"),
        )

    def _rate(self) -> float:
        """The peak learning rate of the file, where that leaves it to SGD's or not."""
        return float(f"{RATE_TIMES_WIDTH / self.candidate.size.width:.2g}") if self._quick() else 0.01


def minutes_left(minutes: float, spent: float) -> float:
    """Of the minutes, when so many seconds went into planning."""
    return max(FEWEST_MINUTES, minutes - spent / 60)


def between_looks(steps: int) -> int:
    """Of so many steps, those between two looks at held-out cases."""
    return min(250, max(25, steps // 20))
