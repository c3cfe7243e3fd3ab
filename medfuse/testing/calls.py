"""What a module's calls keep: one neither changes what it is given, nor leaves anything for the next."""

from __future__ import annotations

import contextlib
import gc
import pickle
import weakref

import torch

from medfuse.testing.tensors import distance, same
from medfuse.testing.tested import Tested, Traits

CLOSE = 1e-3
"""A share of the output that another order of additions may change."""


def leave_inputs(tested: Tested) -> None:
    fresh = tested.named(tested.given(2))
    for mode, used in (("evaluation", tested.tried.given), ("training", tested.trained.given)):
        changed = [name for (name, x), y in zip(fresh, used) if not torch.equal(x, y)]
        assert not changed, (
            f"{', '.join(changed)} is changed in place in {mode}; others still need it: work on a new tensor"
        )


def are_deterministic(tested: Tested) -> None:
    again = tested.run(tested.tried.module, tested.given(2))
    same(tested.tried.outputs, again, "asked twice for the same inputs in evaluation")


def leave_nothing(tested: Tested) -> None:
    """A module that saw other values, at another size, answers as one that saw nothing before."""
    module = tested.fresh()
    tested.run(module, tested.given(3, seed=2, odd=True))
    same(
        tested.tried.outputs,
        tested.run(module, tested.given(2)),
        "after a call with other values at another size (keep no values, sizes or grids between calls)",
    )


def give_outputs_of_their_own(tested: Tested) -> None:
    module = tested.fresh()
    made = [tested.run(module, tested.given(2, seed=seed)) for seed in (1, 2)]
    kept = [{name: x.clone() for name, x in maps.items()} for maps in made]
    for seed in (3, 4, 5):
        tested.run(module, tested.given(2, seed=seed))
    for before, after in zip(kept, made):
        same(before, after, "once the module is called again (it writes into a buffer that was handed out)")


def hoard_nothing(tested: Tested) -> None:
    """What a call was given and made may be kept until the next call, and no longer."""
    module = tested.fresh()
    given = tested.given(2, seed=2)
    made = tested.run(module, given)
    held = [weakref.ref(x) for x in (*given, *made.values())]
    del given, made
    for _ in range(2):
        tested.run(module, tested.given(2))
    if any(ref() is not None for ref in held):
        gc.collect()
    alive = sum(ref() is not None for ref in held)
    assert not alive, f"{alive} tensors of a call are still held two calls later; memory would run out"
    grown = 0
    with contextlib.suppress(Exception):  # what cannot be pickled is told elsewhere
        before = len(pickle.dumps(module))
        for _ in range(2):
            tested.run(module, tested.given(2))
        grown = len(pickle.dumps(module)) - before
    assert grown < 200, f"the module grows by {grown // 2} bytes with each call; memory would run out"


def leave_the_module(tested: Tested) -> None:
    for mode, passed in (("evaluation", tested.tried), ("training", tested.trained)):
        _compare(passed.before, passed.after, f"by a forward pass in {mode}")
    changed = [
        n for n, x in tested.tried.before.buffers.items() if _differ(x, tested.tried.after.buffers.get(n))
    ]
    assert not changed, f"buffers {', '.join(changed)} are changed by a forward pass in evaluation"


def _compare(before: Traits, after: Traits, when: str) -> None:
    turned = [name or "the module" for name, on in before.modes.items() if after.modes.get(name, on) != on]
    assert not turned, (
        f"{', '.join(turned[:3])} is put into another mode {when}; leave train() and eval() to the caller"
    )
    hooked = [name or "the module" for name, n in after.hooks.items() if n > before.hooks.get(name, 0)]
    assert not hooked, (
        f"{', '.join(hooked[:3])} gets one more hook {when}; register hooks once, or remove them"
    )
    thawed = [name for name, off in before.frozen.items() if after.frozen.get(name, off) != off]
    assert not thawed, f"requires_grad of {', '.join(thawed[:3])} is changed {when}"
    changed = [name for name, x in before.weights.items() if _differ(x, after.weights.get(name))]
    assert not changed, f"{', '.join(changed[:3])} is changed {when}; weights are the optimiser's to change"


def _differ(x: torch.Tensor, y: torch.Tensor | None) -> bool:
    return y is not None and not torch.equal(x, y)


def take_any_batch(tested: Tested) -> None:
    """In evaluation, what is made of a case depends neither on its company nor on its place there."""
    module, five = tested.tried.module, tested.given(5)
    together = tested.run(module, five)
    turned = tested.run(module, [x.flip(0) for x in five])
    alone = tested.run(module, [x[4:] for x in five])
    for name in together:
        counts = [made[name].shape[0] for made in (alone, together)]
        assert counts == [1, 5], f"output {name} has batches {counts} for batches of 1 and 5"
        other = "output {} of a case changes with the other cases of its batch (by {:.1%})"
        for error in (
            distance(together[name], turned[name].flip(0)),
            distance(together[name][4:], alone[name]),
        ):
            assert error < CLOSE, other.format(name, error)
