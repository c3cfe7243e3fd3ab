"""Weights that are learned (Kendall et al. 2018)."""

import pytest
import torch

from medfuse import registry
from medfuse.api import AuxSchedule
from medfuse.testing import check_aux_schedule

Uncertainty = registry.get(AuxSchedule.group, "uncertainty")


def test_the_contract_is_kept():
    check_aux_schedule(Uncertainty(start=0.3))


def test_it_begins_with_the_weights_that_are_asked_for():
    assert Uncertainty(start=0.25).balance(2).weights() == pytest.approx([1.0, 0.25, 0.25])


def test_a_loss_of_one_half_keeps_its_weight():
    balance = Uncertainty().balance(1)
    balance(torch.tensor([0.5, 0.5])).backward()
    assert balance.log_variance.grad.abs().max() < 1e-6


def test_weights_settle_at_half_the_inverse_of_their_loss():
    balance, losses = Uncertainty().balance(2), torch.tensor([0.5, 2.0, 0.1])
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        balance(losses).backward()
        optimizer.step()
    assert balance.weights() == pytest.approx([1.0, 0.25, 5.0], rel=1e-2)
