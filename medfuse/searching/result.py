"""What a search has found, as one value: trials, the front, the best, and whether that is more than luck."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medfuse.core.memory import bytes_text
from medfuse.core.text import aligned, duration, number, typed
from medfuse.report.candidates import MEAN, Candidate
from medfuse.report.compare import Comparison, compare
from medfuse.searching.combination import changes
from medfuse.searching.final import BASELINE, CHOSEN, Training, folders, judged_before
from medfuse.searching.halving import front
from medfuse.searching.importance import Importance, importances
from medfuse.searching.journal import Told
from medfuse.searching.proposals import Tried
from medfuse.searching.study import Study
from medfuse.space.dimensions import words

_COLUMNS = ("dice", "seconds_per_case", "memory", "parameters")
_SHOWN = 12
"""Trials in a table."""


@dataclass(frozen=True)
class Row:
    """A trial in the report: its `values`, of these what the file does not have, and what it reached last.

    `on_front`: no other of the last rung is better in every objective.
    """

    number: int
    values: Mapping[str, Any]
    changes: tuple[str, ...]
    told: Told
    on_front: bool

    def flat(self, keys: Iterable[str]) -> dict[str, Any]:
        """As a row of a table, with a column for each key of the space."""
        of = asdict(self.told)
        told = {key: of[key] for key in (*_COLUMNS, "steps", "seconds")}
        chosen = {key: _cell(self.values.get(key)) for key in keys}
        return {"trial": self.number, "rung": self.told.rung, **told, "front": self.on_front, **chosen}


@dataclass(frozen=True)
class Found:
    """What there is to say.

    `rows`: trials of the last rung, best first. `tried`: all that were judged, each at its last rung. `keys`:
    of the space. `chosen`: the trial of highest Dice. `inner`, `outer`: mean Dice of the cases to choose by,
    and of unseen ones, by whose. `comparison`: None where the file as written is the best itself.
    """

    folder: Path
    rungs: str
    trials: int
    refused: Mapping[str, str]
    failed: Mapping[int, str]
    minutes: float
    rows: tuple[Row, ...]
    tried: tuple[Row, ...]
    keys: tuple[str, ...]
    chosen: Row
    inner: Mapping[str, float]
    outer: Mapping[str, float]
    models: tuple[Candidate, ...]
    seeds: int
    cases: int
    objectives: tuple[str, ...]
    importance: tuple[Importance, ...]
    comparison: Comparison | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return self.comparison.of(CHOSEN, MEAN).verdict if self.comparison else "the file as written"

    @property
    def optimism(self) -> float:
        """By how much the chosen trial looked better on the cases that it was chosen by than on unseen ones,
        beyond what the file as written did, which nobody chose."""
        own = self.inner[CHOSEN] - self.outer[CHOSEN] if CHOSEN in self.outer else 0.0
        return own - (self.inner[BASELINE] - self.outer[BASELINE]) if CHOSEN in self.outer else 0.0

    def unseen(self, whose: str) -> str:
        """The mean over unseen cases, with its interval."""
        model = next(one for one in self.models if one.name == whose)
        interval = model.interval(MEAN)
        return interval.text() if interval else number(model.mean(MEAN))

    def conclusion(self) -> list[str]:
        """In words what may be said, and what may not."""
        if self.comparison is None:
            return [
                f"no winner: of {self.trials} trials none was better than the file as written, on the cases "
                "to choose by; keep it"
            ]
        found, what = self.comparison.of(CHOSEN, MEAN), ", ".join(self.chosen.changes)
        interval = f"{found.difference:+.4f}, 95 % interval {found.low:+.4f} … {found.high:+.4f}"
        measured = f"{interval}, {found.pairs} cases that no trial has seen, {_seeds(self.seeds)}"
        if found.verdict == "better":
            return [f"trial {self.chosen.number} is better than the file as written ({measured}): {what}"]
        if found.verdict == "worse":
            return [
                f"no winner: trial {self.chosen.number} was the best to choose by, and is worse than the "
                f"file as written on unseen cases ({measured}); keep the file"
            ]
        if found.verdict == "equivalent":
            return [
                f"no winner: trial {self.chosen.number} is as good as the file as written, within "
                f"±{found.margin:g} ({measured}); take the cheaper of the two; what it changes: {what}"
            ]
        more = "give the search more minutes, and judge by more cases (all folds with `medfuse compare`)"
        if found.needed:
            more += (
                f"; about {found.needed.patients} patients and {_seeds(found.needed.seeds)} would tell a "
                f"difference of {max(found.margin, abs(found.difference)):.2g}"
            )
        return [
            f"no winner: trial {self.chosen.number} cannot be told from the file as written ({measured}: "
            f"{found.verdict}); what it changes: {what}",
            f"keep the file, or {more}",
        ]

    def table(self) -> list[dict[str, Any]]:
        """A row for each trial that was judged."""
        return [row.flat(self.keys) for row in self.tried]

    def text(self) -> str:
        rows = [("trial", "Dice", "s/case", "memory", "parameters", "front", "changes")]
        for row in self.rows[:_SHOWN]:
            rows.append(
                (
                    str(row.number),
                    number(row.told.dice, 3),
                    f"{row.told.seconds_per_case:.2g}",
                    bytes_text(row.told.memory),
                    f"{row.told.parameters:,}",
                    "yes" if row.on_front else "",
                    ", ".join(row.changes) or "as written",
                )
            )
        kept = len(self.rows)
        lines = [
            f"{self.trials} trials in {duration(60 * self.minutes)}: {kept} went to the last rung, "
            f"{len(self.failed)} could not be trained; {len(self.refused)} combinations were refused before",
            "",
            aligned(rows),
            *([f"and {kept - _SHOWN} more"] if kept > _SHOWN else []),
            "(Dice of the cases that are chosen by, which flatters whatever is chosen)",
            "",
        ]
        if self.importance:
            lines += [
                aligned(
                    [
                        ("choice", "share of variance", "95 % interval"),
                        *(
                            (one.key, f"{one.share:.0%}", f"{one.low:.0%} … {one.high:.0%}")
                            for one in self.importance
                        ),
                    ]
                ),
                "",
            ]
        lines += [
            aligned(
                [
                    (
                        "mean foreground Dice",
                        "to choose by",
                        f"unseen ({self.cases} cases, {_seeds(self.seeds)})",
                    ),
                    *((whose, number(self.inner[whose], 4), self.unseen(whose)) for whose in self.outer),
                ]
            ),
        ]
        if CHOSEN in self.outer:
            lines.append(f"optimism of choosing: {self.optimism:+.4f} Dice")
        return "\n".join(
            [
                *lines,
                "",
                *self.conclusion(),
                *self.notes,
                "",
                f"pipeline: {typed(self.folder / 'chosen.yaml')}",
                f"page:     {typed(self.folder / 'search.html')}",
            ]
        )

    def values(self) -> dict[str, Any]:
        made = {
            "folder": self.folder,
            "trials": self.trials,
            "refused": len(self.refused),
            "reasons": dict(self.refused),
            "failed": {str(n): why for n, why in self.failed.items()},
            "minutes": self.minutes,
            "objectives": self.objectives,
            "chosen": self.chosen.number,
            "changes": self.chosen.changes,
            "verdict": self.verdict,
            "conclusion": self.conclusion(),
            "inner_dice": dict(self.inner),
            "outer_dice": dict(self.outer),
            "unseen": [one.to_json((MEAN, *one.dice)) for one in self.models],
            "optimism": self.optimism,
            "front": [row.number for row in self.rows if row.on_front],
            "last_rung": [
                {"trial": row.number, "changes": row.changes, **asdict(row.told)} for row in self.rows
            ],
            "importance": [asdict(one) for one in self.importance],
            "comparison": self.comparison.to_json() if self.comparison else None,
            "notes": self.notes,
            "pipeline": self.folder / "chosen.yaml",
        }
        plain: dict[str, Any] = json.loads(json.dumps(made, default=str))
        return plain


def found(study: Study, done: list[Training], candidate: Any) -> Found:
    """`candidate`: (name, folders of trainings) → Candidate of a comparison."""
    journal, space = study.journal, study.gate.space
    asked, told, known = journal.asked(), journal.told(), study.known()
    top = len(study.budget.amounts) - 1
    last = {one.number: one for one in told if one.rung == top}
    scores = known.told[top]
    on_front = {*front(scores)}
    prior = space.prior()
    furthest = {one.number: one for one in told}  # by rung, so that the last of a trial stays

    def row(one: Told) -> Row:
        values = dict(asked[one.number].values)
        said = tuple(changes(space.differing(values)))
        return Row(one.number, values or prior, said, one, one.number in on_front)

    rows = [row(last[n]) for n in sorted(last, key=lambda n: (-last[n].dice, n))]
    chosen = next(row for row in rows if row.number == study.chosen())
    candidates = [candidate(BASELINE, [*folders(done, BASELINE)])]
    if chosen.number:
        candidates.append(candidate(CHOSEN, [*folders(done, CHOSEN)]))
    first = [
        Tried(dict(asked[one.number].values) or prior, (one.ripe if top else one.dice,))
        for one in told
        if one.rung == 0
    ]
    notes = []
    if others := judged_before(study):
        notes.append(
            f"note: unseen cases have judged trial {', '.join(map(str, others))} before, and the search "
            "went on after that; whoever decided so by what they saw has chosen by them too"
        )
    return Found(
        folder=journal.folder,
        rungs=str(study.budget),
        trials=len(asked),
        refused={name: why for one in asked for name, why in one.refused.items()},
        failed=journal.failed(),
        minutes=journal.spent() / 60,
        rows=tuple(rows),
        tried=tuple(map(row, furthest.values())),
        keys=tuple(space.dimensions),
        chosen=chosen,
        inner={BASELINE: last[0].dice, **({CHOSEN: chosen.told.dice} if chosen.number else {})},
        outer={c.name: c.mean(MEAN) or 0.0 for c in candidates},
        models=tuple(candidates),
        seeds=len({one.seed for one in done}),
        cases=candidates[0].n(MEAN),
        objectives=study.settings.objectives,
        importance=importances(space.dimensions, first),
        comparison=compare(candidates, study.settings.margin) if len(candidates) > 1 else None,
        notes=tuple(notes),
    )


def _cell(value: Any) -> Any:
    """A number as it is, anything else in words; nothing where it has none."""
    return value if value is None or isinstance(value, int | float) else words(value)


def _seeds(count: int) -> str:
    return f"{count} seed{'s'[: count != 1]}"
