"""Lines of a pipeline file: values below comments with their reasons."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from medfuse.data.detect import Detected

WIDE = 106  # columns of a comment


def data_lines(found: Detected, split: Mapping[str, Any], whose: str, output: Path) -> str:
    """`data` and `split` of a file `output`; `whose` folds they are."""
    folder = output.resolve().parent
    values = {
        key: os.path.relpath(Path(value).resolve(), folder) if key == "root" else value
        for key, value in found.settings.items()
    }
    said = [*comment(found.reason), f"data: {flow(values)}", ""]
    return "\n".join([*said, f"split: {flow(dict(split))}  # {whose}", ""])


def section(name: str, *entries: tuple[str, Any, str]) -> str:
    return "\n".join([f"{name}:", *(line for one in entries for line in entry(2, *one))]) + "\n"


def entry(indent: int, key: str, value: Any, reason: str) -> list[str]:
    """A key, below a comment with its reason."""
    space = " " * indent
    return [*(space + line for line in comment(reason, indent)), f"{space}{key}: {flow(value)}"]


def comment(text: str, indent: int = 0) -> list[str]:
    return [f"# {line}" for line in wrap(printable(text), WIDE - indent)]


def printable(text: str) -> str:
    """Without what ends a line of YAML, or is refused there, such as names of strangers may hold."""
    return "".join(c if c.isprintable() else " " for c in text)


def flow(value: Any) -> str:
    """Plain data on one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
        .removesuffix("\n...\n")
        .strip()
    )
