"""Where channels are after reshaping, as windows of a transformer are cut and put together."""

import pytest
import torch
from torch import Tensor, nn

from medfuse.model.provenance import Provenance, channel_axis


def windows(x: Tensor) -> Tensor:
    """(batch, 8, 8, channels) cut into windows of 4 × 4, a linear layer in each, and put together."""
    batch, height, width, channels = x.shape
    cut = x.view(batch, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
    tokens = nn.Linear(channels, channels)(cut.contiguous().view(-1, 16, channels))
    back = tokens.view(batch, height // 4, width // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
    return back.contiguous().view(batch, height, width, channels)


CHANGES = {
    "windows of channels last": (windows, 3),
    "tokens and back": (lambda x: nn.LayerNorm(6)(x.reshape(2, 64, 6)).reshape(2, 8, 8, 6), 3),
    "rows flattened, channels first": (lambda x: x.permute(0, 3, 1, 2).flatten(2).unflatten(2, (8, 8)), 1),
    "half of the channels in another axis": (lambda x: x.reshape(2, 8, 16, 3), None),
    "batch and channels merged": (lambda x: x.permute(0, 3, 1, 2).reshape(1, 12, 8, 8), None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_reshaping_tells_where_channels_are_only_where_it_keeps_them_together(name):
    change, axis = CHANGES[name]
    with Provenance():
        assert channel_axis(change(nn.Linear(5, 6)(torch.zeros(2, 8, 8, 5)))) == axis
