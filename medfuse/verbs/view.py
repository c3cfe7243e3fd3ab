"""`medfuse view`: scans with their labels as one page for a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medfuse.core.errors import DataError, MedfuseError, did_you_mean
from medfuse.core.labels import LabelValue
from medfuse.core.memory import bytes_text
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.infer.manifest import NAME as MANIFEST
from medfuse.runs.scenes import (
    Scenes,
    is_run,
    refuse_missing,
    scenes_of_files,
    scenes_of_folders,
    scenes_of_output,
    scenes_of_run,
)
from medfuse.verbs.evaluate import label_of
from medfuse.viewer.fit import fit
from medfuse.viewer.page import bytes_of_the_viewer, refuse_others, write_page
from medfuse.viewer.scene import Scene
from medfuse.volumes.dicom.files import holds_dicom
from medfuse.volumes.endings import stem
from medfuse.volumes.folders import look_into, named

PAGE = "view.html"


def view(
    image: Path,
    label_maps: Sequence[Path] = (),
    names: Sequence[str] = (),
    *,
    cases: Sequence[str] = (),
    channel: int = 0,
    output: Path | None = None,
    most_bytes: int,
    overwrite: bool = False,
    reporter: Reporter,
) -> Result:
    """Write a page of `image`, which may be a run, a folder that `infer` wrote or a folder of scans too.

    `names`: labels as NAME=VALUE. `cases`: which to show, where there are several. Raises MedfuseError.
    """
    labels = dict(map(label_of, names)) or None
    refuse_missing([image, *label_maps])
    target, title = _target_and_title(image, label_maps)
    target = output or target
    refuse_others(target, overwrite=overwrite)
    room = most_bytes - bytes_of_the_viewer()
    if room <= 0:
        raise MedfuseError(
            f"--max-size {bytes_text(most_bytes)}: the viewer alone takes "
            f"{bytes_text(bytes_of_the_viewer())}; give more"
        )
    scenes = _scenes(image, label_maps, labels, channel)
    for note in scenes.notes:
        reporter.say(note)
    fitted = fit(_chosen(scenes.cases, cases), room, reporter)
    write_page(target, title, fitted.cases)
    lines = [*fitted.faults]
    if fitted.left:
        lines.append(
            f"{named(fitted.left, 'case')} not in the page, as it would be larger than "
            f"{bytes_text(most_bytes)}; choose with --case, or give more --max-size"
        )
    many = f"{len(fitted.cases)} case{'s' * (len(fitted.cases) != 1)}"
    size = target.stat().st_size
    text = "\n".join([*lines, f"{many}, {bytes_text(size)}: {target}"])
    shown = [packed.name for packed in fitted.cases]
    return Result(text, {"page": target, "bytes": size, "cases": shown, "left": fitted.left, "notes": lines})


def _target_and_title(image: Path, label_maps: Sequence[Path]) -> tuple[Path, str]:
    """Where the page goes if nobody says it, and what it is called."""
    name = image.resolve().name if image.is_dir() else stem(image)
    ours = image.is_dir() and (is_run(image) or (image / MANIFEST).is_file())
    if ours and not label_maps:
        return image / PAGE, name
    if len(label_maps) and label_maps[-1].is_dir() and not holds_dicom_alone(label_maps[-1]):
        return label_maps[-1] / PAGE, label_maps[-1].resolve().name
    return Path(f"{name}.{PAGE}"), name


def _scenes(
    image: Path, label_maps: Sequence[Path], names: Mapping[str, LabelValue] | None, channel: int
) -> Scenes:
    if not image.is_dir():
        return scenes_of_files(image, label_maps, names, channel)
    if not label_maps:
        if is_run(image):
            return scenes_of_run(image, channel)
        if (image / MANIFEST).is_file():
            return scenes_of_output(image, names, channel)
    elif all(path.is_dir() for path in label_maps) and not holds_dicom_alone(image):
        return scenes_of_folders(image, label_maps, names, channel)
    if holds_dicom_alone(image):
        return scenes_of_files(image, label_maps, names, channel)
    raise DataError(
        f"{image}: is no run, no folder that `medfuse infer` wrote and no DICOM series; give a scan and its "
        "label map, or a folder of scans and one of label maps"
    )


def holds_dicom_alone(folder: Path) -> bool:
    """Whether a folder is a DICOM series or an object: no other volumes stand in it."""
    return not look_into(folder).volumes and holds_dicom(folder)


def _chosen(scenes: Sequence[Scene], cases: Sequence[str]) -> list[Scene]:
    """Those of these names, in this order; all where none is named. Raises DataError."""
    known = {scene.name: scene for scene in scenes}
    if unknown := [name for name in cases if name not in known]:
        raise DataError(
            *(f"--case {name}: there is no such case{did_you_mean(name, known)}" for name in unknown)
        )
    return [known[name] for name in dict.fromkeys(cases)] if cases else list(scenes)
