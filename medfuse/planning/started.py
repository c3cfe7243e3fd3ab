"""A pipeline that starts from weights that were trained elsewhere: its patch, and its text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import ImageInfo
from medfuse.core.errors import MedfuseError
from medfuse.core.memory import bytes_text
from medfuse.core.text import by, duration, typed
from medfuse.imports.start import Start
from medfuse.planning.bench import SLICES
from medfuse.planning.lines import comment, data_lines, entry, flow, printable, section
from medfuse.planning.text import between_looks, minutes_left

if TYPE_CHECKING:
    import torch

    from medfuse.data.detect import Detected
    from medfuse.data.plan import DataPlan
    from medfuse.data.settings import WindowSettings
    from medfuse.train.cost import StepCost

FEWEST_STEPS = 100
"""That have to fit the minutes with the network that stands still run in each of them."""
SMALLEST, LARGEST = 32, {2: 256, 3: 128}
"""Voxels along a side of the smallest patch that is measured, and of the largest that is planned."""
BATCH = 2
FROZEN = {"backbones.encoder.*": {"freeze": "always"}}
SLOWER = {"backbones.encoder.*": {"rate": 0.1}}
KNOWN = {"backbones.*": {"rate": 0.1}, "fusion.*": {"rate": 0.1}}


@dataclass(frozen=True)
class Patch:
    """What the network is shown, and what a step of that will take: foretold from a smaller one."""

    size: tuple[int, ...]
    reason: str
    seconds: float
    bytes: int


def plan_patch(
    start: Start,
    shape: Sequence[int],
    measure: Callable[[tuple[int, ...]], StepCost],
    *,
    budget: int,
    minutes: float | None,
) -> Patch:
    """The largest patch up to the median case's `shape`, or to what the weights were trained on, that fits.

    measure: what a step costs. budget: bytes of it. Raises MedfuseError where not even the smallest fits.
    """
    dims = 2 if start.slices else len(start.patch_size or shape)
    sides = [*(start.multiple or (1,) * dims)][:dims]
    wanted = start.patch_size[:dims] if start.patch_size and not start.slices else shape[:dims]
    large = [_up(min(w, n, LARGEST[dims]), side) for w, n, side in zip(wanted, shape, sides)]
    small = [min(_up(SMALLEST, side), n) for n, side in zip(large, sides)]
    full = (SLICES,) if start.slices else ()
    cost = measure((*small, *full))
    size = large
    limit = min(1.0, budget / cost.bytes) if cost.bytes > budget else budget / max(cost.bytes, 1)
    allowed = [limit * prod(small)]
    if minutes:
        allowed.append(60 * minutes / FEWEST_STEPS / cost.seconds * prod(small))
    while prod(size) > min(allowed) and size != small:
        axis = max(range(dims), key=lambda a: (size[a] > small[a], size[a] / max(shape[a], 1), size[a]))
        size = [max(n - sides[a], small[a]) if a == axis else n for a, n in enumerate(size)]
    factor = prod(size) / prod(small)
    if cost.bytes * factor > budget and size == small:
        raise MedfuseError(
            f"a step of {start.what} on patches of {by(small)} voxels takes {bytes_text(cost.bytes)}, and "
            f"{bytes_text(budget)} are allowed; allow more by --budget, or start from smaller weights"
        )
    return Patch(
        (*size, *full), _reason(start, size, large, shape), factor * cost.seconds, int(factor * cost.bytes)
    )


def _reason(start: Start, size: Sequence[int], large: Sequence[int], shape: Sequence[int]) -> str:
    told = f"the weights were trained on {by(start.patch_size)}" if start.patch_size else ""
    cut = "cut to what memory and minutes allow" if size != large else ""
    whole = f"covers the median case of {by(shape)}" if all(s >= n for s, n in zip(size, shape)) else ""
    flat = f"{SLICES} slices, each seen with its neighbours" if start.slices else ""
    return "; ".join(filter(None, [whole, told, cut, flat])) or f"of the median case of {by(shape)} voxels"


def _up(n: int, side: int) -> int:
    return -(-n // side) * side


def frozen(start: Start) -> bool:
    """Whether the backbone stands still: where it hands out coarse maps alone, which are cheaply kept."""
    return start.kind == "tokens" or start.slices


def bench(start: Start, plan: DataPlan, device: torch.device) -> Callable[[tuple[int, ...]], StepCost]:
    """What measures a step on a patch of some size, with fresh weights."""
    from torch import nn

    from medfuse import registry
    from medfuse.api import Loss
    from medfuse.model.graph import plan_graph
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.settings import ModelSettings
    from medfuse.train.cost import measure_step
    from medfuse.train.objective import Objective
    from medfuse.train.settings import TrainSettings
    from medfuse.train.targets import supervised

    model = {key: value for key, value in start.model().items() if key != "transfer"}
    settings = ModelSettings.model_validate(model)
    loss = registry.get(Loss.group, "dice_ce")()
    assert isinstance(loss, Loss)

    def measure(patch: tuple[int, ...]) -> StepCost:
        image = ImageInfo(plan.image.channels, patch, plan.spacing_mm[: len(patch)])
        graph = plan_graph(settings, image, len(plan.classes))
        judged = supervised(loss, len(plan.classes), regions=plan.regions, ignored=plan.ignored)

        def build() -> nn.Module:
            made = build_segmenter(graph)
            for name, parameter in made.named_parameters():
                if frozen(start) and name.startswith("backbones."):
                    parameter.requires_grad_(False)
            return made

        return measure_step(
            build,
            Objective(judged, graph.aux, settings.aux.schedule if settings.aux else None),
            TrainSettings(steps=1, optimizer="adamw", precision="fp32"),
            shape=(BATCH, image.channels, *patch),
            classes=len(plan.classes),
            device=device,
        )

    return measure


@dataclass(frozen=True)
class StartedText:
    """What such a file is made from; see `planning.text.Text`. source: what the user gave as `--from`."""

    found: Detected
    plan: DataPlan
    start: Start
    patch: Patch
    split: Mapping[str, Any]
    whose: str
    output: Path
    minutes: float | None
    spent: float
    line: str
    source: str

    def text(self) -> str:
        parts = [self._head(), data_lines(self.found, self.split, self.whose, self.output)]
        parts += [
            self._preprocess(),
            self._sample(),
            model_lines(self.start, self.output),
            "loss: dice_ce\n",
            self._train(),
        ]
        parts += [section("infer", ("overlap", 0.5, "of neighbouring windows"))]
        return "\n".join(parts)

    def _head(self) -> str:
        plan, file = self.plan, printable(typed(self.output))
        outputs = plan.classes if plan.regions else plan.classes[1:]
        what = f"{', '.join(outputs)} in {', '.join(plan.channels)}"
        lines = comment(
            f"{self.output.stem}: {what}; written by `medfuse init --from {self.source}`, starts from "
            f"{self.start.what}."
        )
        lines += [line for note in self.start.notes for line in comment(note)]
        return "\n".join(
            [*lines, "#", f"#   medfuse check {file}", f"#   medfuse run {file}", "#", self.line, ""]
        )

    def _preprocess(self) -> str:
        start, reasons = self.start, self.plan.reasons
        known = f"of {start.what}"
        by_data = "; ".join(why for name, why in reasons.items() if name.startswith("normalize."))
        return section(
            "preprocess",
            ("spacing_mm", list(self.plan.spacing_mm), reasons.get("spacing_mm", known)),
            ("normalize", _plain(start.normalize), by_data or known),
        )

    def _sample(self) -> str:
        return section(
            "sample",
            ("patch_size", list(self.patch.size), self.patch.reason),
            ("batch_size", BATCH, "few, so that the patch can be large"),
            ("foreground", 0.33, "every third patch is centred on a label"),
        )

    def _train(self) -> str:
        cost = f"a step takes about {duration(self.patch.seconds)} and {bytes_text(self.patch.bytes)}"
        budget: list[tuple[str, Any, str]] = [("epochs", 200, f"of 250 steps; {cost}")]
        if self.minutes:
            left = minutes_left(self.minutes, self.spent)
            each = between_looks(int(60 * left / max(self.patch.seconds, 1e-3)))
            budget = [
                ("minutes", int(100 * left) / 100, f"{cost}; planning took {self.spent:.0f} seconds"),
                ("steps_per_epoch", each, "steps between two looks at held-out cases"),
            ]
        return section("train", *budget, *learning(self.start))


def model_lines(start: Start, output: Path) -> str:
    """`model:` of the file `output`, in which paths are relative to it."""
    model = deepcopy(start.model())
    folder = output.resolve().parent
    for taken in model.get("transfer", {}).values():
        if "weights" in taken:
            taken["weights"] = os.path.relpath(Path(taken["weights"]).resolve(), folder)
    reasons = {
        "backbones": f"the network of {start.what}",
        "transfer": "its weights; transfer.json of the run says what became of each tensor",
        "taps": "its blocks at a quarter, a half, three quarters and the end of its depth",
        "fusion": "a light decoder, which is trained",
        "aux": "deep supervision",
    }
    lines = ["model:"]
    for key, value in model.items():
        if not isinstance(value, dict) or key in ("head", "aux"):
            lines += entry(2, key, value, reasons.get(key, ""))
            continue
        lines += [*(f"  {line}" for line in comment(reasons.get(key, ""), 2)), f"  {key}:"]
        lines += [f"    {name}: {flow(inner)}" for name, inner in value.items()]
    return "\n".join(lines) + "\n"


def learning(start: Start) -> list[tuple[str, Any, str]]:
    """How the pipeline learns, and what stands still."""
    if frozen(start):
        still: list[tuple[str, Any, str]] = [
            ("parts", FROZEN, "the network stays as it was trained; the decoder learns"),
            ("frozen_maps", {}, "so its maps are computed once for each patch, and kept"),
        ]
    else:
        known = KNOWN if start.whole else SLOWER
        still = [("parts", known, "what is known learns at a tenth of the rate of what is new")]
    return [
        ("optimizer", "adamw", ""),
        ("learning_rate", 0.002, ""),
        ("warmup", 0.05, ""),
        ("decay", "cosine", "to nothing at the end"),
        *still,
    ]


def template(start: Start, output: Path, line: str) -> str:
    """A file whose `data` its user has to name."""
    file = printable(typed(output))
    patch = list(start.patch_size) if start.patch_size else "auto"
    head = comment(
        f"{output.stem}: {start.what}. Name your dataset below; `medfuse init DATA` tells its layout."
    )
    lines = [*head, "#", f"#   medfuse check {file}", f"#   medfuse run {file}", "#", line, ""]
    parts = [
        "\n".join([*lines, "data: {use: nnunet, root: DATASET}  # your dataset's folder", ""]),
        section(
            "preprocess",
            *_known("spacing_mm", list(start.spacing_mm) if start.spacing_mm else "auto"),
            *_known("normalize", _plain(start.normalize)),
        ),
        section("sample", *_known("patch_size", patch), ("batch_size", BATCH, "")),
        model_lines(start, output),
        "loss: dice_ce\n",
        section("train", ("epochs", 200, "of 250 steps"), *learning(start)),
    ]
    return "\n".join(parts)


def _known(key: str, value: Any) -> list[tuple[str, Any, str]]:
    return [(key, value, "not told by the weights" if value == "auto" else "as the weights tell")]


def _plain(normalize: str | WindowSettings) -> Any:
    """As a pipeline file has it."""
    return normalize if isinstance(normalize, str) else normalize.model_dump(mode="json", exclude_none=True)
