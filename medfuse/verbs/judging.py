"""Cases that workers judge: each is a pair of label maps, measured as one process measures it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from medfuse.core.leading import lead
from medfuse.core.reporter import Reporter
from medfuse.core.tasks import FOLDER, Kind, Task
from medfuse.report.evaluate import Judged, Judging, judge_pair
from medfuse.report.pairs import Pair
from medfuse.runs.probabilities import probabilities_beside
from medfuse.verbs.crews import Workers

KIND = "judge"
_HOW, _PAIR, _JUDGED = TypeAdapter(Judging), TypeAdapter(Pair), TypeAdapter(Judged)


def judge(given: Mapping[str, Any], reporter: Reporter) -> Mapping[str, Any]:
    """One pair as a task; what became of it, as JSON."""
    pair, how = _PAIR.validate_python(given["pair"]), _HOW.validate_python(given["how"])
    judged = judge_pair(pair, how, probabilities_beside if given["calibration"] else None)
    made: Mapping[str, Any] = _JUDGED.dump_python(judged, mode="json")
    return made


JUDGING = Kind(judge)


def judged_by(
    workers: Workers,
    folder: Path,
    reporter: Reporter,
    calibration: bool,
    pairs: Sequence[Pair],
    how: Judging,
) -> Iterator[Judged]:
    """Pairs, the largest first, judged by workers that agree in `folder`.

    calibration: whether by probabilities beside the predictions, too.
    """
    pairs = sorted(pairs, key=lambda pair: (-sum(size for size, _ in _seen(pair)), pair.name))
    tasks = [
        Task(name=p.name, given={"pair": _PAIR.dump_python(p, mode="json"), "seen": _seen(p)}) for p in pairs
    ]
    common = {"how": _HOW.dump_python(how, mode="json"), "calibration": calibration}
    start = workers.starter(["work", str(folder.resolve()), "--quiet"], folder / FOLDER, "cpu")
    words: dict[str, Any] = {"what": "cases", "instead": "choose another --output", "keep": not calibration}
    records = lead(folder, KIND, tasks, start, workers.count, common=common, reporter=reporter, **words)
    for number, record in sorted(records.items()):
        if record["state"] == "done":
            yield _JUDGED.validate_python(record["made"])
        else:
            yield Judged(pairs[number].name, errors=(f"{pairs[number].reference}: {record['reason']}",))


def _seen(pair: Pair) -> list[list[int]]:
    """Size and time of each file: with others it is another task."""
    about = [path.stat() for path in (pair.prediction, pair.reference) if path.exists()]
    return [[one.st_size, one.st_mtime_ns] for one in about]
