"""What is another now than when a run was trained: its pipeline, the dataset's text, cases, split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from medfuse.pipeline import Pipeline, resolved
from medfuse.runs.records import TrainedOn

# What a run that is carried on may say differently. Of `data` and the file of a split only the content
# counts, which is in `TrainedOn`: a dataset that was moved is the same.
_FREE = ("name", "infer", "report", "track", "train", "data", "search")
_FIXED_TRAIN = (
    "optimizer",
    "learning_rate",
    "weight_decay",
    "decay",
    "warmup",
    "average",
    "parts",
    "pseudo_labels",
    "teacher",
    "guided",
    "frozen_maps",
)
_NAMED = 10  # cases in a line


def identity(pipeline: Pipeline) -> dict[str, Any]:
    """All values of a pipeline that make it another run, as JSON has them."""
    values = resolved(pipeline)
    kept = {key: value for key, value in values.items() if key not in _FREE}
    kept["split"] = {key: value for key, value in kept["split"].items() if key != "file"}
    kept["train"] = {key: values["train"].get(key) for key in _FIXED_TRAIN}
    if kept["train"]["frozen_maps"]:
        kept["train"]["frozen_maps"].pop("folder", None)  # where they lie changes nothing
    if kept["train"]["teacher"]:  # its weights are known by their hash
        for key in ("run", "unseen", "trust"):
            kept["train"]["teacher"].pop(key, None)
    made: dict[str, Any] = json.loads(json.dumps(kept))
    return made


def pipeline_changes(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Of two identities; a setting that is younger than the run counts where it is set."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from pipeline_changes(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now and not (before is None and now == {}):
        yield f"{path} was {before!r}, is {now!r}"


def data_changes(before: TrainedOn, now: TrainedOn) -> list[str]:
    """One line for each kind of change; none where the same content is given, wherever it lies."""
    return [*text_changes(before, now), *case_changes(before, now), *split_changes(before, now)]


def text_changes(before: TrainedOn, now: TrainedOn) -> Iterator[str]:
    """What the dataset's text says otherwise."""
    for what in ("labels", "channels", "region_order", "ignore"):
        was, is_now = getattr(before, what), getattr(now, what)
        reordered = what == "labels" and before.region_order and [*was] != [*is_now]  # each has its logit
        if was != is_now or reordered:
            yield f"the dataset's {what} were {_plain(was)}, are {_plain(is_now)}"


def case_changes(before: TrainedOn, now: TrainedOn) -> Iterator[str]:
    """Cases that are new, gone or changed, by name."""
    was, is_now = before.cases, now.cases
    both = [name for name in was if name in is_now]
    groups = {
        ("is new", "are new"): [name for name in is_now if name not in was],
        ("is gone, or has no label", "are gone, or have no label"): [n for n in was if n not in is_now],
        ("has another image", "have other images"): [n for n in both if was[n].images != is_now[n].images],
        ("has a changed label", "have changed labels"): [n for n in both if was[n].label != is_now[n].label],
    }
    for (one, several), names in groups.items():
        if names:
            what = f"case {one}" if len(names) == 1 else f"cases {several}"
            yield f"{len(names)} {what}: {_names(names)}"
    if before.teacher != now.teacher:
        yield "the weights of the teacher of pseudo-labels have changed"
    if (
        before.taught_by != now.taught_by and now.taught_by is not None
    ):  # or it is gone, and so needed no more
        yield "the weights of the teacher (train.teacher) have changed"


def split_changes(before: TrainedOn, now: TrainedOn) -> Iterator[str]:
    """Cases on another side of the split than they were, of those that there were and are."""

    def side(of: TrainedOn, name: str) -> str:
        return "training" if name in of.train else "held out" if name in of.validation else "left out"

    moved: dict[tuple[str, str], list[str]] = {}
    for name in before.cases:
        was, is_now = side(before, name), side(now, name)
        if name in now.cases and was != is_now:
            moved.setdefault((was, is_now), []).append(name)
    for (was, is_now), names in moved.items():
        yield f"the split has changed: {was} before, {is_now} now: {_names(names)}"


def _names(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{', '.join(found[:_NAMED])}{more}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {list(v) if isinstance(v, tuple) else v}" for key, v in value.items())
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
