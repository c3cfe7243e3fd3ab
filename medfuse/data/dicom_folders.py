"""A dataset of DICOM, as it is exported: a folder per case, with slices and what is labelled on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.files import holds_dicom
from medfuse.volumes.endings import ending, stem
from medfuse.volumes.folders import look_into
from medfuse.volumes.label_maps import is_label_object

LABEL_NAME = re.compile(r"label|mask|seg|lesion|truth|(^|[_.-])gt([_.-]|$)", re.IGNORECASE)


def dicom_per_case(data: Path) -> dict[str, Any] | None:
    """A folder per case, whose DICOM files, in it or anywhere inside, are the image; a SEG or an RTSTRUCT
    among them is the label, or one volume is that lies beside them.
    """
    cases = [folder for folder in look_into(data).folders if holds_dicom(folder)]
    labelled = [folder for folder in cases if _holds_label(folder)]
    few = max(min(2, len(cases)), len(cases) // 2)
    whole = {"images": ["{case}"], "reason": "a folder per case, of DICOM"}
    if labelled and len(labelled) >= few:
        return {**whole, "labels": "{case}", "reason": f"{whole['reason']}, with a SEG or an RTSTRUCT in it"}
    volumes = {folder: look_into(folder).volumes for folder in cases}
    named = {f: [path for path in own if LABEL_NAME.search(stem(path))] for f, own in volumes.items()}
    own = {f: (named[f] or paths)[0] for f, paths in volumes.items() if len(named[f] or paths) == 1}
    spelled = {path.name.replace(folder.name, "{case}") for folder, path in own.items()}
    endings = {ending(path) for path in own.values()}
    single = all(len(volumes[folder]) == 1 for folder in own)
    if not own or len(own) < few or len(endings) > 1 or (len(spelled) > 1 and not single):
        return None
    label = f"{{case}}/{spelled.pop() if len(spelled) == 1 else f'*{endings.pop()}'}"
    beside = label.removeprefix("{case}/")
    return {**whole, "labels": label, "reason": f"{whole['reason']}, with a label map {beside} beside it"}


def _holds_label(folder: Path) -> bool:
    """Whether a SEG or an RTSTRUCT is in a folder; what is wrong with it is told when it is read."""
    try:
        return is_label_object(folder)
    except DataError:
        return False
