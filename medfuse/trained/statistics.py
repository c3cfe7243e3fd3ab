"""statistics.json and statistics.csv of an output folder: of all its label maps, as they are now."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import medfuse
from medfuse.core.errors import DataError, OutputError
from medfuse.core.files import file_hash, write_text
from medfuse.core.json_text import read_json
from medfuse.core.lock import locked
from medfuse.core.seal import Seal, refuse_others, write_own_json
from medfuse.data.plan import DataPlan
from medfuse.infer.manifest import NAME, Entry, read_manifest
from medfuse.infer.probabilities import files_beside
from medfuse.report.statistics import as_csv, measure
from medfuse.volumes.endings import ending
from medfuse.volumes.label_maps import fitted
from medfuse.volumes.read import label_reader, slab_reader

JSON, CSV = "statistics.json", "statistics.csv"
_MOST_BYTES = 2**30
_REMEDY = "remove it, and run the same command again"

log = logging.getLogger(__name__)


def refuse_other_statistics(output: Path, *, overwrite: bool) -> None:
    """Raises OutputError where they are not medfuse's, or were changed, unless `overwrite`."""
    refuse_others(output / JSON, overwrite=overwrite)
    table = output / CSV
    if not os.path.lexists(table) or (overwrite and table.is_file()):
        return
    known = _before(output).get("csv_sha256")
    if not table.is_file() or known is None or hashlib.sha256(table.read_bytes()).hexdigest() != known:
        raise OutputError(
            f"{table}: is not what medfuse wrote, or was changed since, and stays; move it away, or give "
            "--overwrite"
        )


def write_statistics(output: Path, plan: DataPlan, *, overwrite: bool = False) -> None:
    """Of every case that the folder's manifest lists: measured once, and again when its label map is another.

    What cannot be read again is told and left out.
    """
    with locked(output):
        refuse_other_statistics(output, overwrite=overwrite)
        manifest, _ = read_manifest(output / NAME)
        before = _before(output).get("cases", {})
        made: dict[str, Any] = {}
        for name, entry in sorted(manifest.cases.items()):
            files = _hashes(output, name, entry)
            known = before.get(name, {})
            if files and files == known.get("files"):
                made[name] = known
            elif files and (found := _measured(name, entry, [output / file for file in files], plan)):
                made[name] = {"files": files, "classes": found}
        table = as_csv({name: one["classes"] for name, one in made.items()}, plan.channels)
        write_text(output / CSV, table)
        write_own_json(
            output / JSON,
            {
                "medfuse": medfuse.__version__,
                "channels": list(plan.channels),
                "cases": made,
                "csv_sha256": hashlib.sha256(table.encode()).hexdigest(),
            },
        )


def _hashes(output: Path, case: str, entry: Entry) -> dict[str, str]:
    """The label maps of a case that are there, with their SHA-256 as they are now."""
    found, beside = {}, files_beside(case)
    for name, known in entry.known().items():
        path = output / name
        if name in beside or not path.is_file():
            continue
        found[name] = known.sha256 if isinstance(known, Seal) and known.holds(path) else file_hash(path)
    return found


def _measured(
    name: str, entry: Entry, files: Sequence[Path], plan: DataPlan
) -> Mapping[str, Mapping[str, Any]] | None:
    images = [Path(one["file"]) for one in entry.inputs]
    faults = [] if images else ["the manifest names no image"]
    for path in sorted(files, key=lambda file: ending(file) is None) if images else ():  # DICOM is read whole
        try:
            read = fitted({name: (path, images[0])}, plan.labels, plan.region_order)
            if name in read.faults:
                raise DataError(*read.faults[name])
            label_map = label_reader(read.files[name])
            geometry = label_map.geometry.with_spacing(plan.pixel_mm)
            return measure(label_map.read, geometry, plan.labels, plan.channels, partial(_slabs, images))
        except DataError as error:
            faults += error.lines
        except MemoryError:
            faults.append(f"{path}: measuring it takes more memory than is free")
    log.warning("%s: no statistics: %s", name, "; ".join(faults))
    return None


def _slabs(images: Sequence[Path]) -> Iterator[tuple[int, int, Any]]:
    before = 0
    for path in images:
        reader = slab_reader(path)
        for channel, first, slab in reader.read():
            yield before + channel, first, slab
        before += reader.channels


def _before(output: Path) -> dict[str, Any]:
    """What an earlier call wrote; nothing where somebody else did."""
    path = output / JSON
    try:
        refuse_others(path)
    except OutputError:
        return {}
    if not path.is_file():
        return {}
    found = read_json(path, raises=OutputError, remedy=_REMEDY, most_bytes=_MOST_BYTES)
    return found if isinstance(found, dict) else {}
