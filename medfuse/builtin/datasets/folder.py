"""Images and labels in folders, paired by name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from medfuse.api import Case, Dataset, DatasetInfo
from medfuse.core.errors import DataError
from medfuse.core.json_text import shortened
from medfuse.data.listing import Classes, check_cases, notes_on, parse_labels, splits_beside, with_dicom
from medfuse.volumes.dicom.index import as_volume_file
from medfuse.volumes.endings import ENDINGS, ending, stem
from medfuse.volumes.label_maps import as_label_path, is_label_object

_SERIES = r"|(?:\.(?:seg|rtstruct))?\.dcm|\.dicom|\.zip|"  # of what may hold a DICOM series or labels


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[
    tuple[str, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | tuple[str, ...])
]


class Folder(Dataset):
    """Images and labels in folders, paired by name.

    `images` and `labels` are sub-folders, or patterns in which `{case}` stands for the case's name and `*`
    for anything. Several patterns are several channels; one pattern with several channels means 4-D files.
    An image may be a folder or a zip file of one DICOM series, and a label a DICOM-SEG or an RTSTRUCT, both
    in one folder too (`"{case}"`).
    An image without a label is a case for pseudo-labels.

        data: {use: folder, root: scans, classes: {liver: 1}, channels: [CT]}
        data:
          use: folder
          root: ms_lesions
          images: ["{case}/flair.nii.gz", "{case}/t1.nii.gz"]
          labels: "{case}/lesions.nii.gz"
          classes: {lesion: 1}
        data: {use: folder, root: patients, images: "{case}", labels: "{case}", classes: {liver: 1}}  # DICOM
    """

    images: Patterns = Field(("images",), min_length=1, description="sub-folder or pattern, one per channel")
    labels: str = Field("labels", description="sub-folder or pattern of the label maps")
    classes: Classes
    regions_class_order: tuple[int, ...] = Field(
        (),
        description="where classes are regions, or segments of DICOM labels overlap: the value to write for "
        "each, later ones over earlier ones",
    )
    channels: tuple[str, ...] = Field((), description="channel names; CT is normalised as CT")

    @model_validator(mode="after")
    def _names_fit(self) -> "Folder":
        for pattern in (*self.images, self.labels):
            odd = "**" in pattern or not pattern.strip() or len(pattern) > 500 or not pattern.isprintable()
            if odd or Path(pattern).is_absolute():
                raise ValueError(
                    f"{shortened(repr(pattern))} is no pattern below data.root; write a sub-folder, or one "
                    "such as '{case}/ct.nii.gz', in which `*` stands for anything but `/`"
                )
        if self.channels and len(self.images) not in (1, len(self.channels)):
            raise ValueError(
                f"{len(self.images)} images patterns and {len(self.channels)} channels; give as many of each"
            )
        return self

    def read(self) -> DatasetInfo:
        faults: list[str] = []
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set `data.root` to the dataset's folder")
        given = parse_labels(self.classes, "data.classes", faults, self.regions_class_order)
        images = [self._find(pattern, faults) for pattern in self.images]
        labels = self._find(self.labels, faults, read=as_label_path)
        names = sorted({name for found in images for name in found})
        for pattern, found in zip(self.images, images):
            faults.extend(f"{self.root}: case {n} has no {pattern}; add it" for n in names if n not in found)
        for name in sorted(labels.keys() - set(names)):
            faults.append(f"{labels[name]}: case {name} has no image like {self.images[0]!r}; add it")
        whole = [n for n in names if all(n in found for found in images)]
        cases = tuple(Case(n, tuple(found[n] for found in images), labels.get(n)) for n in whole)
        cases, told = with_dicom(cases, given, self.regions_class_order, faults)
        check_cases(cases, faults)
        splits = splits_beside(self.root, faults)
        if faults:
            raise DataError(*faults)
        return DatasetInfo(
            cases,
            given.labels,
            self._channel_names(),
            splits,
            region_order=given.region_order,
            ignore=given.ignore,
            label_table=given.table,
            notes=(*told, *notes_on(self.root, cases, folders=self._folders())),
        )

    def _folders(self) -> list[Path]:
        """Those that patterns name before their first `*` or `{case}`, which may be the root itself."""
        fixed = (re.split(r"[^/]*[{*?]", _pattern(pattern))[0] for pattern in (*self.images, self.labels))
        return [self.root / start for start in dict.fromkeys(fixed)]

    def _channel_names(self) -> tuple[str, ...]:
        return self.channels or tuple(f"channel_{i}" for i in range(len(self.images)))

    def _find(
        self, pattern: str, faults: list[str], read: Callable[[Path], Path] = as_volume_file
    ) -> dict[str, Path]:
        """Case → what `read` makes of a file or a folder.

        Adds a line where nothing matches, or two files are one case.
        """
        pattern = _pattern(pattern)
        matches = _regex(pattern)
        found: dict[str, Path] = {}
        try:
            candidates = sorted(self.root.glob(_glob(pattern)))
        except (OSError, ValueError) as error:  # a name too long, a folder that may not be listed
            candidates = []
            faults.append(
                f"{self.root}: {shortened(repr(pattern))} cannot be looked for: {shortened(str(error))}"
            )
        for path in candidates:
            match = matches.fullmatch(path.relative_to(self.root).as_posix())
            if match is None or path.name.startswith("."):
                continue
            name = match["case"] if "{case}" in pattern else stem(path)
            try:
                found_as = read(path)
            except DataError as error:
                faults.extend(error.lines)
                continue
            if found_as == path and (ending(path) is None or path.is_dir()) and not is_label_object(path):
                continue
            path = found_as
            if name in found:
                faults.append(
                    f"{path}: two cases are named {name}, the other is {found[name]}; rename or remove one"
                )
            found.setdefault(name, path)
        if not found:
            faults.append(
                f"{self.root}: no file matches {pattern!r} ending in {', '.join(ENDINGS)}, and no folder or "
                "file of DICOM does; mend the pattern"
            )
        return found


def _pattern(given: str) -> str:
    """A sub-folder as the pattern that it stands for."""
    if any(c in given for c in "{*?"):
        return given.removeprefix("./")
    folder = given.rstrip("/").removeprefix("./")
    return f"{folder}/{{case}}.*" if folder not in ("", ".") else "{case}.*"


def _glob(pattern: str) -> str:
    """What `Path.glob` finds candidates by: capitals in an ending are the disk's, not the pattern's."""
    stemmed = pattern[: -len(ending(Path(pattern)) or "")] + ".*" if ending(Path(pattern)) else pattern
    if pattern.endswith(".*"):
        stemmed = f"{pattern.removesuffix('.*')}*"  # a folder of DICOM files has no ending
    return stemmed.replace("{case}", "*").replace("**", "*").replace("[", "[[]")


def _regex(pattern: str) -> re.Pattern[str]:
    """`a/{case}_*.*` as a regular expression; a final `.*` stands for any ending that can be read."""
    own = ending(Path(pattern))
    endings = "|".join(re.escape(e) for e in ((own,) if own else ENDINGS))
    stemmed = pattern[: -len(own)] if own else pattern.removesuffix(".*")
    text, named = "", False
    for part in re.split(r"(\{case\}|\*|\?)", stemmed):
        if part == "{case}":
            text += "(?P=case)" if named else "(?P<case>[^/]+?)"
            named = True
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(text + (f"(?i:{endings}{'' if own else _SERIES})" if stemmed != pattern else ""))
