"""What tests of fleets share: rehearsing workers, and commands of `infer` that are compared."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from medfuse import Command
from medfuse.core.files import file_hash


def rehearsal(folder: Path) -> Command:
    """Workers that only wait for orders, in files of `folder`."""
    return Command((str(folder),), folder, "cpu", module="medfuse.testing.rehearsal")


def began(folder: Path) -> dict[str, int]:
    """How often each worker has begun."""
    return {path.stem: len(path.read_text().splitlines()) for path in folder.glob("*.began")}


def wait_for(seen: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < until, "nothing is seen of it"
        time.sleep(0.1)


def infer(run, images: Path, output: Path, *more: object) -> list[str]:
    command = [sys.executable, "-m", "medfuse", "infer", run.folder, "-i", images, "-o", output, "-q", *more]
    return [str(word) for word in command]


def hashes(output: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in output.glob("*.nii.gz") if not path.name.startswith(".")}
