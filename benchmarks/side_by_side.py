"""Programs that take turns, each in a process of its own, so that all of them meet the same machine."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from medfuse.core.device import processor


class Worker:
    """A program that answers every line on its standard input with one line of JSON."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def ask(self, request: str = "run") -> dict[str, Any]:
        """Its answer. Raises RuntimeError where it has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"{shlex.join(map(str, self._process.args))} has ended: see its messages above")

    def close(self) -> None:
        self._process.communicate()


def serve(answer: Callable[[str], Mapping[str, Any]]) -> None:
    """The other end: answers until its standard input ends."""
    for line in sys.stdin:
        print(json.dumps(dict(answer(line.strip()))), flush=True)


def take_turns(workers: Mapping[str, Worker], rounds: int, request: str = "run") -> dict[str, dict[str, Any]]:
    """The last answer of each, with `seconds` the median over `rounds`; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    last: dict[str, dict[str, Any]] = {}
    for number in range(rounds + 1):
        for name, worker in workers.items():
            last[name] = worker.ask(request)
            if number:
                seconds[name].append(last[name]["seconds"])
            print(f"round {number}: {name} {last[name]['seconds']:.2f} s", file=sys.stderr, flush=True)
    return {name: {**last[name], "seconds": median(seconds[name]), "all": seconds[name]} for name in workers}


def stand_in_for_torchvision(python: Path, folder: Path) -> list[Path]:
    """What to put on the path of `python`, so that nnU-Net can be imported beside a CPU build of torch.

    nnU-Net imports timm, which imports torchvision. Where that cannot be imported, a package of that name is
    written to `folder`, all of whose names are functions that do nothing: neither training, inference nor
    export of nnU-Net's U-Nets calls one.
    """
    if not subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode:
        return []
    anything = "def __getattr__(name):\n    if name.startswith('__'):\n        raise AttributeError(name)\n"
    anything += "    return lambda *args, **kwargs: None\n"
    for name in (".", "ops", "ops/misc", "models", "models/feature_extraction", "transforms"):
        package = folder / "torchvision" / name
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(anything)
    return [folder]


def chosen_runtime() -> list[str]:
    """Will hold what medfuse's log says of the runtime that it chooses."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if " runs the network" in record.getMessage():
                said[:] = [record.getMessage()]

    log = logging.getLogger("medfuse")
    log.setLevel(logging.INFO)
    log.addHandler(Listener())
    return said


def heading(*, rounds: int, threads: int, device: str = "cpu") -> str:
    """Where, when and how it was measured, as Markdown."""
    import torch

    where = torch.cuda.get_device_name() if device.startswith("cuda") else processor()
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return (
        f"- {date.today()}, {where}, {os.cpu_count()} cores ({threads} threads), load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}"
        + (f", ONEDNN_MAX_CPU_ISA={isa}" if isa else "")
        + f"\n- command: `python {shlex.join(sys.argv)}`, medians of {rounds} rounds in turns"
    )


def peak_rss() -> int:
    """Bytes that this process has held in memory at most, since the last `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Let the kernel count the peak anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
