"""A comparison as people read it in a terminal: means and costs, differences, ranks, and what follows."""

from __future__ import annotations

from medfuse.core.text import aligned, number
from medfuse.report.budgets import unequal
from medfuse.report.compare import Comparison, Difference, enough_cases
from medfuse.report.intervals import said_once
from medfuse.report.paired import FEWEST_FOR_A_CLAIM


def table(comparison: Comparison) -> str:
    """Means and costs, then differences, then ranks, as aligned text, and what could not have been found."""
    found = (means_rows(comparison), verdict_rows(comparison), rank_rows(comparison))
    tables = [aligned(rows) for rows in found if len(rows) > 1]
    return "\n\n".join([*tables, "\n".join(notes(comparison))])


def means_rows(comparison: Comparison) -> list[list[str]]:
    dice = [head for label in comparison.labels for head in (label, "95 %", "cases")]
    costs = ["parameters", "GFLOP/patch", "maps MiB/patch", "s/case", "steps", "minutes"]
    rows = [["model", *dice, "trainings", *costs]]
    for c in comparison.candidates:
        dice = []
        for label in comparison.labels:
            interval = c.interval(label)
            limits = "" if interval is None else interval.limits_text().strip()
            dice += [number(c.mean(label), 4), limits, str(c.n(label))]
        parameters = "–" if c.parameters is None else f"{c.parameters:,}"
        minutes = None if c.seconds is None else c.seconds / 60
        cost = [
            parameters,
            number(c.gflops, 2),
            number(c.maps_mib, 1),
            number(c.seconds_per_case, 2),
            number(c.steps, 0),
            number(minutes, 1),
        ]
        rows.append([c.name, *dice, str(c.trainings), *cost])
    return rows


def verdict_rows(comparison: Comparison) -> list[list[str]]:
    baseline = comparison.candidates[0].name
    rows = [[f"against {baseline}", "label", "difference", "95 % interval", "cases", "p (Holm)", "verdict"]]
    for d in comparison.differences:
        bounds = f"{d.low:+.4f} … {d.high:+.4f}"
        cases = str(d.pairs) if d.patients == d.pairs else f"{d.pairs} of {d.patients} patients"
        cases += "" if d.differing == d.patients else f" ({d.differing} differ)"
        rows.append(
            [d.candidate, d.label, f"{d.difference:+.4f}", bounds, cases, f"{d.p_corrected:.3g}", words(d)]
        )
    return rows


def words(d: Difference) -> str:
    """The verdict, with what it is about."""
    if d.verdict == "equivalent":
        return f"equivalent within ±{d.margin:g}"
    if d.verdict != "undecided":
        return d.verdict
    if d.needed is None:
        return "undecided"
    seeds = f" and {d.needed.seeds} seeds" if d.needed.seeds > 1 else ""
    return f"undecided (about {d.needed.patients:,} patients{seeds} would be needed)"


def rank_rows(comparison: Comparison) -> list[list[str]]:
    """Of more than two models; of two the verdict says it."""
    rows = [["rank", "model", "best in", "rank in 95 %"]]
    if len(comparison.candidates) > 2:
        for rank in comparison.ranks:
            between = str(rank.low) if rank.low == rank.high else f"{rank.low} to {rank.high}"
            rows.append([str(rank.rank), rank.candidate, f"{rank.first:.0%}", between])
    return rows


def notes(comparison: Comparison, more_seeds: str = "--seeds 3 tells") -> list[str]:
    """A line for each thing that a reader of the tables should know. `more_seeds`: how there are some."""
    seeds = _seeds(comparison, more_seeds)
    made = [*too_few(comparison), *_small(comparison), *seeds, *unequal(comparison.candidates)]
    pairs = ((label, c) for label in comparison.labels for c in comparison.candidates)
    found = {f"{label} of {c.name}": c.interval(label) for label, c in pairs}
    return made + said_once({name: one for name, one in found.items() if one is not None})


def too_few(comparison: Comparison) -> list[str]:
    """One line, where there are differences that could not be significant, whatever they were."""
    rows = comparison.differences
    few = [d for d in rows if d.is_hopeless]
    if not few:
        return []
    which = "no difference" if len(few) == len(rows) else f"{len(few)} of the {len(rows)} differences"
    could = "could" if len(few) == len(rows) else "could not"
    many = sorted({d.differing or d.patients for d in few})
    cases = f"{many[0]} to {many[-1]}" if len(many) > 1 else str(many[0])
    cases += " case that differs" if many[-1] == 1 else " cases that differ"
    tests = f"{len(rows)} tests" if len(rows) > 1 else "one test"
    return [
        f"too few cases to tell: {which} {could} be significant, however large, with {cases} and {tests}"
        f"; at least {enough_cases(len(rows))} have to differ, and more seeds do not help: judge on more "
        "cases, for instance on all folds"
    ]


def _small(comparison: Comparison) -> list[str]:
    least = min((d.patients for d in comparison.differences), default=FEWEST_FOR_A_CLAIM)
    if least >= FEWEST_FOR_A_CLAIM:
        return []
    who = f"{least} patient{'s' * (least != 1)}"
    enough = f"it takes {FEWEST_FOR_A_CLAIM}"
    return [f"{who}, n too small for a claim that two models are equivalent; {enough}"]


def _seeds(comparison: Comparison, more_seeds: str) -> list[str]:
    once = [c.name for c in comparison.candidates if c.seeds() == 1]
    if not once:
        return []
    if len(once) == len(comparison.candidates):
        return [
            "each model was trained once (on a fold): verdicts are of these trainings, and with other seeds "
            f"they may be others; {more_seeds}"
        ]
    return [
        f"trained once: {', '.join(once)}; taken to vary between seeds as the model that it is compared with"
    ]


READING = (
    "A label's column is its mean Dice over so many cases; mean foreground Dice is the mean of these means. "
    "Brackets: the 95 % interval of the mean before them.",
    "Differences are case by case to the first model's. Their interval (95 %) is over patients, and where "
    "models were trained with several seeds over these too, so that a luckier model does not win.",
    "Better, worse: the test of the mean difference (by its interval) and Wilcoxon's signed-rank test over "
    "patients both have p < 0.05, corrected for all tests here (Holm). Equivalent: two one-sided tests, "
    "corrected likewise, show that the difference is smaller than the margin (--margin), be it 0 or "
    "not. Everything else is undecided, whichever mean is higher; so many patients (and seeds) would show a "
    "difference as large as this one, or as the margin where it is smaller, in four of five studies, as far "
    "as these cases can tell.",
    "Best in: the share of drawings of patients and seeds in which a model has the highest mean; it is "
    "no test.",
)
