"""What a pipeline file says of a search: its space, its budget, and how it is made honest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from medfuse.core.section import Section
from medfuse.space.dimensions import as_written, read_dimension

Objective = Literal["dice", "seconds_per_case", "memory", "parameters"]

FIXED = {
    "name": "it names the run",
    "seed": "a seed is luck, and no choice; give `seeds` for how often the end is trained",
    "split": "choosing and judging would meet; the search makes its own inner split",
    "data": "trials on other data cannot be compared",
    "track": "it changes no result",
    "report": "it changes no result",
    "search": "a search does not search itself",
    "train.minutes": "trials are held to one budget",
    "train.steps": "trials are held to one budget",
    "train.epochs": "trials are held to one budget",
    "train.device": "trials are held to one machine",
}
"""Keys that no space may have, and why."""


class SearchSettings(Section):
    """Which pipeline is best in the time there is, and is that more than luck?"""

    space: Annotated[dict[str, Any], BeforeValidator(as_written, json_schema_input_type=dict[str, Any])] = (
        Field(
            json_schema_extra={"minProperties": 1},
            description="key as `--set` spells it: a list of values, or {log: [a, b]}, {range: [a, b]}, "
            "{int: [a, b]}, {subset_of: [a, b, c], at_least: 1}",
        )
    )
    minutes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="for all of it: trials, the last trainings, judging"
    )
    trials: int | None = Field(None, ge=2, description="most trials, that of the file as written included")
    objectives: tuple[Objective, ...] = Field(
        ("dice",),
        json_schema_extra={"minItems": 1},
        description="what is sought: dice, and what it costs: seconds_per_case, memory (of one window), "
        "parameters; several make a front",
    )
    method: Literal["tpe", "random"] = Field(
        "tpe",
        description="tpe: near the file, near the best, and where Optuna's TPE expects more, with halving; "
        "random: anywhere, each trained in full",
    )
    rungs: int = Field(3, ge=1, le=6, description="trainings of a trial, each `eta` times as long")
    eta: int = Field(3, ge=2, le=10, description="one trial of so many goes on to the next rung")
    inner: float = Field(
        0.25, gt=0, le=0.5, description="share of the training patients that trials are judged by"
    )
    seeds: Annotated[
        Annotated[int, Field(ge=1, le=100), Tag("count")]
        | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "count"),
    ] = Field(
        3,
        description="with how many seeds, or which, the chosen pipeline and the file as written are trained "
        "at the end and judged on cases that no trial has seen",
    )
    retrain: float = Field(
        0.4, gt=0, lt=1, description="share of `minutes` that is kept for those last trainings"
    )
    margin: float = Field(
        0.005, gt=0, lt=1, description="a difference in Dice that does not matter, at the end"
    )
    seed: int = Field(1, ge=0, description="seed of what is tried")

    @field_validator("space")
    @classmethod
    def _readable(cls, space: dict[str, Any]) -> dict[str, Any]:
        if not space:
            raise ValueError(
                "is empty; name a key and what may be tried, such as train.learning_rate: {log: [1e-4, 1e-2]}"
            )
        wrong = {key: said for key, value in space.items() if (said := _fault(key, value))}
        if wrong := {**_said_twice(space), **wrong}:
            raise _faulty(wrong, space)
        return space

    @field_validator("objectives")
    @classmethod
    def _once(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        if len({*objectives}) < len(objectives):
            raise ValueError("names one objective twice; keep one")
        if "dice" not in objectives:
            raise ValueError("dice has to be among the objectives, or an empty network would be the best")
        return objectives

    @field_validator("seeds")
    @classmethod
    def _apart(cls, seeds: Any) -> Any:
        if isinstance(seeds, tuple):
            if not seeds:
                raise ValueError("is empty; give one seed at least, better three")
            if len({*seeds}) < len(seeds):
                raise ValueError(
                    f"{[*seeds]} has a seed twice, which would be one training counted twice; give others"
                )
        return seeds

    @model_validator(mode="after")
    def _ends(self) -> SearchSettings:
        if self.minutes is None and self.trials is None:
            raise ValueError("say when it ends: give `minutes`, `trials`, or both")
        return self


def _fault(key: str, value: Any) -> str:
    """What is wrong with what a space says of a key; nothing where it can be read."""
    own = _words(key)
    for name, why in FIXED.items():
        if own[: len(_words(name))] == _words(name):
            return f"cannot be searched: {why}"
        if _words(name)[: len(own)] == own and own:
            return f"cannot be searched as a whole, as {name} is in it; name its keys, such as {key}.KEY"
    try:
        read_dimension(value)
    except ValueError as error:
        return str(error)
    return ""


def _words(key: str) -> list[str]:
    """`a.b[0]` → a, b, 0, however it is spelled."""
    return re.findall(r"[^.\[\]]+", key)


def _said_twice(space: Mapping[str, Any]) -> dict[str, str]:
    """Keys that decide what one before them decides."""
    found: dict[str, str] = {}
    seen: dict[tuple[str, ...], str] = {}
    for key in space:
        words = tuple(_words(key))
        plugin = words[:-1] if words[-1:] == ("use",) else words
        if before := seen.get(plugin):
            found[key] = f"decides what {before} decides; keep one of them"
        seen.setdefault(plugin, key)
    return found


def _faulty(wrong: Mapping[str, str], space: Mapping[str, Any]) -> PydanticCustomError:
    """One error with a problem for each key."""
    errors = [
        {"type": "space", "loc": (), "msg": said, "input": space, "ctx": {"key": key}}
        for key, said in wrong.items()
    ]
    message = "; ".join(f"{key}: {said}" for key, said in wrong.items())
    return PydanticCustomError(
        "nested", "{message}", {"message": message, "errors": errors, "model": SearchSettings}
    )
