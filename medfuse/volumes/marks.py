"""How files begin that are DICOM, whatever they are called."""

from __future__ import annotations

from pathlib import Path

BEGIN = 132
"""So many bytes of a file tell."""


def looks_like_dicom(begin: bytes) -> bool:
    """Whether a file that begins so is DICOM: by its mark, or by a first tag of group 2 or 8."""
    if begin[128:132] == b"DICM":
        return True
    group, element = begin[:2], begin[2:4]
    small = group in (b"\x08\x00", b"\x02\x00") and element[1:] == b"\0"
    large = group in (b"\x00\x08", b"\x00\x02") and element[:1] == b"\0"
    if not (small or large) or len(begin) < 12:
        return False
    if begin[4:6].isalpha() and begin[4:6].isupper():  # a value representation
        return True
    length = int.from_bytes(begin[4:8], "little" if small else "big")
    return length < 256


def begins_as_dicom(path: Path) -> bool:
    """Whether a file is there, can be read, and begins as DICOM does."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return looks_like_dicom(file.read(BEGIN))
    except OSError:
        return False
