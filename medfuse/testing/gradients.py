"""What gradients keep: they reach what they should, and every channel has a part in what is made."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from medfuse.testing.tensors import generator, random, seeded
from medfuse.testing.tested import Tested
from medfuse.testing.weights import shaken


def missed(tested: Tested) -> list[str]:
    """Names of the parameters and inputs that no gradient reaches after one step backwards."""
    module = seeded(tested.build).train()
    given = [x.requires_grad_() if x.is_floating_point() else x for x in tested.given(2)]
    backward(tested.run(module, given).values())
    sought = [*module.named_parameters(), *tested.named(given)]
    bad = [name for name, x in sought if x.grad is not None and not bool(torch.isfinite(x.grad).all())]
    assert not bad, f"the gradient of {', '.join(bad)} is not finite"
    return [name for name, x in sought if x.requires_grad and x.grad is None]


def reach_everything(tested: Tested) -> None:
    names = missed(tested)
    assert not names, (
        f"no gradient reaches {', '.join(names)}; use it, leave it out, or set requires_grad to False"
    )


def are_alive(tested: Tested) -> None:
    """In evaluation too: class activation maps are made of them."""
    given = [x.requires_grad_() if x.is_floating_point() else x for x in tested.given(2)]
    evaluated = tested.run(tested.tried.module, given)
    for mode, made in (("evaluation", evaluated), ("training", tested.trained.outputs)):
        dead = [name for name, x in made.items() if not x.requires_grad]
        assert not dead, f"{', '.join(dead)} is detached in {mode}; leave out detach() and torch.no_grad()"


def every_channel_counts(tested: Tested) -> None:
    """Other values in any one channel change what is made, with weights that have left their beginning."""
    module = tested.fresh()
    shaken(module)
    given = [x.requires_grad_() if x.is_floating_point() else x for x in tested.given(2)]
    made = tested.run(module, given)
    chance = generator(5)
    weighed = [(x.float() * torch.randn(x.shape, generator=chance)).sum() for x in made.values()]
    if any(x.requires_grad for x in weighed):
        torch.stack(weighed).sum().backward()
    for number, (name, x) in enumerate(tested.named(given)):
        for channel in range(x.shape[1]):
            if x.grad is not None and bool(x.grad[:, channel].any()):
                continue
            others = [y.detach().clone() for y in given]
            others[number][:, channel] = random(*x[:, channel].shape, seed=9)
            changed = tested.run(module, others)
            assert any(not torch.equal(made[key], changed[key]) for key in made), (
                f"channel {channel} of {x.shape[1]} of {name} changes nothing; use it, or refuse such inputs "
                "with ShapeError"
            )


def backward(outputs: Iterable[Tensor]) -> None:
    alive = [x.float().square().mean() for x in outputs if x.requires_grad]
    assert alive, "no output has a gradient"
    torch.stack(alive).sum().backward()
