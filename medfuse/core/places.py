"""Whether a map lies as the image does: what its places answer where one place of the image is bright."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import lcm, prod
from typing import TYPE_CHECKING

from medfuse.core.features import FeatureInfo
from medfuse.core.text import by

if TYPE_CHECKING:
    from torch import Tensor

CLEAR = 4.0
"""A place that answers so many times as strongly as the bright one tells that the map lies otherwise."""

BRIGHT = 8.0
"""What is added to noise of a standard deviation of 1, or taken away."""

SEEDS = (0, 1)
"""A map is found out by two images, one with brighter places and one with darker ones."""

Place = tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Where a map differs most for a bright place of the image, and how much more than at that place."""

    bright: Place
    found: Place
    times: float
    grid: Place

    @property
    def is_elsewhere(self) -> bool:
        return self.found != self.bright and self.times > CLEAR


def small_size(features: Sequence[FeatureInfo]) -> tuple[int, ...]:
    """A small image whose axes are unlike, of whole places of each map."""
    steps = [lcm(*strides) for strides in zip(*(f.stride for f in features))]
    return tuple(step * n for step, n in zip(steps, (4, 6, 3)))


def images_of(feature: FeatureInfo, channels: int, size: Sequence[int], seed: int) -> Tensor:
    """Noise (channels, *size), then the same with each of five bright places of the map."""
    import torch

    places = _apart(feature.size(size))
    noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(seed))
    images = noise.repeat(1 + len(places), *[1] * (1 + len(size)))
    for number, place in enumerate(places, 1):
        lit = images[number]
        for axis, (p, s) in enumerate(zip(place, feature.stride), 1):
            lit = lit.narrow(axis, p * s, s)
        lit += BRIGHT if seed % 2 == 0 else -BRIGHT
    return images


def answers_of(feature: FeatureInfo, made: Tensor, size: Sequence[int]) -> list[Answer]:
    """What the layer makes of `images_of`, held against where these are bright; none if nothing is told."""
    dark, *bright = feature.as_map(made, size).double()
    energies = [(one - dark).square().sum(0) for one in bright]
    if not all(bool(energy.isfinite().all()) for energy in energies):
        return []
    return [_answer(energy, place) for energy, place in zip(energies, _apart(feature.size(size)))]


def otherwise(feature: FeatureInfo, seen: Sequence[Sequence[Answer]]) -> str:
    """How a map lies otherwise than the image, by answers to each of several images; or nothing.

    Random weights tell: a layer that keeps what it is given and adds to it differs most where the image does.
    Networks attend everywhere all the same, so a map is only found out where two places of five answer
    elsewhere, several times as strongly, for every image.
    """
    if not seen or any(sum(answer.is_elsewhere for answer in answers) < 2 for answers in seen):
        return ""
    return _said(feature, seen[0])


def _answer(energy: Tensor, bright: Place) -> Answer:
    grid = tuple(energy.shape)
    own = float(energy[bright])
    times = float(energy.max()) / own if own > 0 else float("inf")
    return Answer(bright, _unravelled(int(energy.argmax()), grid), times, grid)


def _apart(grid: Place) -> list[Place]:
    """Five places of which no exchange of axes, flip or shift leaves most in place; none on a tiny grid."""
    first, middle, last = [0] * len(grid), [n // 2 for n in grid], [n - 1 for n in grid]
    places = []
    for turn in range(3):
        corners = [(first, last, middle)[(turn + axis) % 3] for axis in range(len(grid))]
        places.append(tuple(corner[axis] for axis, corner in enumerate(corners)))
    places += [tuple(n // 3 for n in grid), tuple(2 * n // 3 - a % 2 for a, n in enumerate(grid))]
    return [*dict.fromkeys(places)] if prod(grid) > 3 else []


def _said(feature: FeatureInfo, answers: Sequence[Answer]) -> str:
    """What is seen of a map that lies otherwise, and in what way, where that can be told."""
    shown = next(answer for answer in answers if answer.is_elsewhere)
    return (
        f"makes tokens for {feature.name} that do not lie as the image does: where place "
        f"{by(shown.bright)} of {by(shown.grid)} is bright, {by(shown.found)} answers "
        f"{shown.times:.2g} times as strongly; "
        f"{_way(feature, answers)}"
    )


def _way(feature: FeatureInfo, answers: Sequence[Answer]) -> str:
    clear = [answer for answer in answers if answer.is_elsewhere]
    steps = {_ravelled(a.found, a.grid) - _ravelled(a.bright, a.grid) for a in clear}
    prefix = feature.tokens.prefix if feature.tokens else 0
    if len(steps) == 1 and prefix + (step := steps.pop()) >= 0:
        return (
            f"it is shifted by {step}, so {prefix + step} tokens stand in front and not {prefix}, or others "
            "behind; declare `prefix` of the taps by `tokens`, or tap another layer"
        )
    axes = range(len(clear[0].grid))
    for order in permutations(axes):
        if all(_turned(a, order) == _ravelled(a.found, a.grid) for a in clear):
            names = ", ".join("xyz"[axis] for axis in order)
            return (
                f"its tokens run along the axes in the order {names}; give their layout, or tap another layer"
            )
    for axis in axes:
        if all(
            a.found == (*a.bright[:axis], a.grid[axis] - 1 - a.bright[axis], *a.bright[axis + 1 :])
            for a in clear
        ):
            return f"its tokens run backwards along {'xyz'[axis]}; give their layout, or tap another layer"
    return "its tokens are in another order; give their layout, or tap another layer"


def _turned(answer: Answer, order: Sequence[int]) -> int:
    """The token of the bright place in a sequence along the axes in that order."""
    return _ravelled([answer.bright[a] for a in order], [answer.grid[a] for a in order])


def _ravelled(place: Sequence[int], grid: Sequence[int]) -> int:
    number = 0
    for p, n in zip(place, grid):
        number = number * n + p
    return number


def _unravelled(number: int, grid: Sequence[int]) -> Place:
    place: list[int] = []
    for n in reversed(grid):
        place.insert(0, number % n)
        number //= n
    return tuple(place)
