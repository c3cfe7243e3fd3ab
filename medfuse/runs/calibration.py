"""Which windows of training cases int8 is calibrated on: seeded, and covering intensities and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.reporter import Reporter

if TYPE_CHECKING:
    from torch import Tensor

    from medfuse.infer.sliding import Voxels
    from medfuse.trained.trained import Trained

MOST_WINDOWS = 32
MOST_CASES = 12
FEWEST_CASES = 2


@dataclass(frozen=True, eq=False)
class Calibration:
    """`windows` (1, channels, *patch_size), as the networks are shown them, of `cases`."""

    windows: tuple[Tensor, ...]
    cases: tuple[str, ...]


def calibration(trained: Trained, cases: Sequence[Case], *, seed: int, reporter: Reporter) -> Calibration:
    """Windows as inference cuts them, of up to MOST_CASES cases in an order that `seed` draws.

    Of each case, in this order, until there are MOST_WINDOWS of all: for each class the window that has most
    of it, the brightest and the darkest one (by the mean of the first channel), and one that is drawn. What
    is constant, such as air, is left out. A class that none of these cases has is looked for in the others.

    Raises DataError where fewer than FEWEST_CASES cases have a window that is not constant.
    """
    import torch

    if len(cases) < FEWEST_CASES:
        raise DataError(
            f"{len(cases)} training case{'s' * (len(cases) != 1)} cannot calibrate int8, as its ranges have "
            f"to hold for others; at least {FEWEST_CASES} have to be trained on"
        )
    random = np.random.default_rng(seed)
    missing = {*range(1, len(trained.plan.values))}
    found: dict[str, list[Voxels]] = {}
    with reporter.track("choosing windows to calibrate on", min(MOST_CASES, len(cases))) as advance:
        for done, number in enumerate(random.permutation(len(cases)), 1):
            if done > MOST_CASES and not missing:
                break
            case = cases[number]
            chosen = _Chosen.of(trained, case, random)
            missing -= {*chosen.of_class}
            if chosen.voxels:
                found[case.name] = chosen.windows()
            advance(min(done, MOST_CASES), case.name)
    if len(found) < FEWEST_CASES:
        raise DataError(
            f"of {len(cases)} training cases {len(found)} {'has' if len(found) == 1 else 'have'} a window "
            "that is not one constant, and int8 is calibrated on those of at least "
            f"{FEWEST_CASES}; look at the images, as with `medfuse doctor`"
        )
    turns = max(map(len, found.values()))
    in_turns = [
        (name, found[name][turn]) for turn in range(turns) for name in found if turn < len(found[name])
    ]
    kept = in_turns[:MOST_WINDOWS]
    windows = tuple(torch.from_numpy(voxels)[None] for _, voxels in kept)
    return Calibration(windows, tuple(dict.fromkeys(name for name, _ in kept)))


@dataclass(eq=False)
class _Chosen:
    """The windows of one case by what they are chosen for."""

    of_class: dict[int, tuple[int, int]] = field(default_factory=dict)
    brightest: tuple[float, int] | None = None
    darkest: tuple[float, int] | None = None
    drawn: int | None = None
    voxels: dict[int, Voxels] = field(default_factory=dict)

    @classmethod
    def of(cls, trained: Trained, case: Case, random: np.random.Generator) -> _Chosen:
        chosen, seen = cls(), 0
        for number, (window, label) in enumerate(_windows(trained, case)):
            if all(float(channel.min()) == float(channel.max()) for channel in window):
                continue
            seen += 1
            counts = np.bincount(label.ravel().astype(np.int64), minlength=len(trained.plan.values))
            for value in range(1, len(trained.plan.values)):
                if counts[value] > chosen.of_class.get(value, (0, 0))[0]:
                    chosen.of_class[value] = int(counts[value]), number
            mean = float(window[0].mean())
            if chosen.brightest is None or mean > chosen.brightest[0]:
                chosen.brightest = mean, number
            if chosen.darkest is None or mean < chosen.darkest[0]:
                chosen.darkest = mean, number
            if random.random() < 1 / seen:  # each of them as likely as the others
                chosen.drawn = number
            chosen.voxels[number] = window
            chosen.voxels = {n: chosen.voxels[n] for n in chosen.numbers()}
        return chosen

    def numbers(self) -> list[int]:
        """In the order of what they are chosen for, each once."""
        ends = [end[1] for end in (self.brightest, self.darkest) if end]
        drawn = [] if self.drawn is None else [self.drawn]
        return [*dict.fromkeys([*(number for _, number in self.of_class.values()), *ends, *drawn])]

    def windows(self) -> list[Voxels]:
        return [self.voxels[number] for number in self.numbers()]


def _windows(trained: Trained, case: Case) -> Iterator[tuple[Voxels, Voxels]]:
    """Each window of a case's grid in inference, as a network is shown it, and the numbers of its labels."""
    from medfuse.infer.sliding import windows_of

    made = trained.prepare(case)
    label = trained.prepare_label(case, made)[None]
    how = trained.settings
    grids = [
        windows_of(image, trained.plan.patch_size, how.windows_overlap, how.stepped)
        for image in (made.image, label)
    ]
    yield from zip(*grids)
