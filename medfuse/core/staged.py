"""Two `stages` in one file: which sections each has, and what is wrong with them as a list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from medfuse.core.document import Document
from medfuse.core.errors import Problem

STAGES = "stages"
COMMON = ("name", "split", "cascade", "track", "search")
"""Sections that are of both stages together."""


def add_to_schema(schema: dict[str, Any]) -> None:
    """The schema of a pipeline file, which may say `stages` in place of some sections."""
    own = {key: {"$ref": f"#/properties/{key}"} for key in schema["properties"] if key not in COMMON}
    stage = {"type": "object", "properties": own, "additionalProperties": False}
    schema["properties"][STAGES] = {
        "type": "array",
        "items": stage,
        "minItems": 2,
        "maxItems": 2,
        "description": "two pipelines, the first of which finds where the second looks: their own sections; "
        "those outside are of both",
    }
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": [STAGES]}]


def take_in(document: Document, override: str) -> None:
    """A section outside of `stages` becomes one of the stage's own in which a `--set` changes something."""
    stages = document.data.get(STAGES)
    found = re.match(rf"{STAGES}[.\[](\d{{1,2}})\]?\.(\w+)[.\[]", override)
    if found is None or not isinstance(stages, list) or not int(found[1]) < len(stages):
        return
    stage, key = stages[int(found[1])], found[2]
    if isinstance(stage, dict) and key not in stage and isinstance(document.data.get(key), dict):
        document.repeat((key,), (STAGES, int(found[1]), key))


def view(document: Document, number: int) -> Document:
    """The file as that of one stage alone."""
    left_out = (STAGES, "cascade", "track", "search") if number == 0 else (STAGES,)
    return document.within((STAGES, number), left_out)


def list_problems(document: Document) -> list[Problem]:
    """What is wrong with `stages` as a list of two mappings beside others."""
    stages = document.data[STAGES]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        return [Problem((STAGES,), "are a list of two mappings of sections, each begun with `- `")]
    if len(stages) != 2:
        message = f"there are two, one that finds and one that segments; {len(stages)} given"
        return [Problem((STAGES,), f"{message}; write one pipeline without `stages`, or two stages")]
    problems = []
    for key in (key for key in stages[0] if key in stages[1] and key in document.data):
        message = "counts for neither stage, as each has its own; remove it, or set stages.0 or stages.1"
        problems.append(Problem((key,), message, at_key=True))
    for number, stage in enumerate(stages):
        for key in (key for key in stage if key in (*COMMON, STAGES)):
            message = "is of both stages together; write it outside of `stages`"
            problems.append(Problem((STAGES, number, key), message, at_key=True))
    return problems


def finer(coarse: Iterable[float], fine: Iterable[float]) -> str:
    """What is wrong with the spacings of two stages, in mm; nothing where the first is as coarse."""
    pairs = [*zip(coarse, fine)]
    if all(first >= second for first, second in pairs):
        return ""
    one, other = ("[" + ", ".join(f"{n:g}" for n in each) + "]" for each in zip(*pairs))
    return f"{one} is finer than the second stage's {other}; the first looks at larger voxels, to cost little"


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The values of two stages as those of one file, where `second` has what is of both."""
    common = {key: second[key] for key in COMMON if key in second}
    own = [{key: value for key, value in stage.items() if key not in COMMON} for stage in (first, second)]
    return {**common, STAGES: own}
