"""Where a DICOM file is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A file, or a member of a zip file."""

    file: str
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.file}/{self.member}" if self.member else self.file
