"""The results of benchmarks/plans.py as Markdown: what `init` reached beside the best plan of the grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

Rows = Sequence[Mapping[str, Any]]
Key = tuple[float, str]
"""Minutes and set."""


def table(rows: Rows) -> str:
    """Machine, date and command; a row for each set and time, and their means; then all of the grid."""
    if not rows:
        return "nothing is measured yet"
    found = _dice(rows)
    blocks = ["\n".join(_heading(rows)), "\n".join(_against_the_best(rows, found))]
    if any(_in_grid(plan) for plans in found.values() for plan in plans):
        blocks.append("\n".join(_whole_grid(found)))
    return "\n\n".join(blocks)


def _dice(rows: Rows) -> dict[Key, dict[str, float | None]]:
    """Mean foreground Dice of each plan, over its seeds; None where no training of it came to an end."""
    seeds: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        of_plan = seeds[row["minutes"], row["set"]][row["plan"]]
        of_plan += [] if row["dice"] is None else [row["dice"]]
    return {
        key: {plan: mean(dice) if dice else None for plan, dice in seeds[key].items()}
        for key in sorted(seeds, key=lambda key: key[0])
    }


def _heading(rows: Rows) -> list[str]:
    machines = {f"{row['machine']}, {row['cores']} cores, torch {row['torch']}" for row in rows}
    dates, loads = sorted({row["date"] for row in rows}), [row["load"] for row in rows]
    seeds = len({row["seed"] for row in rows})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return [
        f"- {when}, {'; '.join(sorted(machines))}, load {min(loads):.1f} to {max(loads):.1f}, fold 0, "
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        *(f"- command: `{command}`" for command in dict.fromkeys(row["command"] for row in rows)),
    ]


def _against_the_best(rows: Rows, found: Mapping[Key, Mapping[str, float | None]]) -> list[str]:
    lines = [
        "| minutes | set | `init` | best of the grid | `init` − best | that plan | nnU-Net "
        "| steps foretold, taken | planning |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for minutes in dict.fromkeys(minutes for minutes, _ in found):
        pairs: list[tuple[float, float]] = []
        theirs: list[float] = []
        sets = [name for of, name in found if of == minutes]
        for name in sets:
            plans = found[minutes, name]
            ours, (best, plan) = plans.get("init"), _best(plans, _in_grid)
            nnunet, _ = _best(plans, _of_nnunet)
            if ours is not None and best is not None:
                pairs.append((ours, best))
            theirs += [] if nnunet is None else [nnunet]
            runs = [r for r in rows if (r["minutes"], r["set"], r["plan"]) == (minutes, name, "init")]
            cells = [
                _number(ours, "init" in plans),
                _number(best),
                _distance(ours, best),
                plan,
                _number(nnunet),
            ]
            lines.append(f"| {minutes:g} | {name} | {' | '.join([*cells, _steps(runs), _planning(runs)])} |")
        lines += _means(minutes, pairs, theirs, len(sets)) if len(sets) > 1 else []
    return lines


def _means(minutes: float, pairs: list[tuple[float, float]], theirs: list[float], sets: int) -> list[str]:
    """Over the sets that have both; nnU-Net's where all have it."""
    if not pairs:
        return []
    ours, best = mean(a for a, _ in pairs), mean(b for _, b in pairs)
    least = min(a - b for a, b in pairs)
    distance = f"{_distance(ours, best)}, least {least:+.4f}"
    nnunet = _number(mean(theirs) if len(theirs) == sets else None)
    cells = [f"mean of {len(pairs)}", _number(ours), _number(best), distance, "", nnunet, "", ""]
    return [f"| {minutes:g} | {' | '.join(cells)} |"]


def _whole_grid(found: Mapping[Key, Mapping[str, float | None]]) -> list[str]:
    """Every plan of the grid, the best in the mean first; a plan that has not all is not ranked."""
    plans = dict.fromkeys(plan for of in found.values() for plan in of if _in_grid(plan))
    values = {plan: [of.get(plan) for of in found.values()] for plan in plans}
    means = {p: mean(v for v in of if v is not None) if None not in of else None for p, of in values.items()}
    names = [f"{name}, {minutes:g} min" for minutes, name in found]
    lines = [f"| plan | {' | '.join(names)} | mean |", "|---" * (len(names) + 2) + "|"]
    for plan in sorted(plans, key=lambda p: -(means[p] or 0)):
        cells = [_number(value, plan in of) for value, of in zip(values[plan], found.values())]
        lines.append(f"| {plan} | {' | '.join(cells)} | {_number(means[plan])} |")
    return lines


def _of_nnunet(plan: str) -> bool:
    return plan.startswith("nnU-Net")


def _in_grid(plan: str) -> bool:
    return plan != "init" and not _of_nnunet(plan)


def _best(plans: Mapping[str, float | None], among: Callable[[str], bool]) -> tuple[float | None, str]:
    known = [(dice, plan) for plan, dice in plans.items() if dice is not None and among(plan)]
    return max(known, default=(None, "–"))


def _number(dice: float | None, tried: bool = False) -> str:
    return f"{dice:.4f}" if dice is not None else "failed" if tried else "–"


def _distance(ours: float | None, best: float | None) -> str:
    return "–" if ours is None or best is None else f"{ours - best:+.4f}"


def _steps(runs: Rows) -> str:
    told = [
        f"{run['foretold']:,}, {run['steps']:,}" for run in runs if run.get("foretold") and run.get("steps")
    ]
    return "; ".join(told) or "–"


def _planning(runs: Iterable[Mapping[str, Any]]) -> str:
    """Of the minutes."""
    shares = [run["planning_seconds"] / 60 / run["minutes"] for run in runs if "planning_seconds" in run]
    return f"{max(shares):.0%}" if shares else "–"
