"""What a runtime keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.api import Runtime
from medfuse.testing.report import report
from medfuse.testing.tensors import (
    random,
    same,
    seeded,
)


def check_runtime(plugin: Runtime) -> None:
    """Logits of small 2-D and 3-D networks against those that torch gives in evaluation and fp32."""
    layers: dict[int, tuple[Any, Any]] = {
        2: (nn.Conv2d, nn.BatchNorm2d),
        3: (nn.Conv3d, nn.BatchNorm3d),
    }

    def network(dims: int) -> nn.Module:
        conv, norm = layers[dims]
        return nn.Sequential(conv(1, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Dropout(0.5), conv(8, 3, 1))

    def windows(dims: int, batch: int = 2) -> Tensor:
        return random(batch, 1, *(8, 8, 6)[:dims])

    def prepared(dims: int) -> Callable[[Tensor], Tensor]:
        return plugin.prepare(seeded(partial(network, dims)), windows(dims))

    def equals_torch(dims: int, batch: int = 2) -> None:
        made = prepared(dims)(windows(dims, batch))
        with torch.no_grad():
            expected = seeded(partial(network, dims)).eval()(windows(dims, batch))
        assert isinstance(made, Tensor), f"makes a {type(made).__name__}, not a tensor"
        assert made.shape == expected.shape, f"makes {tuple(made.shape)}, wanted is {tuple(expected.shape)}"
        error = float((made.float() - expected).norm() / expected.norm())
        assert error < 0.05, f"logits differ from torch's by {error:.2g} of their size"

    def gives_floats() -> None:
        made = prepared(2)(windows(2))
        wanted = (torch.float32, torch.bfloat16, torch.float16)
        assert made.dtype in wanted, f"logits are {made.dtype}, wanted is one of {wanted}"
        assert not made.requires_grad, "logits hold on to a graph; run in torch.inference_mode()"

    def leaves_its_windows() -> None:
        given = windows(2)
        prepared(2)(given)
        assert torch.equal(given, windows(2)), "the windows are changed in place"

    def repeats_itself() -> None:
        run = prepared(2)
        same({"logits": run(windows(2)).clone()}, {"logits": run(windows(2))})

    def keeps_networks_apart() -> None:
        first = prepared(2)
        before = first(windows(2)).clone()
        second = seeded(partial(network, 2))
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.add_(1)
        plugin.prepare(second, windows(2))(windows(2))
        assert torch.equal(before, first(windows(2))), "preparing another network changes the first"

    report(
        plugin,
        {
            "equals torch in 2-D": partial(equals_torch, 2),
            "equals torch in 3-D": partial(equals_torch, 3),
            "any batch": partial(equals_torch, 2, 1),
            "logits are floats without a graph": gives_floats,
            "inputs stay as they are": leaves_its_windows,
            "is deterministic": repeats_itself,
            "two networks share nothing": keeps_networks_apart,
        },
    )
