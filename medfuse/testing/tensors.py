"""Tensors that are the same at every call, and what modules make of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.api import FeatureInfo

Maps = dict[str, Tensor]


def outputs_of(module: nn.Module, given: Sequence[Tensor]) -> Maps:
    return tensors_in(module(*given))


def tensors_in(output: Any) -> Maps:
    """A tensor, or a list or mapping of tensors, by number or name. What is no tensor is left out."""
    pairs = (
        output.items()
        if isinstance(output, Mapping)
        else enumerate(output if isinstance(output, list | tuple) else [output])
    )
    return {str(name): x for name, x in pairs if isinstance(x, Tensor)}


def by_name(tapped: nn.Module, given: Sequence[Tensor]) -> Maps:
    made: Maps = tapped(*given)
    return made


def tapped(network: nn.Module, names: Sequence[str], x: Tensor) -> tuple[Maps, Any]:
    """Real outputs of layers, by plain hooks: the truth that declarations are held against."""
    made: Maps = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: made.__setitem__(name, output)
        )
        for name in names
    ]
    try:
        output = network(x)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in names if name not in made]
    assert not missing, f"{', '.join(missing)} did not run"
    return {name: made[name] for name in names}, output


def compare_names(features: Sequence[FeatureInfo]) -> None:
    twice = [name for name, times in Counter(f.name for f in features).items() if times > 1]
    assert not twice, f"{', '.join(twice)} is declared more than once"


def whole_numbers(feature: FeatureInfo, dims: int) -> None:
    """Channels and strides are integers: 8 / 2 is 4.0, and no layer takes 4.0 channels."""
    numbers = [feature.channels, *feature.stride]
    odd = [n for n in numbers if type(n) is not int or n < 1]
    assert not odd, (
        f"{feature.name} declares {odd[0]!r}; channels and strides are whole numbers from 1 (use //)"
    )
    assert isinstance(feature.stride, tuple), f"the stride of {feature.name} is no tuple: {feature.stride!r}"
    assert feature.dims == dims, f"{feature.name} has a stride of {feature.dims} axes for {dims}-D inputs"


def compare(feature: FeatureInfo, tensor: Any, size: Sequence[int], batch: int) -> None:
    assert isinstance(tensor, Tensor), f"{feature.name} is a {type(tensor).__name__}, not a tensor"
    batch_real, channels, *real = feature.as_map(tensor, size).shape
    assert batch_real == batch, f"{feature.name} has batch {batch_real} for a batch of {batch}"
    assert channels == feature.channels, (
        f"{feature.name} declares {feature.channels} channels, makes {channels}"
    )
    expected = feature.size(size)
    fits = len(real) == feature.dims and all(
        n // s <= m <= -(-n // s) for n, s, m in zip(size, feature.stride, real)
    )
    fits = tuple(real) == expected if feature.image_level else fits
    assert fits, f"{feature.name} declares {expected} for an image of {tuple(size)}, makes {tuple(real)}"


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], when: str) -> None:
    """Equal to the last bit. `when` says what was done in between."""
    assert list(ours) == list(theirs), f"makes {list(theirs)} in place of {list(ours)} {when}"
    differing = [f"{n} (by {distance(ours[n], theirs[n]):.1%})" for n in ours if _unequal(ours[n], theirs[n])]
    assert not differing, f"output {', '.join(differing)} differs {when}"


def _unequal(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype != theirs.dtype or not torch.equal(ours, theirs)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """How far tensors lie apart, as a share of their size; infinite where their shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = ours.detach().double(), theirs.detach().double()
    gap, size = (ours - theirs).norm(), ours.norm()
    return float(gap / size.clamp_min(1e-12))


def finite_scalar(made: Any) -> Tensor:
    assert isinstance(made, Tensor), f"makes a {type(made).__name__}, wanted is a tensor"
    assert made.ndim == 0, f"makes a tensor of shape {tuple(made.shape)}, wanted is a scalar"
    assert made.is_floating_point(), f"makes {made.dtype}, wanted is a floating-point number"
    assert bool(torch.isfinite(made)), f"makes {made.item()}, wanted is a finite number"
    return made


def even_size(maps: Sequence[FeatureInfo]) -> list[int]:
    """Voxels of an image that every stride divides, some voxels being left."""
    return [max(4, *strides) * 2 for strides in zip(*(x.stride for x in maps))]


def maps_of(maps: Sequence[FeatureInfo], size: Sequence[int], batch: int, seed: int = 1) -> list[Tensor]:
    """One random tensor for each of `maps`, for an image of `size`. Another seed stretches them."""
    return [
        seed * random(batch, x.channels, *x.size(tuple(size)), seed=100 * seed + i) + (seed - 1)
        for i, x in enumerate(maps)
    ]


def random(*shape: int, seed: int = 1) -> Tensor:
    """The same numbers at every call. The global seed is left alone, so that hidden randomness shows."""
    return torch.randn(shape, generator=generator(seed))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    made = build()
    assert isinstance(made, nn.Module), f"builds a {type(made).__name__}, wanted is a torch.nn.Module"
    return made
