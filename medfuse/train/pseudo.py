"""Pseudo-labels: what a teacher is sure of on unlabelled cases is the student's label there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.api import Case, DatasetInfo
from medfuse.core.errors import DataError, Problem, did_you_mean
from medfuse.train.objective import shrink
from medfuse.train.settings import PseudoLabelSettings

IGNORED = -100
"""The class of voxels that teach nothing."""

MAIN = "main"

UnlabelledBatches = Callable[[int], Generator[Mapping[str, Tensor], None, None]]
"""start → endless batches {"image", "weak"}, both (b, c, *patch): `weak` without changes of intensity."""


class PseudoLabels:
    """Batches without labels, and the loss on them (Lee 2013; FixMatch, Sohn et al. 2020).

    `teacher` is another network; where it is None the caller has the student teach itself. Batch number n
    belongs to one step, so that a run that resumes sees what it would have seen.
    """

    def __init__(
        self, settings: PseudoLabelSettings, batches: UnlabelledBatches, teacher: nn.Module | None = None
    ) -> None:
        self.settings, self.teacher = settings, teacher
        self._batches = batches
        self._stream: Generator[Mapping[str, Tensor], None, None] | None = None

    def weight(self, done: float) -> float:
        """The weight of the loss at a share `done` of training: 0, a rise along a line, then all of it."""
        since, ramp = done - self.settings.begin, self.settings.ramp
        if since < 0:
            return 0.0
        return self.settings.weight * (min(1.0, since / ramp) if ramp else 1.0)

    def draw(self, step: int, done: float) -> Mapping[str, Tensor] | None:
        """The batch of a step, or None where it has none. The first of them opens the row of batches."""
        number, following = (int(n * self.settings.share) for n in (step, step + 1))
        if following == number or not self.weight(done):
            return None
        if self._stream is None:
            self._stream = self._batches(number)
        return next(self._stream)

    def labels(self, teacher: nn.Module, weak: Tensor) -> Tensor:
        """(batch, 1, *spatial): what `teacher` says of the weakly augmented patches, and IGNORED."""
        with evaluating(teacher), torch.no_grad():
            return confident_labels(teacher(weak), self.settings.confidence)

    def loss(self, student: Callable[..., object], image: Tensor, labels: Tensor) -> Tensor:
        """The sum over heads of their cross-entropy to `labels`."""
        inner = tuple(name for name in self.settings.heads if name != MAIN)
        output = student(image, aux=inner) if inner else student(image)
        logits, others = output if isinstance(output, tuple) else (output, {})
        heads = {MAIN: logits, **others}
        losses = [masked_cross_entropy(heads[name], labels) for name in self.settings.heads]
        return torch.stack(losses).sum()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def confident_labels(logits: Tensor, confidence: float) -> Tensor:
    """(batch, 1, *spatial): the likeliest class where its probability is above `confidence`, else IGNORED.

    With a confidence of 1 nothing passes, however saturated the logits (batch, classes, *spatial) are.
    """
    probability, label = logits.float().softmax(1).max(1, keepdim=True)
    return label.where(probability > confidence, torch.full_like(label, IGNORED))


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of `logits` on their own grid, summed over labelled voxels and divided by all of them.

    So a few confident voxels weigh little, as in FixMatch, and the loss grows as the teacher grows sure.
    """
    target = shrink(labels, logits.shape[2:])[:, 0]
    total = functional.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="sum")
    return total / target.numel()


def unlabelled_cases(info: DatasetInfo, settings: PseudoLabelSettings) -> tuple[Case, ...]:
    """The cases that pseudo-labels are made for, without their label should a test case have one.

    Raises DataError where there are none, and where two cases share a name: what holds a run's result to
    account must not be taught as something else.
    """
    test = info.test_cases if settings.cases in ("test", "both") else ()
    bare = [case for case in info.cases if case.label is None] if settings.cases != "test" else []
    found = tuple(replace(case, label=None) for case in (*bare, *test))
    if not found:
        what = {"test": "test cases", "unlabelled": "training cases without a label"}
        wanted = what.get(settings.cases, " and no ".join(what.values()))
        raise DataError(f"the dataset has no {wanted}, and pseudo-labels need some; add them to the dataset")
    used = [case.name for case in info.cases if case.label is not None] + [case.name for case in found]
    if twice := sorted({name for name in used if used.count(name) > 1}):
        raise DataError(
            f"unlabelled cases share their name with another case: {', '.join(twice[:5])}; rename their files"
        )
    return found


def head_problems(heads: Sequence[str], aux: Iterable[str], presence: Sequence[str] = ()) -> list[Problem]:
    """Names in `train.pseudo_labels.heads` that are no head of the model, or none that labels voxels."""
    known = [MAIN, *(name for name in aux if name not in presence)]
    return [
        Problem(
            ("train", "pseudo_labels", "heads", index),
            f"head {name!r} tells which labels are in the patch, and pseudo-labels are of voxels; take it out"
            if name in presence
            else f"the model has no head {name!r}{did_you_mean(name, known)} (there are: "
            f"{', '.join(known)}); auxiliary heads are those of model.aux.heads",
        )
        for index, name in enumerate(heads)
        if name not in known
    ]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode, so that running statistics stand still; then each of its modules as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:  # not train(), which would thaw what is frozen below it
            module.training = True
