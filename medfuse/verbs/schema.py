"""`medfuse schema`: what a pipeline file may say, as a JSON Schema that editors complete and check by."""

from __future__ import annotations

import json
from pathlib import Path

from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import write_text
from medfuse.core.json_text import read_json
from medfuse.pipeline import Pipeline
from medfuse.registry import json_schema

SCHEMA = "medfuse.schema.json"
"""The file beside pipelines that their first lines name."""

LINE = f"# yaml-language-server: $schema={SCHEMA}"
"""The line of a pipeline file by which editors find it."""

_OURS = "written by `medfuse schema`, with the plugins that were installed then"


def schema_text(package: str | None = None) -> str:
    """The schema with all plugins that are installed, or with those of one package."""
    return json.dumps({"$comment": _OURS, **json_schema(Pipeline, package=package)}, indent=1) + "\n"


def write_schema(path: Path) -> str:
    """Write it to a file, or into a folder; say so. Raises OutputError, also where another file is there."""
    path = path / SCHEMA if path.is_dir() else path
    if path.exists() and not _is_ours(path):
        raise OutputError(f"{path}: is there already and no schema of medfuse; choose another file")
    write_text(path, schema_text())
    return f"{path}: begin a pipeline beside it with `# yaml-language-server: $schema={path.name}`"


def write_schema_beside(pipeline: Path) -> None:
    """Write the file that LINE names; another file of that name stays. Raises OutputError."""
    path = pipeline.parent / SCHEMA
    if not path.exists() or _is_ours(path):
        write_text(path, schema_text())


def _is_ours(path: Path) -> bool:
    try:
        read = read_json(path)
    except MedfuseError:
        return False
    return isinstance(read, dict) and read.get("$comment") == _OURS
