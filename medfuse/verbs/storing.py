"""Where label maps go: into a folder, and from there to the DICOMweb servers that their scans came from."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case
from medfuse.core.errors import MedfuseError
from medfuse.core.remembered import cache_folder, make_private
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.volumes.dicom.web import address_of, is_remote, stored

if TYPE_CHECKING:
    from medfuse.infer.ledger import Outcome

_OBJECTS = ("dicom_seg", "rtstruct")


@dataclass(frozen=True)
class Storing:
    """`folder`: of the label maps. `url`: the server that they are stored at; none where they stay.
    `passing`: whether the folder is only on their way."""

    folder: Path
    formats: tuple[str, ...]
    url: str | None = None
    passing: bool = False

    @classmethod
    def of(
        cls, output: str | Path, inputs: Sequence[str | Path], formats: tuple[str, ...], *, store: bool
    ) -> Storing:
        """Raises MedfuseError where nothing could be stored."""
        if not store and not is_remote(output):
            return cls(Path(output), formats)
        if formats and not set(formats) & {*_OBJECTS}:
            raise MedfuseError(f"--format {','.join(formats)}: is not stored; add dicom_seg, or leave it out")
        formats = formats or _OBJECTS[:1]
        if is_remote(output):
            url = address_of(output, search=False).url
            digest = hashlib.sha256(repr((url, sorted(map(str, inputs)))).encode()).hexdigest()[:16]
            folder = cache_folder() / "dicomweb" / f"labels-{digest}"
            make_private(folder)
            return cls(folder, formats, url, passing=True)
        servers = {address_of(place).url for place in inputs if is_remote(place)}
        if len(servers) != 1 or not all(map(is_remote, inputs)):
            raise MedfuseError(
                "--store: is for scans that come from one DICOMweb server; or name it: --output dicomweb:URL"
            )
        return cls(Path(output), formats, servers.pop())

    def finish(self, result: Result, outcome: Outcome, cases: Sequence[Case], reporter: Reporter) -> Result:
        """Store what is finished, that of earlier calls included, and say so. Raises OutputError."""
        if self.url is None:
            return result
        from medfuse.infer.formats import FORMATS

        finished = {*outcome.done, *outcome.skipped}
        endings = [FORMATS[name].ending for name in self.formats if name in _OBJECTS]
        names = [f"{case.name}{end}" for case in cases if case.name in finished for end in endings]
        count = stored(self.url, [self.folder / name for name in names], reporter)
        if self.passing and not result.code:
            shutil.rmtree(self.folder, ignore_errors=True)
        line = f"{count} stored at {self.url}"
        text = line if self.passing and not result.code else f"{result}\n{line}"
        values = {**result.values, "stored": names, "server": self.url}
        return Result(text, values, result.code)
