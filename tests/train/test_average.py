"""The running mean of the weights."""

import torch
from torch import nn

from medfuse.train.average import Average


def test_a_weight_that_two_layers_share_is_averaged_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.add_module("again", model[2])
    average = Average(model, 0.999)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    average.update(model, 0)  # at step 0 the mean keeps a tenth of what it was
    for mean, old in zip(average.model.parameters(), before, strict=True):
        torch.testing.assert_close(mean, old + 0.9)
