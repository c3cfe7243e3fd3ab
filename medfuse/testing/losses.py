"""What a loss on logits keeps: right logits cost least, everywhere, and its gradient leads there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.api import Loss
from medfuse.testing.modules import module_laws
from medfuse.testing.report import report
from medfuse.testing.tensors import finite_scalar, generator, outputs_of, random, seeded
from medfuse.testing.tested import Tested

CLASSES = 3
SIZE = (9, 8, 6)
SURE = 10.0
"""Logits of a confident network: what is right, against 0."""


def check_loss(plugin: Loss) -> None:
    """A finite scalar with a gradient, in 2-D and 3-D, that prefers right logits to wrong ones.

    It is asked about every class, every case of a batch, every border of a patch, and about voxels in a row.
    """

    def given(batch: int, *, seed: int = 1, odd: bool = False) -> list[Tensor]:
        _, target = _case(3)
        return [seed * random(2, CLASSES, *SIZE, seed=seed), target]

    tested = Tested(partial(plugin.build, CLASSES), given, outputs_of, ["logits", "target"])
    report(
        plugin,
        {
            "a finite scalar with a gradient in 2-D": partial(_bears_dims, plugin, 2),
            "a finite scalar with a gradient in 3-D": partial(_bears_dims, plugin, 3),
            "any number of classes": partial(_bears_any_number_of_classes, plugin),
            "any batch": partial(_bears_any_batch, plugin),
            "finite where background is alone": partial(_bears_one_class_alone, plugin),
            "finite where a class is absent": partial(_bears_absent_classes, plugin),
            "finite where logits are certain": partial(_bears_certain_logits, plugin),
            "prefers what is right": partial(_prefers_what_is_right, plugin),
            "every class counts": partial(_every_class_counts, plugin),
            "every case counts": partial(_every_case_counts, plugin),
            "every border counts": partial(_every_border_counts, plugin),
            "its gradient leads to what is right": partial(_its_gradient_leads, plugin),
            "a mean, not a sum": partial(_is_a_mean, plugin),
            "voxels in a row": partial(_bears_rows, plugin),
            "near in bf16": partial(_is_near_in_bf16, plugin),
            "nothing in it waits for training": partial(_has_nothing_to_train, plugin),
            **module_laws(tested, "losses"),
        },
    )


def _value(plugin: Loss, logits: Tensor, target: Tensor) -> Tensor:
    return finite_scalar(seeded(partial(plugin.build, logits.shape[1]))(logits, target))


def _cost(plugin: Loss, logits: Tensor, target: Tensor) -> float:
    return _value(plugin, logits, target).item()


def _case(dims: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Logits that are certain of a target, and the target: slabs of classes, in each case along an axis."""
    size = SIZE[:dims]
    grids = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    slabs = [grids[0] * classes // size[0], (size[1] - 1 - grids[1]) * classes // size[1]]
    target = torch.stack(slabs)[:, None]  # (2, 1, *size)
    return _one_hot(target, classes), target


def _one_hot(target: Tensor, classes: int) -> Tensor:
    return functional.one_hot(target[:, 0], classes).movedim(-1, 1).float()


def _has_a_gradient(plugin: Loss, logits: Tensor, target: Tensor, what: str = "") -> None:
    logits = logits.clone().requires_grad_()
    try:
        made = _value(plugin, logits, target)
        assert made.requires_grad, "no gradient reaches the logits"
        made.backward()
        assert logits.grad is not None, "no gradient reaches the logits"
        assert bool(torch.isfinite(logits.grad).all()), "the gradient is not finite"
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        said = f"{kind}{error} (logits {tuple(logits.shape)}{', ' if what else ''}{what})"
        raise AssertionError(said) from error


def _bears_dims(plugin: Loss, dims: int) -> None:
    truth, target = _case(dims)
    _has_a_gradient(plugin, random(*truth.shape), target)


def _bears_any_number_of_classes(plugin: Loss) -> None:
    for number in (2, 5):
        truth, target = _case(3, number)
        _has_a_gradient(plugin, random(*truth.shape), target)
    number = 300  # more than fit into a byte; the last of them is there
    target = torch.arange(number).reshape(1, 1, 15, 20)
    _has_a_gradient(plugin, random(1, number, 15, 20), target)
    for late in (130, 299):
        half = torch.where(target < 150, 0, late)
        right, wrong = (
            _cost(plugin, SURE * _one_hot(t, number), half) for t in (half, torch.zeros_like(half))
        )
        told = wrong - right > 1e-4 * abs(wrong)  # more than rounding
        assert told, f"overlooking class {late} of {number} is free: right costs {right}, that {wrong}"


def _bears_any_batch(plugin: Loss) -> None:
    truth, target = _case(3)
    for batch in ([0], [0, 1, 0, 1, 1]):
        _has_a_gradient(plugin, random(*truth[batch].shape), target[batch])


def _bears_one_class_alone(plugin: Loss) -> None:
    truth, target = _case(3)
    _has_a_gradient(plugin, random(*truth.shape), torch.zeros_like(target), "a target of background alone")


def _bears_absent_classes(plugin: Loss) -> None:
    truth, target = _case(3)
    for number in range(CLASSES):
        alone = torch.full_like(target, number)
        _has_a_gradient(plugin, random(*truth.shape), alone, f"a target of class {number} alone")
        without = target.where(target != number, (number + 1) % CLASSES)
        _has_a_gradient(plugin, random(*truth.shape), without, f"a target without class {number}")
        right, wrong = (_cost(plugin, sign * SURE * _one_hot(without, CLASSES), without) for sign in (1, -1))
        assert right < wrong, f"where class {number} is absent, right logits cost {right}, wrong ones {wrong}"


def _bears_certain_logits(plugin: Loss) -> None:
    truth, target = _case(3)
    for sign in (1, -1):
        _has_a_gradient(
            plugin, sign * 1000 * truth, target, f"certain of what is {'right' if sign > 0 else 'wrong'}"
        )


def _prefers_what_is_right(plugin: Loss) -> None:
    truth, target = _case(3)
    right, wrong = _cost(plugin, SURE * truth, target), _cost(plugin, -SURE * truth, target)
    assert right < wrong, f"right logits cost {right}, wrong ones {wrong}"
    for seed in (1, 2, 3):
        drawn = _cost(plugin, random(*truth.shape, seed=seed), target)
        assert right < drawn, f"right logits cost {right}, random ones {drawn}"


def _costs_more(plugin: Loss, dims: int, wrong: Tensor, what: str) -> None:
    """Sure logits of the classes `wrong` cost more than right ones, if only a little for each voxel."""
    truth, target = _case(dims)
    right, worst = (_cost(plugin, sign * SURE * truth, target) for sign in (1, -1))
    made = _cost(plugin, SURE * _one_hot(wrong, CLASSES), target)
    share = float((wrong != target).float().mean())
    least = right + 1e-3 * share * (worst - right)
    assert made > least, f"{what} is free: it costs {made:.6g}, what is right {right:.6g}"


def _every_class_counts(plugin: Loss) -> None:
    _, target = _case(3)
    for real in range(CLASSES):
        for said in range(CLASSES):
            if said != real:
                wrong = target.where(target != real, said)
                _costs_more(plugin, 3, wrong, f"calling class {real} class {said} (of {CLASSES})")


def _every_case_counts(plugin: Loss) -> None:
    _, target = _case(3)
    for case in range(2):
        wrong = target.clone()
        wrong[case] = (wrong[case] + 1) % CLASSES
        _costs_more(plugin, 3, wrong, f"getting case {case} of a batch of 2 wrong")


def _every_border_counts(plugin: Loss) -> None:
    for dims in (2, 3):
        _, target = _case(dims)
        for axis in range(dims):
            for place in (0, -1):
                wrong = target.clone()
                border = wrong.select(2 + axis, place)
                border.copy_((border + 1) % CLASSES)
                _costs_more(plugin, dims, wrong, f"getting index {place} of axis {axis} of {dims} wrong")


def _its_gradient_leads(plugin: Loss) -> None:
    """Logits that follow it, step by step, cost a good part less than where they began."""
    truth, target = _case(2)
    module = seeded(partial(plugin.build, CLASSES))
    logits = random(*truth.shape).requires_grad_()
    begin, best = module(logits.detach(), target).item(), module(SURE * truth, target).item()
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(30):
        optimizer.zero_grad()
        module(logits, target).backward()
        optimizer.step()
    end = module(logits.detach(), target).item()
    assert begin - end > 0.3 * (begin - best), (
        f"30 steps along its gradient take it from {begin:.4g} to {end:.4g}, right logits are at {best:.4g}; "
        "nothing of what depends on the logits may be detached, and its sign has to be that of the value"
    )


def _is_a_mean(plugin: Loss) -> None:
    """About as large for a batch of 16 as for one of 4, else each needs another learning rate."""
    truth, target = _case(3)
    logits = random(*truth.shape)
    few, many = (_cost(plugin, logits[[0] * n], target[[0] * n]) for n in (4, 16))
    alike = few == many or 0.4 < many / (few or 1e-9) < 2.5
    assert alike, f"it is {few:.4g} for 4 equal cases, and {many:.4g} for 16; take the mean, not the sum"


def _bears_rows(plugin: Loss) -> None:
    """Annotated voxels in a row, in any order: (1, classes, voxels, 1, 1), as a loss is given them."""
    if plugin.looks_at_places():
        return
    for dims in (2, 3):
        truth, target = _case(dims)
        logits, target = random(*truth[:1].shape), target[:1]
        whole = _cost(plugin, logits, target)
        row, line = _row(logits, dims), _row(target, dims)
        order = torch.randperm(row.shape[2], generator=generator())
        _has_a_gradient(plugin, row[:, :, order], line[:, :, order], "voxels in a row")
        _has_a_gradient(plugin, row[:, :, :1], line[:, :, :1], "a single voxel")
        made = _cost(plugin, row[:, :, order], line[:, :, order])
        assert math.isclose(made, whole, rel_tol=1e-3, abs_tol=1e-4), (
            f"voxels in a row, in another order, cost {made:.4g}, in their places {whole:.4g}; if it matters "
            "where a voxel lies, let looks_at_places() return True"
        )
        eight = (1, 1, 8, *(1,) * (dims - 1))
        longer = _cost(plugin, row.repeat(eight), line.repeat(eight))
        alike = whole == longer or 0.4 < longer / (whole or 1e-9) < 2.5
        assert alike, (
            f"voxels in a row cost {whole:.4g}, and 8 times as many like them {longer:.4g}; take the "
            "mean, not "
            "the sum"
        )


def _row(x: Tensor, dims: int) -> Tensor:
    return x.reshape(1, x.shape[1], -1, *(1,) * (dims - 1))


def _is_near_in_bf16(plugin: Loss) -> None:
    truth, target = _case(3)
    logits = (3 * random(*truth.shape)).bfloat16()
    exact = _cost(plugin, logits.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        made = _cost(plugin, logits, target)
    assert abs(made - exact) <= 0.05 * abs(exact) + 1e-3, (
        f"logits in bf16 cost {made:.4g}, the same in float32 {exact:.4g}; compute with logits.float()"
    )


def _has_nothing_to_train(plugin: Loss) -> None:
    names = [n for n, p in _parameters(plugin) if p.requires_grad]
    assert not names, (
        f"{', '.join(names)} waits to be trained, and medfuse trains no weights of a loss; set requires_grad "
        "to False, or make it a buffer"
    )


def _parameters(plugin: Loss) -> Iterator[tuple[str, nn.Parameter]]:
    return seeded(partial(plugin.build, CLASSES)).named_parameters()
