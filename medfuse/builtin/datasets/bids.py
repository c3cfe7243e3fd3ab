"""BIDS: images of subjects and sessions, with masks among the derivatives."""

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from medfuse.api import Case, Dataset, DatasetInfo
from medfuse.core.errors import DataError
from medfuse.core.json_text import read_json, shortened
from medfuse.data.bids import BidsFile, Name, belongs, bids_files, likeness, read_tsv
from medfuse.data.listing import (
    Classes,
    ClassSettings,
    check_cases,
    is_whole,
    notes_on,
    parse_labels,
    splits_from_folds,
)
from medfuse.volumes.endings import stem
from medfuse.volumes.folders import named


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[
    tuple[str, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | tuple[str, ...])
]
Scan = tuple[str, str]


class Bids(Dataset):
    """The Brain Imaging Data Structure: images below sub-*/, masks in derivatives/.

    `images` and `labels` say how names end: a suffix (T1w, FLAIR, ct, dseg), with entities before it where
    files differ in them (acq-hr_T1w, space-MNI152_desc-preproc_T1w, label-lesion_mask, seg-manual). Several
    images are several channels. Names and colours of labels are those of `*_dseg.tsv`, that of a mask its
    `label-`, unless `classes` says them. Sessions of one participant never both train and judge; a column
    `fold` of participants.tsv gives folds. An image without a label is a case for pseudo-labels.

        data: {use: bids, root: my_study}
        data: {use: bids, root: ms_study, images: [FLAIR, T1w], labels: label-lesion_mask}
    """

    images: Patterns = Field(("T1w",), min_length=1, description="how names of images end, one per channel")
    labels: str = Field("dseg", description="how names of label maps end")
    derivatives: str = Field(
        "", description="of several folders in `derivatives`, the one whose label maps are meant"
    )
    classes: Classes | None = Field(
        None,
        description="names and values of labels, as in other layouts; those of the tables if not given",
    )
    regions_class_order: tuple[int, ...] = Field(
        (), description="where classes are regions: the value to write for each, later ones over earlier ones"
    )
    channels: tuple[str, ...] = Field((), description="channel names; those of `images` if not given")

    @field_validator("images", "labels")
    @classmethod
    def _are_ends(cls, given: Any) -> Any:
        for text in (given,) if isinstance(given, str) else given:
            if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9+]+)?(_[A-Za-z0-9]+(-[A-Za-z0-9+]+)?)*", text):
                raise ValueError(
                    f"{shortened(repr(text))} is no end of a name in BIDS; write one such as T1w, "
                    "acq-hr_T1w or label-lesion_mask, without an ending"
                )
        return given

    @model_validator(mode="after")
    def _channels_fit(self) -> "Bids":
        if len({*self.images}) < len(self.images):
            raise ValueError("images name one pattern twice; name each channel once")
        if self.channels and len(self.images) not in (1, len(self.channels)):
            raise ValueError(
                f"{len(self.images)} images and {len(self.channels)} channels; give as many of each"
            )
        return self

    def read(self) -> DatasetInfo:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set `data.root` to the dataset's folder")
        volumes, tables, texts = bids_files(self.root)
        faults: list[str] = []
        patterns = [Name.of(text) for text in self.images]
        images = [self._images(number, patterns, volumes, faults) for number in range(len(patterns))]
        labels = self._labels(volumes, {file.path for found in images for file in found})
        cases, label_of = self._cases(images, patterns, labels, faults)
        classes = self.classes or self._named([*label_of.values()], tables, faults)
        given = parse_labels(classes, "data.classes", faults, self.regions_class_order)
        check_cases(cases, faults)
        folds, notes = self._participants(cases, faults)
        if faults:
            raise DataError(*faults)
        return DatasetInfo(
            cases,
            given.labels,
            self.channels or tuple(map(_channel, self.images, images)),
            splits_from_folds(folds),
            region_order=given.region_order,
            ignore=given.ignore,
            label_table=given.table,
            notes=(*notes, *notes_on(self.root, cases, known=texts)),
        )

    def _images(
        self, number: int, patterns: Sequence[Name], volumes: Sequence[BidsFile], faults: list[str]
    ) -> list[BidsFile]:
        """Those of one channel that no other pattern means more closely; raw ones where there are any."""
        pattern = patterns[number]
        closer = [p for p in patterns if p is not pattern and p.words == pattern.words and pattern.within(p)]
        found = [
            file
            for file in volumes
            if file.name.words == pattern.words
            and pattern.within(file.name)
            and not any(other.within(file.name) for other in closer)
        ]
        raw = [file for file in found if not file.derived]
        if not found:
            ends = Counter("_".join(file.name.words) for file in volumes if not file.is_label)
            there = f"; names there end in {', '.join(sorted(ends)[:8])}" if ends else ""
            faults.append(f"{self.root}: no volume sub-…_{pattern} below it; mend `data.images`{there}")
        return raw or found

    def _labels(self, volumes: Sequence[BidsFile], images: set[Path]) -> dict[Scan, list[BidsFile]]:
        pattern, found = Name.of(self.labels), dict[Scan, list[BidsFile]]()
        for file in volumes:
            folder = file.path.relative_to(self.root).parts[:-1]
            wanted = not self.derivatives or ("derivatives", self.derivatives) in pairwise(folder)
            if wanted and file.path not in images and pattern.within(file.name):
                found.setdefault(file.scan, []).append(file)
        return found

    def _cases(
        self,
        images: Sequence[Sequence[BidsFile]],
        patterns: Sequence[Name],
        labels: Mapping[Scan, Sequence[BidsFile]],
        faults: list[str],
    ) -> tuple[tuple[Case, ...], dict[str, BidsFile]]:
        """A case for each image of the first pattern, and the label maps that were found, by its name."""
        cases, label_of = [], dict[str, BidsFile]()
        of_scan: dict[Scan, list[BidsFile]] = {}
        for file in images[0]:
            of_scan.setdefault(file.scan, []).append(file)
        for scan, firsts in of_scan.items():
            for first in firsts:
                name, files = _case_name(first, firsts), [first.path]
                for pattern, others in zip(patterns[1:], images[1:]):
                    here = [file for file in others if file.scan == scan]
                    if (other := _alike(first, here, f"image {pattern}", self.root, faults)) is not None:
                        files.append(other.path)
                    elif others and not here:
                        faults.append(f"{self.root}: case {name} has no image sub-…_{pattern}; add it")
                meant = Name.of(self.labels)
                fit = [label for label in labels.get(scan, ()) if belongs(label.name, first.name, meant)]
                if (label := _alike(first, fit, "label map", self.root, faults)) is not None:
                    label_of[name] = label
                path = label.path if label else None
                cases.append(Case(name, tuple(files), path, first.name.entities.get("sub")))
        self._check_labels(labels, label_of, of_scan, faults)
        return tuple(sorted(cases, key=lambda case: case.name)), label_of

    def _check_labels(
        self,
        labels: Mapping[Scan, Sequence[BidsFile]],
        label_of: Mapping[str, BidsFile],
        imaged: Container[Scan],
        faults: list[str],
    ) -> None:
        """Add a line for each label map of no image, and of several, and where there is none at all."""
        used = Counter(label.path for label in label_of.values())
        for label in (label for found in labels.values() for label in found):
            if used[label.path] > 1:
                whose = ", ".join(name for name, own in label_of.items() if own == label)
                faults.append(
                    f"{label.path}: may be of {whose}; say which images are meant, as in "
                    f"`images: acq-…_{self.images[0]}`, or name the file after its image"
                )
            elif label.scan not in imaged:
                faults.append(
                    f"{label.path}: has no image sub-…_{self.images[0]}; add it, or remove the label map"
                )
        if labels and not label_of and not faults:
            some = next(iter(labels.values()))[0]
            faults.append(
                f"{some.path}: is of no image that `data.images` means ({', '.join(self.images)}), and so "
                "are all label maps: another space-, acq- or run-; write the images that they are of"
            )
        if not labels:
            faults.append(
                f"{self.root}: no label map sub-…_{self.labels} below it or its `derivatives`; mend "
                "`data.labels`, such as dseg, label-lesion_mask or seg-manual"
            )

    def _named(
        self, labels: Sequence[BidsFile], tables: Sequence[BidsFile], faults: list[str]
    ) -> dict[str, ClassSettings]:
        """Names of labels by the tables that hold for label maps, or by what masks are called."""
        found: dict[str, ClassSettings] = {}
        whose: dict[str, str] = {}
        fit = [table for table in tables if any(_holds_for(table, label) for label in labels)]
        for table in fit:
            for where, name, says in _rows(table.path, faults):
                if name in found and found[name].value != says.value:
                    faults.append(
                        f"{where}: {name} is {says.value}, and {found[name].value} in {whose[name]}"
                    )
                found.setdefault(name, says)
                whose.setdefault(name, where)
        if found or faults:
            return found or {"label": ClassSettings(value=1)}
        masks = {label.name.entities.get("label", "mask") for label in labels if "mask" in label.name.words}
        if len(masks) == 1 and all("mask" in label.name.words for label in labels):
            return {masks.pop(): ClassSettings(value=1)}
        faults.append(
            f"{self.root}: no table …_dseg.tsv names the labels; write `classes: {{liver: 1}}` in `data`, or "
            "add the table with columns index and name"
        )
        return {"label": ClassSettings(value=1)}

    def _participants(self, cases: Sequence[Case], faults: list[str]) -> tuple[dict[str, int], list[str]]:
        """Folds of labelled cases by the column `fold`, and who is listed without a case."""
        path = self.root / "participants.tsv"
        if not path.is_file():
            return {}, []
        columns, rows = read_tsv(path)
        if "participant_id" not in columns:
            faults.append(f"{path}:1: has no column participant_id; add it, as BIDS has it")
            return {}, []
        fold_of = {}
        for line, row in rows:
            who = row.get("participant_id", "").removeprefix("sub-")
            if who in fold_of:
                faults.append(f"{path}:{line}: sub-{who} is listed twice; keep one line")
            fold = row.get("fold", "n/a")
            if "fold" in columns and not (is_whole(fold) or fold == "n/a"):
                faults.append(f"{path}:{line}: fold is {shortened(repr(fold))}; give a whole number from 0")
            fold_of[who] = fold
        there = {case.patient for case in cases}
        lost = [f"sub-{who}" for who in fold_of if who not in there]
        notes = [f"{path}: {named(lost, 'participant')} listed without a case"] if lost else []
        labelled = {case.name: fold_of.get(case.patient or "", "n/a") for case in cases if case.label}
        folds = {name: int(fold) for name, fold in labelled.items() if is_whole(fold)}
        if folds and len(folds) < len(labelled):
            bare = sorted(labelled.keys() - folds.keys())
            faults.append(
                f"{path}: {named(bare, 'labelled case')} without a `fold`; give each participant one"
            )
        return folds, notes


def _channel(pattern: str, files: Sequence[BidsFile]) -> str:
    """CT where the suffix or the sidecar says so, else the pattern."""
    beside = files[0].path.with_name(f"{stem(files[0].path)}.json")
    says = read_json(beside) if beside.is_file() else {}
    is_ct = Name.of(pattern).words[-1:] in (("ct",), ("CT",))
    return "CT" if is_ct or (isinstance(says, dict) and says.get("Modality") == "CT") else pattern


def _case_name(file: BidsFile, siblings: Sequence[BidsFile]) -> str:
    """`sub-01_ses-02_run-1`: subject, session, and the entities in which images of one scan differ."""
    entities = file.name.entities
    apart = [k for k, v in entities.items() if any(s.name.entities.get(k) != v for s in siblings)]
    return str(Name({k: entities[k] for k in ("sub", "ses", *apart) if k in entities}, ()))


def _alike(
    image: BidsFile, found: Sequence[BidsFile], what: str, root: Path, faults: list[str]
) -> BidsFile | None:
    """The one of `found` that is named most like `image`, or is made of it; adds a line where two are."""
    if len(found) < 2:
        return found[0] if found else None
    likes = [(_is_made_of(file, image), *likeness(file.name, image.name)) for file in found]
    best = [file for file, like in zip(found, likes) if like == max(likes)]
    if len(best) == 1:
        return best[0]
    names = named([file.path.relative_to(root).as_posix() for file in best], "file")
    say = "`labels` or `derivatives`" if what == "label map" else "`images`"
    faults.append(
        f"{image.path}: its {what} may be any of {names}; say in {say} which is meant, such as "
        f"{best[0].name.without('sub', 'ses')}"
    )
    return None


def _is_made_of(file: BidsFile, image: BidsFile) -> bool:
    """Whether the sidecar of a derivative names the image among its sources."""
    beside = file.path.with_name(f"{stem(file.path)}.json")
    says = read_json(beside) if beside.is_file() else {}
    sources = [says.get(key) for key in ("Sources", "RawSources")] if isinstance(says, dict) else []
    names = [name for source in sources for name in (source if isinstance(source, list) else [source])]
    return any(isinstance(name, str) and name.endswith(image.path.name) for name in names)


def _holds_for(table: BidsFile, label: BidsFile) -> bool:
    """By BIDS' principle of inheritance: a table beside a file, or above it, of no more entities."""
    return table.path.parent in label.path.parents and table.name.within(label.name)


def _rows(path: Path, faults: list[str]) -> list[tuple[str, str, ClassSettings]]:
    """Where, name, and what else of each label in a table. Adds a line per fault."""
    columns, rows = read_tsv(path)
    if not {"index", "name"} <= {*columns}:
        faults.append(f"{path}:1: needs the columns index and name, as BIDS has them; add them")
        return []
    found = []
    for line, row in rows:
        index, name, color = (row.get(column, "") for column in ("index", "name", "color"))
        if not is_whole(index) or not name:
            faults.append(f"{path}:{line}: needs a whole number from 0 as index, and a name; mend the line")
        elif int(index):
            fit = re.fullmatch(r"#[0-9a-fA-F]{6}", color) is not None
            found.append(
                (f"{path}:{line}", name, ClassSettings(value=int(index), color=color if fit else ""))
            )
    return found
