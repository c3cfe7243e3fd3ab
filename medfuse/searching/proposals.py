"""What is tried next: near the file, near the best, where Optuna's TPE expects more, or anywhere.

After PriorBand (Mallik et al. 2023): what somebody wrote is a good guess, so that part of the trials change
one or two of its values; the longer a search goes, the more do others take over.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuse.core.errors import MedfuseError
from medfuse.searching.admitted import draw, draw_one
from medfuse.space.dimensions import Choices, Dimension, Range, Subset, words

MEMBER = " ∋ "
"""Between the key of a subset and one of its members, in Optuna's names."""


@dataclass(frozen=True)
class Tried:
    """A trial as a proposal sees it: its values, and what is to be as large as possible."""

    values: Mapping[str, Any]
    scores: Sequence[float]


@dataclass(frozen=True)
class Proposer:
    """Proposals for a trial, the same whenever the same is known. `prior`: values of the file."""

    dimensions: Mapping[str, Dimension]
    prior: Mapping[str, Any]
    method: str
    seed: int

    def propose(
        self, number: int, known: Sequence[Tried], best: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """One after the other, as some are refused, or were tried. `best`: values of the best so far."""
        attempt = 0
        while True:
            chance = random.Random(f"{self.seed} {number} {attempt}")
            attempt += 1
            yield self._one(chance, number, known, best)

    def _one(
        self, chance: random.Random, number: int, known: Sequence[Tried], best: Mapping[str, Any]
    ) -> dict[str, Any]:
        if self.method == "random":
            return draw(self.dimensions, chance)
        knows = len(known) >= max(6, len(self.dimensions) + 2)
        way = chance.random()
        if knows and way < 0.5:
            return self._expected(known, chance)
        if way < (0.75 if knows else 0.35):
            return self._near(best, chance)
        if way < (0.85 if knows else 0.7):
            return self._near(self.prior, chance)
        return draw(self.dimensions, chance)

    def _near(self, values: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
        """One or two values are others; the rest is as it was."""
        keys = [*self.dimensions]
        changed = chance.sample(keys, min(len(keys), 1 + (chance.random() < 0.5)))
        made = dict(values)
        for key in changed:
            made[key] = _step(self.dimensions[key], values.get(key), chance)
        return made

    def _expected(self, known: Sequence[Tried], chance: random.Random) -> dict[str, Any]:
        """By Optuna's tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023)."""
        optuna = load_optuna()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that grouping conditional parameters is experimental
            sampler = optuna.samplers.TPESampler(
                seed=chance.randrange(2**31), multivariate=True, group=True, n_startup_trials=0
            )
        study = optuna.create_study(sampler=sampler, directions=["maximize"] * len(known[0].scores))
        distributions = {
            name: d for key, one in self.dimensions.items() for name, d in _names(optuna, key, one)
        }
        for tried in known:
            parameters = dict(self._parameters(tried.values))
            study.add_trial(
                optuna.trial.create_trial(
                    params=parameters,
                    distributions={name: distributions[name] for name in parameters},
                    values=[float(score) for score in tried.scores],
                )
            )
        asked = study.ask(distributions)
        return {key: _value(key, one, asked.params) for key, one in self.dimensions.items()}

    def _parameters(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            dimension = self.dimensions[key]
            if isinstance(dimension, Subset):
                for option in dimension.options:
                    yield f"{key}{MEMBER}{words(option)}", option in value
            else:
                yield key, words(value) if isinstance(dimension, Choices) else value


def _step(dimension: Dimension, value: Any, chance: random.Random) -> Any:
    """Another value: a near one where there is one and near means something, else any other."""
    if isinstance(dimension, Subset) and isinstance(value, list) and chance.random() < 0.7:
        option = chance.choice(dimension.options)
        made = [o for o in dimension.options if (o in value) != (o == option)]
        if len(made) >= dimension.at_least:
            return made
    if isinstance(dimension, Range) and isinstance(value, int | float) and chance.random() < 0.7:
        low, high = dimension.low, dimension.high
        if dimension.log:
            near = value * (high / low) ** chance.gauss(0, 0.15)
        else:
            near = value + (high - low) * chance.gauss(0, 0.15)
        near = min(high, max(low, near))
        return round(near) if dimension.whole else float(f"{near:.4g}")
    for _ in range(20):
        made = draw_one(dimension, chance)
        if words(made) != words(value):
            break
    return made


def _names(optuna: Any, key: str, dimension: Dimension) -> Iterator[tuple[str, Any]]:
    kinds = optuna.distributions
    if isinstance(dimension, Subset):
        for option in dimension.options:
            yield f"{key}{MEMBER}{words(option)}", kinds.CategoricalDistribution([False, True])
    elif isinstance(dimension, Choices):
        yield key, kinds.CategoricalDistribution([words(option) for option in dimension.options])
    elif dimension.whole:
        yield key, kinds.IntDistribution(int(dimension.low), int(dimension.high))
    else:
        yield key, kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _value(key: str, dimension: Dimension, parameters: Mapping[str, Any]) -> Any:
    if isinstance(dimension, Subset):
        chosen = [o for o in dimension.options if parameters[f"{key}{MEMBER}{words(o)}"]]
        missing = [o for o in dimension.options if o not in chosen][: dimension.at_least - len(chosen)]
        return [o for o in dimension.options if o in chosen or (missing and o in missing)]
    value = parameters[key]
    if isinstance(dimension, Choices):
        return next(option for option in dimension.options if words(option) == value)
    return value if dimension.whole else float(f"{value:.4g}")


def load_optuna() -> Any:
    """Optuna, silent. Raises MedfuseError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise MedfuseError(
            "searching needs the package optuna, which is not installed; run pip install optuna or pip "
            'install "medfuse[search]", or set search.method: random'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
