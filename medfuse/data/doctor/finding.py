"""What the doctor finds: a case, its file, what is wrong, how sure that is, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Sure = Literal["certain", "likely", "possible"]


@dataclass(frozen=True)
class Finding:
    """`kind` is a word for programs; `what` and `remedy` are for people. Without `case`, it is about all."""

    kind: str
    case: str
    file: str
    what: str
    sure: Sure
    remedy: str

    @property
    def line(self) -> str:
        where = f"{self.case}: {self.file}" if self.case else self.file
        return f"{where}: {self.kind} ({self.sure}): {self.what}; {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of_image(kind: str, case: str, file: Path | str, what: str, sure: Sure, remedy: str) -> Finding:
    return Finding(kind, case, str(file), what, sure, remedy)
