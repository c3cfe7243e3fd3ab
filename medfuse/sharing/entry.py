"""The command that a container runs: `medfuse infer` on the weights beside it, in plain sh."""

from __future__ import annotations

from pathlib import Path

ENTRY = """#!/bin/sh
# segment.sh INPUT OUTPUT [options of medfuse infer]: a label map for each scan in INPUT.
# MEDFUSE says which command that is, where it is not on the path.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
input=$1 output=$2
shift 2
exec "${MEDFUSE:-medfuse}" infer "$here/%s" --input "$input" --output "$output" "$@"
"""


def write_entry(path: Path, weights: str) -> None:
    """weights: where they lie, seen from the script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ENTRY % weights, encoding="utf-8")
    path.chmod(0o755)
