"""Workers of tests: they work in this very process, as soon as whoever leads asks after them."""

from collections.abc import Sequence
from pathlib import Path

from medfuse.core.reporter import Reporter
from medfuse.verbs.crews import Workers
from medfuse.verbs.work import work_on


class Here(Workers):
    """What `--workers 2` makes, without its processes."""

    def starter(self, arguments, folder, device="auto"):
        return lambda workers: HereCrew(Path(folder).parent)


class HereCrew:
    """One worker, which has done all by the time that it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return 0

    def ended(self) -> Sequence[tuple[str, str]]:
        work_on(self._folder, reporter=Reporter(quiet=True))
        return []

    def add(self) -> None:
        pass

    def end(self) -> None:
        pass


HERE = Here(count=2)
