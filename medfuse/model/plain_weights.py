"""A file of weights as bytes, without torch: what it says of its model, and whether it is whole.

A safetensors file is the length of its header, the header in JSON (names, types, shapes, places, and
metadata, in which medfuse's facts stand), and the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import parse_json

FACTS = "medfuse"  # the one metadata key: of several, safetensors would write now one first, now another
HASH = "sha256"  # the last of the facts
MOST_HEADER = 16 * 2**20  # bytes of a safetensors file: names, shapes and facts of a hundred thousand tensors

_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
"""Torch's names of types, by those of the file."""


def facts_of(path: Path) -> dict[str, Any] | None:
    """What `load_weights` gives beside the tensors of a file, checked by their hash as it checks them.

    None where that cannot be told without torch, or is better told by it. Raises CheckpointError.
    """
    refuse_odd_file(path, header=True)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = 8 + int.from_bytes(content[:8], "little")
            header = json.loads(content[8:begin])
            facts = facts_in(path, header.pop("__metadata__", None) or {})
            said = facts.pop(HASH, None)
            if said is None:
                return None
            if sum(one["data_offsets"][1] - one["data_offsets"][0] for one in header.values()) > len(content):
                return None
            digest = hashlib.sha256(json.dumps(facts).encode())
            with memoryview(content) as whole:
                for name in sorted(header):
                    one = header[name]
                    first, last = one["data_offsets"]
                    digest.update(f"{name} torch.{_TYPES[one['dtype']]} {tuple(one['shape'])}".encode())
                    with whole[begin + first : begin + last] as tensor:
                        digest.update(tensor)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if said != digest.hexdigest():
        raise damaged(path)
    return facts


def facts_in(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The facts in a file's metadata, their hash among them. Raises CheckpointError."""
    if FACTS not in metadata:
        raise CheckpointError(
            f"{path}: holds tensors without what medfuse writes beside them; use weights that medfuse trained"
        )
    remedy = "use weights that medfuse trained, or copy them again"
    where = f"{path}: what it says of its model"
    facts = parse_json(metadata[FACTS], where, raises=CheckpointError, remedy=remedy)
    if not isinstance(facts, dict):
        raise CheckpointError(f"{where} is no mapping; {remedy}")
    return facts


def damaged(path: Path) -> CheckpointError:
    """What is raised where the hash is another."""
    return CheckpointError(
        f"{path}: is damaged (its hash is not that of its content); copy it again, or run its pipeline "
        "again, which writes it anew"
    )


def refuse_odd_file(path: Path, *, header: bool) -> None:
    """Before a file of weights is opened: pipes, folders, and a `header`, where it has one, that cannot be.

    Raises CheckpointError.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise CheckpointError(f"{path}: is no plain file; give a file of weights")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; give a file of weights, or make it first, such as "
            "runs/liver/weights_last.safetensors"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as weights ({error}); copy it again") from None
    if header and not 2 <= length <= min(MOST_HEADER, about.st_size - 8):
        raise CheckpointError(
            f"{path}: cannot be read as weights (its header is said to have {length:,} bytes); it is "
            "truncated or no safetensors file: copy it again, or train again"
        )
