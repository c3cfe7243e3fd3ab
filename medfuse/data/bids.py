"""Names in BIDS: what files below a dataset's folder are called, and which of them a pattern means."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medfuse.core.json_text import read_text
from medfuse.volumes.endings import ending, stem
from medfuse.volumes.folders import listed

NOT_LOOKED_INTO = ("sourcedata", "code", "phenotype", "stimuli")
OF_A_DERIVATIVE = ("desc", "space", "label", "seg", "res", "den", "atlas", "hemi", "scale", "lesion")
"""Entities that say what was made of an image, and not which image."""
NATIVE = ("orig", "individual", "native", "scanner", "subject")
"""Values of `space-` that mean the image's own."""
_LABELS = re.compile(r"(dseg|mask|msk|seg|label|lesion|truth|roi|gt)s?", re.IGNORECASE)
_DEEPEST = 12
_LOOKED_AT = 20  # subjects, to tell whether it is BIDS
_USUAL = ("T1w", "FLAIR", "T2w")


@dataclass(frozen=True)
class Name:
    """`acq-hr_T1w`: entities, and words without a hyphen, of which the last is BIDS' suffix."""

    entities: Mapping[str, str]
    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Name:
        parts = [part for part in text.split("_") if part]
        pairs = dict(part.split("-", 1) for part in parts if "-" in part)
        return cls(pairs, tuple(part for part in parts if "-" not in part))

    def __str__(self) -> str:
        return "_".join([*(f"{key}-{value}" for key, value in self.entities.items()), *self.words])

    def without(self, *keys: str) -> Name:
        return Name({key: value for key, value in self.entities.items() if key not in keys}, self.words)

    def within(self, other: Name) -> bool:
        """Whether all that this says is said by `other` too."""
        return self.entities.items() <= other.entities.items() and {*self.words} <= {*other.words}


@dataclass(frozen=True)
class BidsFile:
    """A volume of a subject, or a table of labels. `derived`: below a folder `derivatives`."""

    path: Path
    name: Name
    derived: bool

    @property
    def scan(self) -> tuple[str, str]:
        """Subject and session, which may be ''."""
        return self.name.entities.get("sub", ""), self.name.entities.get("ses", "")

    @property
    def is_label(self) -> bool:
        """Whether it is named like a label map."""
        return any(map(_LABELS.fullmatch, (*self.name.words, *({*self.name.entities} - {"label"}))))


def bids_files(root: Path) -> tuple[tuple[BidsFile, ...], tuple[BidsFile, ...], tuple[Path, ...]]:
    """Volumes of subjects, tables `*_dseg.tsv`, and the texts beside them. Raises DataError."""
    volumes, tables, texts = [], [], []
    for path in _below(root, set(), _DEEPEST):
        derived = "derivatives" in path.relative_to(root).parts[:-1]
        if path.name.endswith("dseg.tsv"):
            tables.append(BidsFile(path, Name.of(path.name.removesuffix(".tsv")), derived))
        if ending(path) and path.name.startswith("sub-"):
            volumes.append(BidsFile(path, Name.of(stem(path)), derived))
        elif path.suffix in (".json", ".tsv", ".bval", ".bvec", ".md", ".txt", ".rst", ".cff", ""):
            texts.append(path)
    return tuple(volumes), tuple(tables), tuple(texts)


def _below(folder: Path, seen: set[str], depth: int) -> Iterator[Path]:
    """Files below a folder in the order of names, each folder once, whatever links there are."""
    real = os.path.realpath(folder)
    if real in seen or depth == 0:
        return
    seen.add(real)
    for path in listed(folder):
        if path.name.startswith(".") or path.name in NOT_LOOKED_INTO:
            continue
        if path.is_dir():
            yield from _below(path, seen, depth - 1)
        else:
            yield path


def is_bids(root: Path) -> bool:
    """Whether a folder has folders or files of subjects, somewhere that is soon found."""
    if (root / "dataset_description.json").is_file():
        return True
    subjects = (path for level in ("sub-*", "*/sub-*", "*/*/sub-*") for path in sorted(root.glob(level)))
    return any(path.is_dir() and any(path.rglob("sub-*_*")) for path in islice(subjects, _LOOKED_AT))


def belongs(label: Name, image: Name, pattern: Name) -> bool:
    """Whether a label map, found by `pattern`, may be of an image of the same scan."""
    space, own = label.entities.get("space"), image.entities.get("space")
    if space != own and (own or space not in (*NATIVE, *image.words)):
        return False
    said = label.without("sub", "ses", *OF_A_DERIVATIVE, *pattern.entities).entities
    return said.items() <= image.entities.items()


def likeness(label: Name, image: Name) -> tuple[int, int]:
    """How much both say alike, and how little more is said, to choose among several that belong."""
    alike = len(label.entities.items() & image.entities.items()) + len({*label.words} & {*image.words})
    return alike, -len(label.entities.keys() - image.entities.keys())


def read_tsv(path: Path) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """Columns in small letters, and each row with its line. Raises DataError."""
    text = read_text(path, remedy="save the table as text in UTF-8, with tabs between columns")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = tuple(cell.strip().lower() for cell in rows[0]) if rows else ()
    lines = [
        (number, dict(zip(header, (cell.strip() for cell in row))))
        for number, row in enumerate(rows[1:], 2)
        if any(cell.strip() for cell in row)
    ]
    return header, lines


def guess(root: Path) -> dict[str, Any] | None:
    """Parameters of the dataset plugin `bids` by names alone, without `classes`; None where no label is.

    `images` holds every pattern that each labelled scan has; whoever opens them keeps those of one grid.
    """
    volumes, _, _ = bids_files(root)
    found = Counter(str(_label_pattern(file, volumes)) for file in volumes if file.is_label)
    if not found:
        return None
    labels = min(found, key=lambda text: (_rank(text), -found[text], len(Name.of(text).entities), text))
    pattern = Name.of(labels)
    labelled = [file for file in volumes if file.is_label and pattern.within(file.name)]
    scans = {file.scan for file in labelled}
    others = [file for file in volumes if file.scan in scans and not file.is_label]
    spaces = {file.name.entities.get("space") for file in labelled} - {*NATIVE}
    raw = [file for file in others if not file.derived] or others
    images = _common(raw, scans) or _common(others, scans)
    if spaces and None not in spaces and not any("space" in Name.of(text).entities for text in images):
        spaced = [file for file in others if file.name.entities.get("space") in spaces]
        images = _common(spaced, scans) or images
    if not images:
        return None
    mentioned = {word for file in labelled for word in file.name.words}
    first = sorted(images, key=lambda text: (Name.of(text).words[-1] not in mentioned, _order(text), text))
    folders = sorted({_pipeline(root, file) for file in labelled} - {""})
    return {
        "images": first,
        "labels": labels,
        **({"derivatives": folders[0]} if len(folders) > 1 else {}),
    }


def _label_pattern(file: BidsFile, volumes: Sequence[BidsFile]) -> Name:
    """`label-lesion_mask` of `sub-01_T2w_label-lesion_mask`."""
    kept = {k: v for k, v in file.name.entities.items() if _LABELS.fullmatch(k) or k == "desc"}
    words = tuple(word for word in file.name.words if _LABELS.fullmatch(word))
    return Name(kept, words)


def _rank(text: str) -> int:
    """What is likeliest meant to be learned: whole segmentations before masks, masks of a brain last."""
    name = Name.of(text)
    if "brain" in (name.entities.get("desc", "").lower(), name.entities.get("label", "").lower()):
        return 9
    return {"dseg": 0, "mask": 2}.get(name.words[-1] if name.words else "", 1)


def _common(files: Iterable[BidsFile], scans: set[tuple[str, str]]) -> list[str]:
    """Patterns that each scan has: a suffix where that is one file, or runs of one; else with entities."""
    of_scan: dict[str, dict[tuple[str, str], set[str]]] = {}
    for file in files:
        if file.name.words:
            whole = str(file.name.without("sub", "ses", "run"))
            of_scan.setdefault(file.name.words[-1], {}).setdefault(file.scan, set()).add(whole)
    found = []
    for suffix, wholes in of_scan.items():
        if wholes.keys() != scans:
            continue
        shared = set.intersection(*wholes.values())
        spaced = any(Name.of(text).entities.keys() & {"space", "desc"} for text in shared)
        one = all(len(texts) == 1 for texts in wholes.values())
        found += [suffix] if one and not spaced else sorted(shared)
    return found


def _order(text: str) -> int:
    suffix = Name.of(text).words[-1]
    return _USUAL.index(suffix) if suffix in _USUAL else len(_USUAL)


def _pipeline(root: Path, file: BidsFile) -> str:
    """The folder in `derivatives` that holds a file; '' for others."""
    parts = file.path.relative_to(root).parts
    if "derivatives" not in parts:
        return ""
    after = parts[parts.index("derivatives") + 1]
    return "" if after.startswith("sub-") else after
