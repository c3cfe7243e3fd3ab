"""Which combinations there are: what `medfuse check` refuses is refused before anything is trained."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import MedfuseError, PipelineError, Problem, dotted
from medfuse.searching.combination import Combined, Space, Values, keys_of
from medfuse.space.dimensions import Choices, Dimension, Range, Subset, words

if TYPE_CHECKING:
    from medfuse.api import DatasetInfo, ImageInfo
    from medfuse.model.verify import Verified

_UNKNOWN = "unknown key"
_NO_KEY = "the pipeline has no such key"
_TRIES = 64
"""Combinations in which a value is tried before it is said that none admits it."""


@dataclass
class Gate:
    """Lets sound combinations through.

    `image`: what the network is given, where that is known. `verified` knows graphs that were seen before.
    """

    space: Space
    info: DatasetInfo
    image: ImageInfo | None = None
    verified: Verified | None = None
    _known: dict[str, MedfuseError | Combined] = field(default_factory=dict)

    def admit(self, values: Values) -> Combined:
        """Raises MedfuseError, most often PipelineError, that says why it is none."""
        from medfuse.runs.checked import checked

        name = words(dict(sorted(values.items())))
        if name not in self._known:
            try:
                combined = self.space.combine(values)
                own = combined.pipeline.preprocess == self._written.pipeline.preprocess
                own = own and combined.pipeline.sample == self._written.pipeline.sample
                checked(combined.pipeline, self.info, self.image if own else None, self.verified)
                self._known[name] = combined
            except MedfuseError as error:
                self._known[name] = error
        found = self._known[name]
        if isinstance(found, MedfuseError):
            raise found
        return found

    def see(self, image: ImageInfo) -> None:
        """From now on it is known what the network of the file is given."""
        self.image = image
        self._known.clear()

    @property
    def _written(self) -> Combined:
        if not hasattr(self, "_as_written"):
            self._as_written = self.space.combine({})
        return self._as_written

    def refuse_hopeless(self) -> None:
        """Raises PipelineError with every value of the space that no combination admits, at its place."""
        problems = [*self._doubles()]
        for key, dimension in self.space.dimensions.items():
            refused = {}
            for place in dimension.examples():
                if error := self._hopeless(key, dimension.example(place)):
                    refused[place] = error
            if len(refused) == len(dimension.examples()) and all(
                t.startswith(_NO_KEY) for t in refused.values()
            ):
                problems.append(Problem(("search", "space", key), next(iter(refused.values())), at_key=True))
            elif len(refused) == len(dimension.examples()) and (unnamed := self.space.unnamed(key)):
                text = f"{_NO_KEY}{unnamed}; write it as --set does"
                problems.append(Problem(("search", "space", key), text, at_key=True))
            else:
                problems += [Problem(("search", "space", key, *p), text) for p, text in refused.items()]
        if not problems and self._is_one_point():
            what = "holds nothing but the file as it is written; add a value to try"
            problems.append(Problem(("search", "space"), what, at_key=True))
        if problems:
            raise PipelineError(problems)

    def _doubles(self) -> Iterator[Problem]:
        """Values that say in other words what one before them says."""
        for key, dimension in self.space.dimensions.items():
            seen: dict[str, str] = {}
            for place in dimension.examples() if isinstance(dimension, Choices) else ():
                value = dimension.example(place)
                try:
                    counts = key in self.space.combine({key: value}).values
                    same = self.space.identity({key: value})
                except MedfuseError:
                    continue
                if counts and same in seen:
                    text = f"{words(value)}: is the same pipeline as {seen[same]}; keep one"
                    yield Problem(("search", "space", key, *place), text)
                if counts:
                    seen.setdefault(same, words(value))

    def _is_one_point(self) -> bool:
        """Whether there is one combination, that of the file."""
        examples = {key: one.examples() for key, one in self.space.dimensions.items()}
        single = all(
            (isinstance(one, Choices) and len(one.options) == 1)
            or (isinstance(one, Subset) and len(one.options) == one.at_least)
            for one in self.space.dimensions.values()
        )
        if not single:
            return False
        only = {key: self.space.dimensions[key].example(places[0]) for key, places in examples.items()}
        return self.space.identity(only) == self.space.identity({})

    def _hopeless(self, key: str, value: Any) -> str:
        """Why no combination admits this value, or that the key is none; nothing where one does."""
        first, at_key, meaningless = "", "", False
        for values in itertools.islice(self._around(key), _TRIES):
            try:
                if key in self.admit({**values, key: value}).values:
                    return ""
                meaningless = True
            except PipelineError as error:
                at_key = at_key or _at(error, key)
                first = first or f"{dotted(error.problems[0].path)}: {error.problems[0].message}"
            except MedfuseError as error:
                first = first or error.lines[0]
        if at_key.startswith(_UNKNOWN) or (meaningless and not at_key):
            return f"{_NO_KEY}{at_key.removeprefix(_UNKNOWN)}; write it as --set does"
        return f"{words(value)}: no combination of the space admits it: {at_key or first}"

    def _around(self, key: str) -> Iterator[dict[str, Any]]:
        """Values of the other keys: those of the file, then each other value alone, then any together."""
        others = {other: d for other, d in self.space.dimensions.items() if other != key}
        yield {}
        alone = [(other, d.example(place)) for other, d in others.items() for place in d.examples()]
        near = sorted(alone, key=lambda one: -_common(keys_of(one[0]), keys_of(key)))
        for other, value in near:
            yield {other: value}
        chance = random.Random(key)
        while others:
            yield draw(others, chance)


def _common(a: tuple[Any, ...], b: tuple[Any, ...]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], zip(a, b)))


def _at(error: PipelineError, key: str) -> str:
    """What is wrong with a key's own value; nothing where something else is wrong."""
    keys = keys_of(key)
    for problem in error.problems:
        if problem.path[: len(keys)] == keys:
            return problem.message if problem.path == keys else f"{dotted(problem.path)}: {problem.message}"
    return ""


def draw(dimensions: Mapping[str, Dimension], chance: random.Random) -> dict[str, Any]:
    """A value of each, any as likely as any other."""
    return {key: draw_one(dimension, chance) for key, dimension in dimensions.items()}


def draw_one(dimension: Dimension, chance: random.Random) -> Any:
    import math

    if isinstance(dimension, Choices):
        return chance.choice(dimension.options)
    if isinstance(dimension, Subset):
        count = [math.comb(len(dimension.options), n) for n in range(len(dimension.options) + 1)]
        sizes = range(dimension.at_least, len(dimension.options) + 1)
        size = chance.choices(sizes, [count[n] for n in sizes])[0]
        chosen = sorted(chance.sample(range(len(dimension.options)), size))
        return [dimension.options[n] for n in chosen]
    assert isinstance(dimension, Range)
    if dimension.whole:
        return chance.randint(int(dimension.low), int(dimension.high))
    if dimension.log:
        return float(f"{math.exp(chance.uniform(math.log(dimension.low), math.log(dimension.high))):.4g}")
    return float(f"{chance.uniform(dimension.low, dimension.high):.4g}")
