"""What is random follows torch's seed alone, and no seed is set behind anybody's back."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from medfuse.testing.tensors import same, seeded
from medfuse.testing.tested import Tested


def is_torchs(tested: Tested) -> None:
    """Training is a function of torch's seed, so that a run that was killed goes on as if it had not been."""
    module = seeded(tested.build).train()
    torch.manual_seed(7)
    same(
        tested.trained.outputs,
        tested.run(module, tested.given(2)),
        "in training after the same torch.manual_seed; draw from torch's own generator, not from `random`, "
        "numpy or a generator that is kept",
    )


def is_left_alone(tested: Tested) -> None:
    assert_no_reseeding(tested.build, "build()")
    module = seeded(tested.build)
    for mode in (True, False):
        module.train(mode)
        assert_no_reseeding(lambda: tested.run(module, tested.given(2)), "a forward pass")


def assert_no_reseeding(action: Callable[[], object], what: str) -> None:
    """After an action, what is drawn still depends on the seeds that were set before it."""
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        action()
        drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))
    alike = [who for who, a, b in zip(("torch", "random", "numpy"), *drawn) if a == b]
    assert not alike, (
        f"{what} sets the seed of {', '.join(alike)}, for everything that comes after it; leave it "
        "out, or use "
        "torch.random.fork_rng()"
    )
