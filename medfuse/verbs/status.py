"""`medfuse status`: where the work on a folder stands, asked from any machine that sees it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medfuse.core.board import Board, Worker, is_set_aside
from medfuse.core.errors import OutputError
from medfuse.core.result import Result
from medfuse.core.storage import is_remote
from medfuse.core.tasks import has_tasks, read_tasks
from medfuse.core.text import listed
from medfuse.core.told import seconds_left, where
from medfuse.infer.fleet_files import FOLDER, Work, has_work, parts, read_work
from medfuse.infer.manifest import NAME, ended_parts, read_manifest
from medfuse.runs.standing import Standing, standings

_FEW = 20


def status_of(output: str | Path) -> Result:
    """Cases that are done, worked on, failed and left to do. Raises OutputError where nothing was done."""
    if is_remote(output):
        return _of_bucket(output)
    return _of_folder(Path(output))


def _of_bucket(address: str | Path) -> Result:
    """Of an output folder at an address, as its manifest and what is not yet in that tell."""
    from medfuse.infer.away import Scratch
    from medfuse.infer.bucket import Bucket

    with Scratch() as scratch:
        bucket = Bucket(address, scratch.folder / "labels")
        _, content = read_manifest(bucket.folder / NAME)
    if not content:
        raise OutputError(f"{bucket.shown}: holds no {NAME}; give the output folder of `medfuse infer`")
    return _of_manifest(bucket.shown, content)


def _of_manifest(output: str, content: Mapping[str, Any]) -> Result:
    failed = dict(content.get("failed", {}))
    done = len(content.get("cases", {}))
    lines = [_counts(output, done, failed), _end(content), *_few(failed)]
    values: dict[str, Any] = {"output": output, "finished": content.get("finished"), "workers": []}
    values |= {"done": done, "failed": failed, "set_aside": _set_aside(failed)}
    return Result("\n".join(lines), values)


def _of_folder(output: Path) -> Result:
    if not output.is_dir():
        what = "is a file" if output.exists() else "no such folder"
        raise OutputError(f"{output}: {what}; give a run, or the output folder of `medfuse infer`")
    if has_tasks(output):
        return _of_tasks(output)
    _, content = read_manifest(output / NAME)
    places = [place for place in (output, *parts(output)) if has_work(place)]
    if not content and not places:
        if runs := standings(output):
            return _of_runs(output, runs)
        raise OutputError(
            f"{output}: no workers share anything there now, and it is neither a run nor the "
            "output folder of `medfuse infer`"
        )
    done, failed = set(content.get("cases", {})), dict(content.get("failed", {}))
    values: dict[str, Any] = {"output": output, "finished": content.get("finished"), "workers": []}
    lines = []
    if places:
        workers, left, minutes = list[Worker](), 0, list[float | None]()
        for place in places:
            work = read_work(place)
            board = Board(place / FOLDER, len(work.cases), make=False)
            settled = dict(board.records())
            for number, record in settled.items():
                name = work.cases[number].name
                if record["state"] == "done":
                    done.add(name)
                else:
                    failed[name] = record.get("reason", "")
            workers += [worker for worker in board.workers() if worker.is_alive]
            left += len(work.cases) - len(settled)
            minutes.append(_minutes_left(work, settled))
        running = [str(worker.doing["case"]) for worker in workers if worker.doing]
        longest = None if None in minutes else max(found for found in minutes if found is not None)
        values |= {"left": left, "running": running, "minutes_left": longest}
        values["workers"] = [{"host": w.host, "pid": w.pid, **w.doing} for w in workers]
        lines.append(f"{left} to do, by {_counted(workers)}{_eta(values['minutes_left'])}")
        lines += [f"  {w.host} {w.pid}: {_where(w.doing)}" for w in workers]
    else:
        lines.append(_end(content))
    if places and (told := _of_parts(content, {place.name for place in parts(output)})):
        lines.append(told)
    values |= {"done": len(done), "failed": failed, "set_aside": _set_aside(failed)}
    lines.insert(0, _counts(output, len(done), failed))
    lines += _few(failed)
    return Result("\n".join(lines), values)


def _of_tasks(output: Path) -> Result:
    """Of tasks that workers share: folds, trainings, cases that are measured."""
    tasks = read_tasks(output).tasks
    board = Board(output / FOLDER, len(tasks), make=False)
    settled = dict(board.records())
    failed = {
        tasks[number].name: str(record.get("reason") or "; ".join(map(str, record.get("lines", ()))))
        for number, record in settled.items()
        if record["state"] != "done"
    }
    done = [tasks[number].name for number in sorted(settled) if tasks[number].name not in failed]
    workers = [worker for worker in board.workers() if worker.is_alive]
    running = [str(worker.doing.get("case")) for worker in workers if worker.doing]
    left = len(tasks) - len(settled)
    taken = [record["seconds"] for record in settled.values() if "seconds" in record]
    seconds = seconds_left(workers, taken, max(0, left - len(running)))
    minutes = None if seconds is None else round(seconds / 60, 1)
    lines = [
        f"{output}: {len(done)} of {len(tasks)} done, {len(failed)} failed",
        f"{left} to do, by {_counted(workers)}{_eta(minutes)}",
        *(f"  {worker.host} {worker.pid}: {where(worker)}" for worker in workers),
        *_few(failed),
    ]
    values = {
        "output": output,
        "finished": None,
        "done": len(done),
        "failed": failed,
        "left": left,
        "running": running,
        "minutes_left": minutes,
        "workers": [{"host": w.host, "pid": w.pid, **w.doing} for w in workers],
    }
    return Result("\n".join(lines), values)


def _of_runs(output: Path, runs: Mapping[str, Standing]) -> Result:
    """Of a run folder, or of that of a cross-validation."""
    lines = [f"{run.folder}: {run.text()}" for run in runs.values()]
    finished = all(run.judged for run in runs.values())
    return Result(
        "\n".join(lines),
        {"output": output, "finished": finished, "runs": {name: run.values() for name, run in runs.items()}},
    )


def _few(failed: Mapping[str, str]) -> list[str]:
    lines = [f"  {name}: {reason}" for name, reason in [*failed.items()][:_FEW]]
    if len(failed) > _FEW:
        lines.append(f"  and {len(failed) - _FEW} more: {listed([*failed][_FEW:], 10)}")
    return lines


def _minutes_left(work: Work, settled: Collection[int]) -> float | None:
    """At the pace so far, by bytes where sizes are known, as the largest come first; None at first."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(work.began)).total_seconds()
    sizes = [case.bytes for case in work.cases]
    weights = sizes if all(sizes) else [1] * len(sizes)
    done = sum(weights[number] for number in settled)
    return round(seconds / done * (sum(weights) - done) / 60, 1) if done else None


def _counts(output: object, done: int, failed: Mapping[str, str]) -> str:
    aside = len(_set_aside(failed))
    return f"{output}: {done} done, {len(failed)} failed" + (f", {aside} of them set aside" if aside else "")


def _set_aside(failed: Mapping[str, str]) -> list[str]:
    return [name for name, reason in failed.items() if is_set_aside(reason)]


def _end(content: Mapping[str, Any]) -> str:
    if content.get("finished"):
        return f"finished at {content['finished']}"
    if told := _of_parts(content):
        return f"not finished: {told}"
    return "not finished; run the same command again to carry on, if nobody works there"


def _of_parts(content: Mapping[str, Any], begun: Collection[str] = ()) -> str:
    """Which parts of a folder have ended, and which were not begun; "" where nothing is known of parts."""
    said = content.get("parts")
    count = said.get("count") if isinstance(said, dict) else None
    if not isinstance(count, int) or content.get("finished"):
        return ""
    ended = ended_parts(content, count)
    waiting = [n for n in range(count) if n not in ended and f"{n}-of-{count}" not in begun]
    told = f"of --shard 0/{count} to {count - 1}/{count} {len(ended)} ended: {listed(_shards(ended, count))}"
    if not waiting:
        return told
    return f"{told}; still to be begun: {listed(_shards(waiting, count))}"


def _shards(numbers: Sequence[int], count: int) -> list[str]:
    return [f"{number}/{count}" for number in numbers]


def _counted(workers: Sequence[Worker]) -> str:
    return f"{len(workers)} worker{'s' if len(workers) != 1 else ''}"


def _eta(minutes: float | None) -> str:
    return "" if minutes is None else f", about {minutes:g} minutes more"


def _where(doing: Any) -> str:
    return f"{doing['case']}, window {doing['done']} of {doing['of']}" if doing else "begins"
