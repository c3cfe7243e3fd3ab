"""How far a training still improved when its budget ended, and what more would bring, by its own curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfuse.train.settings import TrainSettings

TIMES = 3
"""How many times the budget the outlook is for."""
LEAST_ROWS, LEAST_LOOKS = 20, 8  # of the log with a loss, and with Dice, below which nothing is told
BEGUN = 0.1  # the share of learning before which a curve is no power law yet
LEVEL = 0.9  # of intervals
LITTLE = 0.01  # of Dice
_MISFIT = 0.25  # of a change: no law holds so exactly that less of it is in doubt
_LEAST_NOISE = 0.3  # where the rate is 0, beside 1 more where it is highest
_BINS = 40  # of losses
_EXPONENTS = np.geomspace(0.1, 3, 25)  # of power laws
_SPEEDS = np.geomspace(0.5, 20, 25)  # of exponential approaches, in budgets
_DRAWS = 200  # for each law

Row = Mapping[str, float]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """A change and its interval; `low` ≤ `middle` ≤ `high`."""

    low: float
    middle: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether 0 is outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Points:
    """Values of a curve. `learned`: the sum of learning rates until then, 1 at the end; `rate`: 1 at most."""

    learned: Array
    rate: Array
    value: Array


def outlook(rows: Sequence[Row], settings: TrainSettings) -> str:
    """One line about a training by the rows of its metrics.jsonl: what it knows, and what it cannot tell."""
    unit = next(name for name in ("minutes", "steps", "epochs") if getattr(settings, name) is not None)
    more = f"{TIMES} times as many {unit}"
    name = "loss/main" if any("loss/main" in row for row in rows) else "loss"
    losses, dices = points(rows, name), points(rows, "dice")
    late = last_fifth(rows, name)
    if late is None or len(losses.value) < LEAST_ROWS:
        return f"outlook: too short a training to tell what {more} would bring"
    fell = f"outlook: {_fell(late)}"
    by_dice = further(dices)
    if by_dice is None:
        looks = sum("dice" in row for row in rows)
        return f"{fell}; {_by_loss(further(_binned(losses)), more)}; {_unknown(looks)}"
    return f"{fell}; {_by_dice(by_dice, float(dices.value[-1]), more)}"


def points(rows: Sequence[Row], name: str) -> Points:
    """What the rows have by that `name`, once learning has begun and the rate is past its warm-up."""
    with_rate = [row for row in rows if row["step"] > 0 and row.get("learning_rate", 0) > 0]
    if not with_rate:
        return Points(*(np.zeros(0) for _ in range(3)))
    steps, rates = (np.array([row[key] for row in with_rate]) for key in ("step", "learning_rate"))
    learned = np.cumsum(rates * np.diff(steps, prepend=0))
    warm = steps[np.argmax(rates >= 0.99 * rates.max())]
    found = [(row["step"], row[name]) for row in rows if name in row and row["step"] >= warm]
    at, value = np.array(found, float).reshape(-1, 2).T
    made = np.interp(at, steps, learned) / learned[-1]
    kept = made >= BEGUN
    return Points(made[kept], np.interp(at, steps, rates)[kept] / rates.max(), value[kept])


def last_fifth(rows: Sequence[Row], name: str) -> Change | None:
    """By how much a line through the last fifth of the steps falls; None where it has no three rows."""
    end = max(row["step"] for row in rows)
    late = [(row["step"] / end, row[name]) for row in rows if name in row and row["step"] > 0.8 * end]
    if len({at for at, _ in late}) < 3:
        return None
    at, value = np.array(late).T
    at = at - at.mean()
    slope = float(at @ value / (at @ at))
    rest = value - value.mean() - slope * at
    error = float(np.sqrt(rest @ rest / (len(late) - 2) / (at @ at)))
    return Change(*sorted(-0.2 * (slope + by * error) for by in (-2, 0, 2)))


def further(curve: Points) -> Change | None:
    """What TIMES the budget changes of the last value; None for fewer than LEAST_LOOKS values.

    A rate that falls lifts any curve, whether or not there is more to learn. So this fits

        value = end + change · law(learned) + lift · rate,   law(1) = 0, law(TIMES) = 1

    with a law in the sum of learning rates, and a lift by their fall, which a longer training has as well
    (Tissue et al. 2024, arXiv:2408.11029). Laws are powers and exponential approaches, and count by how
    well they fit, late values more than early ones, as a value jumps about with the rate. What the lift
    explains as well as a law does, or one law as another, makes the interval wide.
    """
    n = len(curve.value)
    if n < LEAST_LOOKS:
        return None
    rate = [curve.rate] if np.ptp(curve.rate) > 0.05 else []
    free = n - 2 - len(rate)
    random = np.random.default_rng(0)
    noise = _LEAST_NOISE + curve.rate
    squares, drawn = [], []
    for law in _laws(curve.learned):
        columns = np.stack([np.ones(n), law, *rate], 1) / noise[:, None]
        inverse = np.linalg.pinv(columns.T @ columns)
        found = inverse @ columns.T @ (curve.value / noise)
        rest = curve.value / noise - columns @ found
        squares.append(max(float(rest @ rest), 1e-12 * n))
        spread = np.sqrt(squares[-1] * _repeats(rest) * inverse[1, 1] / free)
        drawn.append(found[1] + spread * random.standard_t(free, _DRAWS))
    weights = (np.array(squares) / min(squares)) ** (-free / 2)
    return _interval(np.concatenate(drawn), np.repeat(weights, _DRAWS))


def _laws(learned: Array) -> list[Array]:
    powers = [(1 - learned**-a) / (1 - TIMES**-a) for a in _EXPONENTS]
    return powers + [-np.expm1(-k * (learned - 1)) / -np.expm1(-k * (TIMES - 1)) for k in _SPEEDS]


def _repeats(rest: Array) -> float:
    """How many times a residual counts, where neighbours are alike."""
    square = float(rest @ rest)
    alike = max(0.0, float(rest[1:] @ rest[:-1]) / square) if square > 0 else 0.0
    return (1 + min(alike, 0.9)) / (1 - min(alike, 0.9))


def _interval(drawn: Array, weights: Array) -> Change:
    order = np.argsort(drawn)
    shares = np.cumsum(weights[order]) / weights.sum()
    at = np.searchsorted(shares, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    low, middle, high = map(float, drawn[order][np.minimum(at, len(drawn) - 1)])
    least = _MISFIT * abs(middle)
    return Change(min(low, middle - least), middle, max(high, middle + least))


def _binned(losses: Points) -> Points:
    """Means of neighbours, as there are thousands of rows."""
    parts = min(_BINS, len(losses.value))
    return Points(
        *(np.array([part.mean() for part in np.array_split(v, parts)]) for v in vars(losses).values())
    )


def _fell(change: Change) -> str:
    if not change.clear or abs(change.middle) < 0.0005:
        return "the loss fell no more than its noise in the last fifth"
    if change.middle < 0:
        return f"the loss rose by {-change.middle:.3f} in the last fifth"
    return f"the loss still fell by {change.middle:.3f} in the last fifth"


def _by_dice(change: Change, end: float, more: str) -> str:
    most = 1 - end
    low, middle, high = (min(v, most) for v in (change.low, change.middle, change.high))
    between = f"Dice {low:+.3f} to {high:+.3f}"
    if high - low <= 2 * max(abs(middle), LITTLE):
        if high < LITTLE:
            return f"{more} would {'not help' if middle < -LITTLE else 'change little'} ({between})"
        if low >= middle / 4 and middle >= LITTLE / 2:
            return f"worth {more}: about {middle:+.2f} Dice ({between[5:]})"
    return f"what {more} would bring cannot be told by this curve ({between})"


def _by_loss(change: Change | None, more: str) -> str:
    if change is None or not change.clear:
        return f"whether {more} would lower it further cannot be told"
    return f"{more}: about {change.middle:+.3f} of the loss ({change.low:+.3f} to {change.high:+.3f})"


def _unknown(looks: int) -> str:
    times = {0: "no held-out case was looked at", 1: "held-out cases were looked at only once"}
    seen = times.get(looks, f"held-out cases were looked at only {looks} times")
    return f"what that is in Dice cannot be told, as {seen}"
