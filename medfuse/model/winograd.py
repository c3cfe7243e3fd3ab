"""3-D convolutions with half of their multiplications, on a CPU: minimal filtering along the first axis.

Four planes of output take six 2-D convolutions, where twelve are the usual way (Winograd, "Arithmetic
complexity of computations", 1980; F(4, 3) in Lavin and Gray, arXiv 1509.09308). It is done along one axis
alone, so that the 2-D convolutions are torch's own, and planes stay as they lie in memory.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

_TILE = 4  # planes of output that are made together, of two more planes of input
_PLANES = torch.tensor(  # six planes of input → what the six 2-D convolutions are given
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNELS = torch.tensor(  # the three planes of a kernel → 24 times the kernels of the six 2-D convolutions
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64
)
_BYTES = 8 << 20  # of planes that are worked on at a time, so that they stay in caches
_FEWEST = 16  # channels from which it pays


def with_winograd(model: nn.Module) -> nn.Module | None:
    """A copy of `model` that shares its weights, for fp32 without gradients; None where nothing gains.

    Convolutions gain that have a kernel of 3 and a stride of 1 along the first axis, a kernel of at least
    3 × 3 along the others, and 16 channels or more on both sides.
    """
    twin = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    gaining = [module for module in twin.modules() if type(module) is nn.Conv3d and _gains(module)]
    for convolution in gaining:
        convolution.__class__ = _Winograd
        assert isinstance(convolution, _Winograd)
        convolution.transform_kernels()
    return twin if gaining else None


def _gains(convolution: nn.Conv3d) -> bool:
    depth, *others = convolution.kernel_size
    return (
        (depth, convolution.stride[0], convolution.dilation[0], convolution.groups) == (3, 1, 1, 1)
        and min(others) >= 3
        and min(convolution.in_channels, convolution.out_channels) >= _FEWEST
        and convolution.padding_mode == "zeros"
        and convolution.padding[0]
        in (0, 1, 2)  # with more some planes would see nothing; it may be a word, too
    )


class _Winograd(nn.Conv3d):
    """A convolution that is computed plane by plane, with channels innermost in memory."""

    def transform_kernels(self) -> None:
        """To be called once, when the weights are there."""
        kernels = torch.einsum("td,oidhw->toihw", _KERNELS, self.weight.detach().double()).div(24).float()
        self.kernels = [k.contiguous(memory_format=torch.channels_last) for k in kernels]

    def forward(self, x: Tensor) -> Tensor:
        images = x.permute(0, 2, 3, 4, 1).contiguous()
        padded = images.shape[1] + 2 * int(self.padding[0])
        made = [self._convolve(image, padded - 2) for image in images]
        together = torch.stack(made) if len(made) > 1 else made[0][None]
        return together.permute(0, 4, 1, 2, 3)

    def _convolve(self, image: Tensor, depth: int) -> Tensor:
        """Planes (depth, height, width, channels) → `depth` planes."""
        tiles = -(-depth // _TILE)
        at_once = max(1, _BYTES // (len(_PLANES) * image[0].numel() * image.element_size()))
        output: Tensor | None = None
        for first in range(0, tiles, at_once):
            given = self._transform(image, range(first, min(first + at_once, tiles)))
            made = [self._convolve_planes(planes, place) for place, planes in enumerate(given)]
            if output is None:
                output = image.new_empty(depth, *made[0].shape[1:])
            _add_up(made, output[first * _TILE : (first + at_once) * _TILE])
        assert output is not None
        return output

    def _transform(self, image: Tensor, tiles: range) -> Tensor:
        """What the six convolutions are given: (6, tiles, height, width, channels)."""
        planes = image.flatten(1)
        given = planes.new_empty(len(_PLANES), len(tiles), planes.shape[1])
        for place, tile in enumerate(tiles):
            start = tile * _TILE - int(self.padding[0])
            inside = range(max(start, 0), min(start + len(_PLANES), len(planes)))  # outside of it all is 0
            weights = _PLANES[:, inside.start - start : inside.stop - start]
            torch.mm(weights, planes[inside.start : inside.stop], out=given[:, place])
        return given.unflatten(2, image.shape[1:])

    def _convolve_planes(self, planes: Tensor, place: int) -> Tensor:
        # the second of the six enters every plane of output once, and the bias with it
        bias = self.bias if place == 1 else None
        made = functional.conv2d(
            planes.permute(0, 3, 1, 2),
            self.kernels[place],
            bias,
            self.stride[1:],
            self.padding[1:],
            self.dilation[1:],
        )
        return made.permute(0, 2, 3, 1)


def _add_up(made: list[Tensor], output: Tensor) -> None:
    """The planes of output, of which the last tile may have fewer than four, from what the six made."""
    alone, a, b, c, d, last = made
    sums, differences = a + b, a - b
    further_sums, further_differences = c + d, c - d
    for place, (near, far, factor, own) in enumerate(
        (
            (sums, further_sums, 1, alone),
            (differences, further_differences, 2, None),
            (sums, further_sums, 4, None),
            (differences, further_differences, 8, last),
        )
    ):
        planes = output[place::_TILE]
        torch.add(near[: len(planes)], far[: len(planes)], alpha=factor, out=planes)
        if own is not None:
            planes += own[: len(planes)]
