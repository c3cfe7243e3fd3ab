"""No more memory and no more calls than weights justify."""

import pytest
import torch
from torch import nn

from medfuse.core.errors import CheckpointError
from medfuse.model.bounded import Bounded

WEIGHTS = [torch.zeros(10)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(2**30),
        lambda: torch.zeros(2**15, 2**15),
        lambda: torch.empty_strided((2**30,), (1,)),
        lambda: torch.arange(2**30),
        lambda: torch.zeros(1).new_zeros(2**30),
        lambda: torch.zeros(1).repeat(2**30),
        lambda: nn.Linear(2**15, 2**15),
        lambda: [torch.zeros(2**26) for _ in range(99)],
    ],
)
def test_what_is_far_larger_than_the_weights_is_refused_before_it_is_made(make):
    with Bounded(WEIGHTS), pytest.raises(CheckpointError, match="far larger"):
        make()


def test_calls_without_end_are_refused():
    with Bounded(WEIGHTS), pytest.raises(CheckpointError, match="far more parts"):
        [torch.empty(1, device="meta") for _ in range(30_000)]


def test_shapes_alone_cost_nothing():
    with Bounded(WEIGHTS), torch.device("meta"):
        assert nn.Linear(2**20, 2**20).weight.is_meta


def test_a_network_of_its_weights_is_made():
    network = nn.Sequential(*(nn.Conv3d(8, 8, 3) for _ in range(50)))
    with Bounded(network.state_dict().values()):
        assert nn.Sequential(*(nn.Conv3d(8, 8, 3) for _ in range(50)))
