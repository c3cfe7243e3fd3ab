"""Sequences of tokens read as maps: by their number at several sizes, and by what the network says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn

from medfuse.core.features import KnownTokens, TokenLayout, grids
from medfuse.core.text import by
from medfuse.model.maps import MapFacts, Shown, Size
from medfuse.model.trial import BATCH

MOST_IN_FRONT = 512  # class, register and prompt tokens

_ONE_IN_FRONT = ("cls_token", "class_token", "cls_tokens", "class_embedding", "cls", "cls_embedding")
_MORE_IN_FRONT = (
    *("register_tokens", "reg_token", "reg_tokens", "registers", "storage_tokens"),
    *("dist_token", "distillation_token"),
)


@dataclass(frozen=True)
class Hints:
    """What is known of a network's tokens besides their number.

    strides: of its layers that make maps, and of patches by its attributes. prefix: tokens in front, as it
    says of itself, else 0. known: what its user declares, which counts before all.
    """

    strides: tuple[Size, ...] = ()
    prefix: int = 0
    known: KnownTokens = field(default_factory=KnownTokens)


def hints_of(network: nn.Module, strides: Sequence[Size], known: KnownTokens, dims: int) -> Hints:
    """What is to be known of a network whose layers make maps of `strides`."""
    said = [size for size in patch_sizes(network, dims) if size not in strides]
    return Hints((*dict.fromkeys(strides), *said), tokens_in_front(network), known)


def tokens_in_front(network: nn.Module) -> int:
    """How many tokens stand before those of places, as the network's attributes and parameters tell."""
    for module in network.modules():
        if isinstance(number := getattr(module, "num_prefix_tokens", None), int):
            return number
    counts: dict[str, int] = {}
    for name, tensor in _tensors(network):
        if name in (*_ONE_IN_FRONT, *_MORE_IN_FRONT):
            counts[name] = max(counts.get(name, 0), tensor.shape[-2] if tensor.ndim > 1 else 1)
    classes = [counts.pop(name) for name in _ONE_IN_FRONT if name in counts]
    return max(classes, default=0) + sum(counts.values())


def has_class_token(network: nn.Module) -> bool:
    """Whether the first token is of the whole image and no place, as the network's parameters tell."""
    return any(name in _ONE_IN_FRONT for name, _ in _tensors(network))


def patch_sizes(network: nn.Module, dims: int) -> list[Size]:
    """What it calls the size of its patches, in its modules and its configuration."""
    found: dict[Size, None] = {}
    for module in network.modules():
        config = getattr(module, "config", None)
        for owner in (module, config):
            for name in ("patch_size", "patch_stride"):
                said = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
                if size := _per_axis(said, dims):
                    found[size] = None
    return [*found]


def next_size(image: Size, network: nn.Module) -> str:
    """What to say of an image that is no multiple of the network's patches; nothing where it is one."""
    sizes = patch_sizes(network, len(image))
    if not sizes or any(not any(n % s for n, s in zip(image, size)) for size in sizes):
        return ""
    return no_multiple(image, sizes[0])


def no_multiple(image: Sequence[int], stride: Sequence[int]) -> str:
    """`60×64 voxels are no multiple of patches of 16×16; the next size that fits is 64×64`."""
    below = tuple(max(s, n // s * s) for n, s in zip(image, stride))
    above = tuple(-(-n // s) * s for n, s in zip(image, stride))
    sizes = " and ".join(dict.fromkeys((by(below), by(above))))
    fit = "the sizes next to it that fit are" if below != above else "the size that fits is"
    return f"{by(image)} voxels are no multiple of its patches of {by(stride)}; {fit} {sizes}"


def is_sequence(shown: Sequence[Shown]) -> bool:
    """Whether what a layer makes may be (batch, tokens, channels)."""
    return len(shown[0].shape) == 3 and not shown[0].dtype


def read_tokens(shown: Sequence[Shown], hints: Hints) -> MapFacts:
    """What a sequence is, of which the first trial is the one on the patch, in the size that counts.

    Its channels are as many whatever the image. Its tokens are those in front, as many whatever the image,
    and one for each place of a grid: so two sizes tell the number in front and the voxels of a place. Of
    strides that fit, those of the network's own maps come first, then their multiples, then equal ones.
    """
    first = shown[0]
    if any(len(s.shape) != 3 for s in shown) or first.shape[0] != BATCH:
        return MapFacts(reason=f"makes {by(first.shape)}, which is no map of the image")
    if len({s.shape[2] for s in shown}) > 1:
        return MapFacts(
            reason=f"makes {by(first.shape)}, no (batch, tokens, channels): its last axis follows the image"
        )
    if len({prod(s.image) for s in shown}) > 1 and len({s.shape[1] for s in shown}) == 1:
        return MapFacts(
            reason=f"makes {first.shape[1]} tokens whatever the size of the image, which are no map"
        )
    for strides, is_guess in _candidates(first.image, hints):
        found = {fit: None for stride in strides for fit in _fits(shown, stride, hints)}
        exact = [fit for fit in found if not any(n % s for one in shown for n, s in zip(one.image, fit[0]))]
        fits = exact if exact or is_guess else [*found]
        fits = [fit for fit in fits if fit[1] == hints.prefix] or fits
        if len(fits) == 1:
            return _facts(first, *fits[0])
        if fits:
            break
    return MapFacts(reason=_unknown(first, hints))


def _facts(first: Shown, stride: Size, prefix: int) -> MapFacts:
    grid = next(g for g in grids(first.image, stride) if prod(g) == first.shape[1] - prefix)
    if any(m * s < n for m, n, s in zip(grid, first.image, stride)):
        return MapFacts(reason=f"leaves out the rest of the patch: {no_multiple(first.image, stride)}")
    return MapFacts((first.shape[2], *grid), stride, tokens=TokenLayout(prefix))


def _candidates(patch: Size, hints: Hints) -> Iterator[tuple[list[Size], bool]]:
    """Strides that may be, the likely ones first, and whether they are guesses: these leave no rest."""
    said = hints.known.patch_size
    own = [_per_axis(said, len(patch))] if said else [*hints.strides]
    yield own, False
    yield _multiples(own), False
    if not said:
        yield [(n,) * len(patch) for n in range(1, min(patch) + 1)], True


def _multiples(strides: Sequence[Size]) -> list[Size]:
    return [tuple(n * s for s in stride) for stride in strides for n in (2, 4, 8, 16)]


def _fits(shown: Sequence[Shown], stride: Size, hints: Hints) -> Iterator[tuple[Size, int]]:
    """The stride with each number of tokens in front that leaves one for each place, in every trial."""
    if len(stride) != len(shown[0].image):
        return
    left = [{s.shape[1] - prod(grid) for grid in grids(s.image, stride)} for s in shown]
    for prefix in sorted(set.intersection(*left)):
        said = (0, hints.prefix) if len(shown) == 1 else range(MOST_IN_FRONT + 1)
        allowed = said if hints.known.prefix is None else (hints.known.prefix,)
        if prefix in allowed and all(s.shape[1] > prefix for s in shown):
            yield stride, prefix


def _unknown(first: Shown, hints: Hints) -> str:
    known = hints.known
    if known.is_said:
        size = known.patch_size
        said = [f"patch_size {size if isinstance(size, int) else by(size)}" if size else ""]
        said.append(f"prefix {known.prefix}" if known.prefix is not None else "")
        declared = " and ".join(one for one in said if one)
        return (
            f"makes {first.shape[1]} tokens of an image of {by(first.image)} voxels, to which the declared "
            f"{declared} do not lead; correct them"
        )
    return (
        f"makes (batch, tokens, channels), here {by(first.shape)}, and neither the number of tokens nor the "
        "network itself tells where they lie; declare it: {use: tokens, patch_size: […], prefix: …}"
    )


def _per_axis(said: Any, dims: int) -> Size:
    """A size per axis, or nothing where that is none."""
    if isinstance(said, int) and not isinstance(said, bool) and said > 0:
        return (said,) * dims
    if isinstance(said, list | tuple) and len(said) == dims and all(isinstance(n, int) for n in said):
        return tuple(said) if min(said) > 0 else ()
    return ()


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        yield name.rpartition(".")[2], tensor
