"""Maps brought to the strides of a pyramid, by learned steps or by interpolation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.layers import CONVOLUTION, SLOPE, factors, initialize, transposed
from medfuse.model.resample import resize

AVERAGE = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


class Pyramid(nn.Module):
    """Maps, one for each level or one for all → [the finest level, every level, finest first].

    `channels` is None where each level keeps those of its map.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels: Sequence[int] | None,
        strides_in: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        learned: bool,
    ) -> None:
        super().__init__()
        kind: type[LearnedLevel] | type[Level] = LearnedLevel if learned else Level
        widths: Sequence[int | None] = channels or [None] * len(channels_in)
        self.levels = nn.ModuleList(
            kind(*level) for level in zip(channels_in, widths, strides_in, strides, strict=True)
        )

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        given = inputs * len(self.levels) if len(inputs) == 1 else inputs
        made = [level(x) for level, x in zip(self.levels, given)]
        return [made[0], *made]


class Level(nn.Module):
    """A map projected, then interpolated where its stride is coarser, or averaged where it is finer.

    Both are linear and weigh voxels to a sum of 1, so that projecting first gives what the reverse would.
    """

    def __init__(
        self, channels_in: int, channels: int | None, stride_in: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        dims = len(stride)
        self.project: nn.Module = CONVOLUTION[dims](channels_in, channels, 1) if channels else nn.Identity()
        initialize(self)
        self.stride_in, self.stride = tuple(stride_in), tuple(stride)
        self.block = _smaller(stride_in, stride)

    def forward(self, x: Tensor) -> Tensor:
        size = size_at(x, self.stride_in, self.stride)
        made = self.project(x)
        if max(self.block) > 1:
            made = AVERAGE[len(size)](made, self.block, ceil_mode=True, count_include_pad=False)
        return resize(made, size)


class LearnedLevel(nn.Module):
    """A map projected, then transposed or strided convolutions by small factors.

    Strides that are no multiple of each other are met by the nearest factor, and then by interpolation.
    """

    def __init__(
        self, channels_in: int, channels: int | None, stride_in: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        dims, width = len(stride), channels or channels_in
        self.project = nn.Sequential(CONVOLUTION[dims](channels_in, width, 1), *norm_act(width))
        smaller, larger = _smaller(stride_in, stride), _larger(stride_in, stride)
        self.steps = nn.Sequential(
            *(nn.Sequential(_strided(width, factor), *norm_act(width)) for factor in factors(smaller)),
            *(nn.Sequential(transposed(width, width, f), *norm_act(width)) for f in factors(larger)),
        )
        initialize(self)
        self.stride_in, self.stride = tuple(stride_in), tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        return resize(self.steps(self.project(x)), size_at(x, self.stride_in, self.stride))


def size_at(x: Tensor, before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Voxels per axis at stride `after` of all that a map of stride `before` covers."""
    return [-(-n * b // a) for n, b, a in zip(x.shape[2:], before, after)]


def norm_act(channels: int) -> list[nn.Module]:
    """A norm over all channels together, as one voxel has no spread of its own, and leaky ReLU."""
    return [nn.GroupNorm(1, channels), nn.LeakyReLU(SLOPE, inplace=True)]


def _strided(channels: int, factor: Sequence[int]) -> nn.Module:
    """A convolution to ⌈n / factor⌉ voxels."""
    kernel = tuple(1 if f == 1 else 2 * (f // 2) + 1 for f in factor)
    made: nn.Module = CONVOLUTION[len(factor)](
        channels, channels, kernel, stride=tuple(factor), padding=tuple(k // 2 for k in kernel)
    )
    return made


def _larger(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    """The factor per axis by which a map grows from one stride to a finer one."""
    return tuple(max(1, round(b / a)) for b, a in zip(before, after))


def _smaller(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    """The factor per axis by which a map shrinks from one stride to a coarser one."""
    return _larger(after, before)
