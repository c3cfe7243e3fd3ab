"""Training's diary: `metrics.jsonl` for programs, TensorBoard files for eyes."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from medfuse.core.files import reported, write_text


class MetricsLog:
    """Appends rows {"step": …, name: number} to `folder/metrics.jsonl` and `folder/tensorboard`.

    Several processes that train together have one log, that of the first; for the others `folder` is None,
    and nothing is written. Opened at `step`, it drops rows of later steps: they belong to work that was lost
    and is done again. A step has one row: what is written of it later is added to that. `tell` is given each
    row as it is written, with what is new alone.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        step: int = 0,
        tell: Callable[[Mapping[str, float]], None] = lambda row: None,
    ) -> None:
        self._open, self._tell = folder is not None, tell
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self.path = folder, folder / "metrics.jsonl"
        rows = [row for row in read_rows(self.path) if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self._hook, threading.excepthook = threading.excepthook, _tell_but_of_the_board
        with reported(folder):
            self._file = self.path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._last: dict[str, float] = {}
        self._last_at = 0

    def write(self, row: Mapping[str, float]) -> None:
        if not self._open:
            return
        finite = {k: v for k, v in row.items() if math.isfinite(v)}
        self._tell(finite)
        with reported(self._folder):
            if self._last.get("step") == row["step"]:
                self._file.seek(self._last_at)
                self._file.truncate()
                self._last |= finite
            else:
                self._last_at, self._last = self._file.tell(), finite
            self._file.write(json.dumps(self._last) + "\n")
            self._file.flush()
            for name, value in finite.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        if not self._open:
            return
        with reported(self._folder):
            self._file.close()
            self._board.close()
        threading.excepthook = self._hook

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tell_but_of_the_board(fault: threading.ExceptHookArgs) -> None:
    """What TensorBoard's thread cannot write is raised by the next row, or by `close`."""
    if not type(fault.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(fault)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`, without lines that are none, such as a last one that was cut off."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _is_row(row):
            rows.append(row)
    return rows


def _is_row(row: object) -> bool:
    """Whether it is numbers by name, with a step."""
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in row.values())
