"""What DICOM files that medfuse writes say of where they come from, and the UIDs that they have."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime

MAKER = "medfuse"


@dataclass(frozen=True)
class About:
    """description: of the series, the name of the run. version: medfuse's. weights: SHA-256 of each file."""

    description: str = MAKER
    version: str = ""
    weights: tuple[str, ...] = ()

    @property
    def software(self) -> tuple[str, ...]:
        """SoftwareVersions: medfuse's, and the begin of each hash of weights, as its values are short."""
        weights = (plain(f"weights {digest[:32]}") for digest in self.weights)
        return (plain(f"{MAKER} {self.version}"), *weights)


def plain(text: str, most: int = 64) -> str:
    """A text as DICOM takes it: without what parts values or cannot be seen, and not too long."""
    return re.sub(r"[\\\x00-\x1f\x7f]", " ", text)[:most].strip()


def moment() -> datetime:
    """When the content was made: now, or what SOURCE_DATE_EPOCH says, so that files can be made again."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if said.isascii() and said.isdecimal() and len(said) < 12:
        return datetime.fromtimestamp(int(said), UTC)
    return datetime.now()


def made_uid(*parts: object) -> str:
    """A UID for what is made of `parts`: the same for the same, and nobody else's (a UUID, as 2.25.N)."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:16]
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | 8 << 76  # version 8, of one's own making (RFC 9562)
    number = number & ~(0x3 << 62) | 2 << 62
    return f"2.25.{number}"
