"""Workers on this machine: processes, each with its share of the cores or one of the graphics cards."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from medfuse.api import Command, Crew, Engine
from medfuse.core.crew import cores, may_have_cards

_WAIT_S = 10.0  # for a worker to end by itself once it is asked to


class Local(Engine):
    """Processes of this machine, which end with the one that started them.

    Each has its part of the cores, and one of the graphics cards in turn where there are any.
    `medfuse infer runs/liver -i scans -o labels --workers 2` needs no other word.

        {use: local}
    """

    def start(self, command: Command, workers: int) -> Crew:
        crew = LocalCrew(command, max(1, cores() // workers), _cards(command.device))
        for _ in range(workers):
            crew.add()
        return crew


@dataclass(frozen=True)
class _Member:
    name: str
    process: subprocess.Popen[bytes]
    said: IO[bytes]


class LocalCrew:
    """Processes of one command, each with so many threads, and with one of `cards` in turn."""

    def __init__(self, command: Command, threads: int, cards: Sequence[str]) -> None:
        self._command, self._threads, self._cards = command, threads, cards
        self._started = 0
        self._members: list[_Member] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self) -> None:
        name = f"local-{secrets.token_hex(6)}"
        told = self._command.variables(name, cores=self._threads, ends_with_this=True)
        if self._cards:
            told["CUDA_VISIBLE_DEVICES"] = self._cards[self._started % len(self._cards)]
        self._started += 1
        said = tempfile.TemporaryFile(prefix="medfuse-worker-")  # noqa: SIM115  # closed with its process
        process = subprocess.Popen(
            self._command.words,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        self._members.append(_Member(name, process, said))

    def ended(self) -> Sequence[tuple[str, str]]:
        found = []
        for member in [one for one in self._members if one.process.poll() is not None]:
            self._members.remove(member)
            member.said.seek(0)
            with member.said as said:
                text = said.read().decode(errors="replace")
            if reason := self._command.ended(member.process.returncode, text):
                found.append((member.name, reason))
        return found

    def end(self) -> None:
        for member in self._members:
            with suppress(OSError):
                member.process.terminate()
        for member in self._members:
            try:
                member.process.wait(_WAIT_S)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            member.said.close()
        self._members.clear()


def _cards(device: str) -> tuple[str, ...]:
    """The graphics cards among which workers are spread, as CUDA_VISIBLE_DEVICES names them."""
    if device not in ("auto", "cuda") or not may_have_cards():
        return ()
    import torch

    if not torch.cuda.is_available():
        return ()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))
