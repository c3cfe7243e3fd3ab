"""What a loss on logits keeps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from medfuse.api import Loss
from medfuse.testing.modules import ModuleLaws
from medfuse.testing.report import report
from medfuse.testing.tensors import (
    finite_scalar,
    generator,
    outputs_of,
    random,
    seeded,
)


def check_loss(plugin: Loss) -> None:
    """A finite scalar with a gradient, in 2-D and 3-D, that prefers right logits to wrong ones."""
    classes = 3

    def value(logits: Tensor, target: Tensor) -> Tensor:
        return finite_scalar(seeded(partial(plugin.build, logits.shape[1]))(logits, target))

    def case(dims: int, classes: int = classes) -> tuple[Tensor, Tensor]:
        """Logits that are certain of a random target, and the target."""
        target = torch.randint(classes, (2, 1, *(6, 5, 7)[:dims]), generator=generator())
        return nn.functional.one_hot(target[:, 0], classes).movedim(-1, 1).float(), target

    def has_a_gradient(logits: Tensor, target: Tensor) -> None:
        logits = logits.clone().requires_grad_()
        made = value(logits, target)
        assert made.requires_grad, "no gradient reaches the logits"
        made.backward()
        assert logits.grad is not None, "no gradient reaches the logits"
        assert bool(torch.isfinite(logits.grad).all()), "the gradient is not finite"

    def for_dims(dims: int) -> None:
        truth, target = case(dims)
        has_a_gradient(random(*truth.shape), target)

    def for_any_number_of_classes() -> None:
        for number in (2, 5):
            truth, target = case(3, number)
            has_a_gradient(random(*truth.shape), target)

    def on_background_alone() -> None:
        truth, target = case(3)
        has_a_gradient(random(*truth.shape), torch.zeros_like(target))

    def for_certain_logits() -> None:
        truth, target = case(3)
        for sign in (1, -1):
            has_a_gradient(sign * 1000 * truth, target)

    def prefers_what_is_right() -> None:
        truth, target = case(3)
        right, wrong = value(10 * truth, target), value(-10 * truth, target)
        assert right < wrong, f"right logits cost {float(right)}, wrong ones {float(wrong)}"

    def given(_: int) -> list[Tensor]:
        truth, target = case(3)
        return [random(*truth.shape), target]

    module = ModuleLaws(partial(plugin.build, classes), given, outputs_of, ["logits", "target"])
    report(
        plugin,
        {
            "a finite scalar with a gradient in 2-D": partial(for_dims, 2),
            "a finite scalar with a gradient in 3-D": partial(for_dims, 3),
            "any number of classes": for_any_number_of_classes,
            "finite where background is alone": on_background_alone,
            "finite where logits are certain": for_certain_logits,
            "prefers what is right": prefers_what_is_right,
            **module.laws("losses"),
        },
    )
