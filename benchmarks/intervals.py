"""What intervals cover and how often verdicts are wrong, on simulated Dice whose truth is known.

nice -n 19 python benchmarks/intervals.py                  # 4,000 samples a row, ten minutes on one thread
python benchmarks/intervals.py --samples 1000 --only seeds # one table, more roughly

Prints the tables of docs/statistics.md. With 4,000 samples, chance moves a number by ±0.7 % (95 %).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medfuse.report.intervals import mean_interval, median_interval
from medfuse.report.paired import MARGIN, judge, signed_rank
from medfuse.report.resampling import Floats, Spread, for_any_distribution, parts

PATIENTS = (5, 20, 50, 200)
Random = np.random.Generator
Draw = Callable[[Random, tuple[int, ...]], Floats]
Row = tuple[str, ...]


def failing(share: float, a: float = 18, b: float = 2) -> tuple[Draw, float]:
    """Dice of beta(a, b), and 0 in a share of patients; and its mean."""

    def draw(random: Random, shape: tuple[int, ...]) -> Floats:
        return random.beta(a, b, shape) * (random.random(shape) >= share)

    return draw, a / (a + b) * (1 - share)


SHAPES = {
    "skewed, beta(18, 2)": failing(0.0),
    "very skewed, beta(4.5, 0.5)": failing(0.0, 4.5, 0.5),
    "2 % fail": failing(0.02),
    "5 % fail": failing(0.05),
    "10 % fail": failing(0.1),
}


def means(random: Random, samples: int) -> Iterator[Row]:
    yield ("Dice", "patients", "mean: covered", "width (median)", "any distribution: covered", "width")
    for name, (draw, truth) in SHAPES.items():
        for patients in PATIENTS:
            values = draw(random, (samples, patients))
            low, high = Spread(parts(values[:, :, None])).limits()
            wide_low, wide_high = for_any_distribution(values, (0, 1))
            low, high = np.maximum(low, wide_low), np.minimum(high, wide_high)  # as mean_interval has it
            alike = np.ptp(values, axis=1) == 0
            low, high = np.where(alike, wide_low, low), np.where(alike, wide_high, high)
            yield (name, str(patients), *covered(low, high, truth), *covered(wide_low, wide_high, truth))


def medians(random: Random, samples: int) -> Iterator[Row]:
    yield ("Dice", "patients", "median: claimed", "covered", "width (median)")
    for name, (draw, _) in SHAPES.items():
        truth = float(np.median(draw(random, (2_000_000,))))
        for patients in PATIENTS:
            found = [one for values in draw(random, (samples, patients)) if (one := median_interval(values))]
            low, high = np.array([one.ends() for one in found]).T
            yield (name, str(patients), f"{100 * found[0].level:.1f} %", *covered(low, high, truth))


def clusters(random: Random, samples: int) -> Iterator[Row]:
    yield ("cases of a patient", "patients", "mean: covered", "width", "were each case a patient", "width")
    for patients in PATIENTS:
        names = [p for p in range(patients) for _ in range(1 + p % 3)]
        apart, together = [], []  # ends
        for _ in range(samples):
            own = random.beta(18, 2, patients)[names]
            values = np.clip(own + random.normal(0, 0.01, len(names)), 0, None)
            together.append(ends(values, names))
            apart.append(ends(values, range(len(names))))
        (low, high), (least, most) = np.array(together).T, np.array(apart).T
        yield ("1 to 3", str(patients), *covered(low, high, 0.9), *covered(least, most, 0.9))


def ends(values: Floats, names: Sequence[int]) -> tuple[float, float]:
    of = mean_interval(values, names, bounds=None)
    assert of
    return of.ends()


def seeds(random: Random, samples: int) -> Iterator[Row]:
    yield (
        "seeds",
        "their standard deviation",
        "patients",
        "mean: covered",
        "width (median)",
        "seeds averaged",
    )
    for count in (2, 3, 5):
        for luck in (0.0, 0.01, 0.03):
            for patients in PATIENTS:
                values = trained(random, samples, patients, count, luck)
                low, high = Spread(parts(values)).limits()
                one = Spread(parts(values.mean(axis=2, keepdims=True))).limits()
                told = (f"{luck:g}", str(patients), *covered(low, high, 0.9), covered(*one, 0.9)[0])
                yield (str(count), *told)


def verdicts(random: Random, samples: int) -> Iterator[Row]:
    yield (
        "differences", "seeds", "of seeds", "patients", "interval: covered", "false better or worse",
        "Wilcoxon alone, seeds averaged", "false equivalent", "equal, found equivalent",
    )  # fmt: skip
    for shape in ("normal", "skewed to better", "skewed to worse"):
        for count, luck in ((1, 0.0), (3, 0.0), (3, 0.01), (5, 0.01)):
            for patients in PATIENTS:
                dice = random.beta(18, 2, (samples, patients, 1))
                base = dice + luck_of(random, samples, patients, count, luck)
                other = dice + changed(random, shape, samples, patients)
                other = other + luck_of(random, samples, patients, count, luck)
                equal = judge(other, base, MARGIN)
                ranks = signed_rank(other.mean(axis=2) - base.mean(axis=2))
                at_margin = judge(other + MARGIN, base, MARGIN)
                enough = patients >= 10
                yield (
                    shape, str(count), f"{luck:g}", str(patients),
                    covered(equal.low, equal.high, 0.0)[0],
                    percent(np.maximum(equal.p, ranks) < 0.05), percent(ranks < 0.05),
                    percent((at_margin.p_equivalent < 0.05) & enough),
                    percent((equal.p_equivalent < 0.05) & enough),
                )  # fmt: skip


def trained(random: Random, samples: int, patients: int, count: int, luck: float) -> Floats:
    dice = random.beta(18, 2, (samples, patients, 1))
    return dice + luck_of(random, samples, patients, count, luck)


def luck_of(random: Random, samples: int, patients: int, count: int, luck: float) -> Floats:
    """Of seeds, of which each shifts all patients alike, and each patient a little."""
    return random.normal(0, luck, (samples, 1, count)) + random.normal(0, 0.005, (samples, patients, count))


def changed(random: Random, shape: str, samples: int, patients: int) -> Floats:
    """What the other pipeline changes in each patient, 0 on average."""
    size = (samples, patients, 1)
    if shape == "normal":
        return random.normal(0, 0.01, size)
    skewed = 0.01 * (random.gamma(0.5, 1, size) - 0.5) / 0.5**0.5
    return skewed if shape == "skewed to better" else -skewed


def covered(low: Floats, high: Floats, truth: float) -> tuple[str, str]:
    return percent((low <= truth) & (truth <= high)), f"{np.median(high - low):.3f}"


def percent(found: npt.NDArray[np.bool_]) -> str:
    return f"{100 * np.mean(found):.1f} %"


TABLES = {"means": means, "medians": medians, "clusters": clusters, "seeds": seeds, "verdicts": verdicts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--only", choices=[*TABLES])
    chosen = parser.parse_args()
    for name, table in TABLES.items():
        if chosen.only in (None, name):
            print(f"\n{name}, {chosen.samples:,} samples a row\n")
            for n, row in enumerate(table(np.random.default_rng(1), chosen.samples)):
                print(
                    "| " + " | ".join(row) + " |" + ("\n|" + "---|" * len(row) if n == 0 else ""), flush=True
                )


if __name__ == "__main__":
    main()
