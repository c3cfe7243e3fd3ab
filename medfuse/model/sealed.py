"""Exported files that know their own content: damage is found before an engine reads them."""

from __future__ import annotations

import hashlib
import re

KEY = "medfuse_content"
"""Beside the facts in a file's metadata."""
NOTHING_YET = f"{KEY}:{'0' * 64}"

_SEALED = re.compile(rf"{KEY}:[0-9a-f]{{64}}".encode())


def with_hash(content: bytes, *others: bytes) -> bytes:
    """`content`, in which NOTHING_YET stands once, with the hash of itself and `others` in its place."""
    assert content.count(NOTHING_YET.encode()) == 1, "the place for the hash stands once"
    return content.replace(NOTHING_YET.encode(), f"{KEY}:{_hash(content, *others)}".encode())


def is_damaged(content: bytes, *others: bytes) -> bool:
    """Whether a file is another than the one that was hashed. One without a hash tells nothing."""
    found = _SEALED.findall(content)
    if not found:
        return False
    blank = _SEALED.sub(NOTHING_YET.encode(), content)
    return len(found) > 1 or found[0] != f"{KEY}:{_hash(blank, *others)}".encode()


def _hash(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in contents)).hexdigest()
