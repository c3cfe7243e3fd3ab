"""What a dataset's text files say: labels, channels, folds and cases, with the place of every fault."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, StrictInt, Tag, field_validator

from medfuse.api import Case, Split
from medfuse.core.codes import Code
from medfuse.core.errors import DataError
from medfuse.core.json_text import parse_json, read_text, shortened
from medfuse.core.label_table import LabelSays
from medfuse.core.labels import LabelValue, label_value, map_values, members
from medfuse.core.section import Section
from medfuse.core.text import is_text
from medfuse.data.patients import with_patients
from medfuse.volumes.dicom.origins import sources_of
from medfuse.volumes.folders import left_out, listed, lost_target, named, not_there
from medfuse.volumes.label_maps import fitted

LARGEST_LABEL = 2**32 - 1

Values = StrictInt | tuple[StrictInt, ...]


class ClassSettings(Section):
    """A label with more than its value: `{value: 1, code: "SCT 10200004", color: "#dd8265"}`."""

    value: Values = Field(description="its value in the label maps; a list makes a region")
    code: str = Field(
        "",
        description="terminology and code, such as `SCT 10200004`, and perhaps the meaning; where it is not "
        "given, that of common organs is known by their names",
    )
    color: str = Field(
        "", description="red, green and blue as in `#dd8265`, in quotes; chosen by medfuse where not given"
    )

    @field_validator("code", mode="before")
    @classmethod
    def _is_code(cls, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("is no text; write the terminology and its code, such as 'SCT 10200004'")
        return str(Code.of(value)) if value else value

    @field_validator("color", mode="before")
    @classmethod
    def _is_color(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("is empty, as # begins a comment in YAML; write it in quotes: '#dd8265'")
        if not isinstance(value, str) or not re.fullmatch(r"(#[0-9a-fA-F]{6})?", value):
            raise ValueError(
                f"{shortened(str(value))!r} is no colour; write red, green and blue in two hexadecimal "
                "digits each, in quotes: '#dd8265'"
            )
        return str(value)


def _form(value: Any) -> str:
    return "more" if isinstance(value, Mapping | ClassSettings) else "value"


Classes = Annotated[
    dict[
        str,
        Annotated[
            Annotated[Values, Tag("value")] | Annotated[ClassSettings, Tag("more")], Discriminator(_form)
        ],
    ],
    Field(
        min_length=1,
        description="label names and their values in the label maps; a list makes a region; `ignore` is what "
        'nobody annotated; `{value: 1, code: "SCT 10200004", color: "#dd8265"}` says more for viewers',
    ),
]
"""`data.classes` of a dataset that has no text file of its own."""

_UNPRINTABLE = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class JsonFile:
    """A JSON file: its values, and its text to find the line of one of them."""

    path: Path
    text: str
    data: Any

    @classmethod
    def read(
        cls, path: Path, remedy: str = "`data.root` should be the folder that holds the right one"
    ) -> "JsonFile":
        """Raises DataError for a missing or unreadable file, with line and column for faulty JSON."""
        text = read_text(path, remedy=remedy)
        made = cls(path, text, parse_json(text, str(path)))
        for word in _words(made.data):
            if odd := _UNPRINTABLE.search(word):
                raise DataError(f"{made.at(word)}: a text holds the character {odd[0]!r}; remove it")
        return made

    def mapping(self, holds: str) -> Mapping[str, Any]:
        """The values, which have to be a mapping that `holds` something. Raises DataError."""
        if not isinstance(self.data, dict):
            raise DataError(f"{self.path}: holds no mapping; it needs {holds}")
        return self.data

    def at(self, value: str) -> str:
        """`dataset.json:12`, the first line that holds the string `value`."""
        before, found, _ = self.text.partition(json.dumps(value, ensure_ascii=False))
        if not found:
            before, found, _ = self.text.partition(json.dumps(value))
        return f"{self.path}:{before.count(chr(10)) + 1}" if found else str(self.path)


def _words(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)


@dataclass(frozen=True)
class Labels:
    """What a dataset says of its labels: see the fields of these names in DatasetInfo."""

    labels: Mapping[str, LabelValue]
    region_order: tuple[int, ...] = ()
    ignore: int | None = None
    table: Mapping[str, LabelSays] = field(default_factory=dict)


def parse_labels(value: Any, where: str, faults: list[str], order: Any = None) -> Labels:
    """From `{"liver": 1}` or `{"1": "liver"}`, with background 0 and perhaps `ignore`. Adds a line per fault.

    A label may also be what `ClassSettings` says of it.

    A region is a list of values, `{"whole": [1, 2], "core": 2}`, and a list of one is that value. `order` is
    nnU-Net's `regions_class_order`, the value to write for each region, later ones over earlier ones.
    """
    if not isinstance(value, Mapping) or not value:
        faults.append(f'{where}: labels are missing; write them as {{"background": 0, "liver": 1}}')
        return Labels({})
    table = {
        name: LabelSays(entry.code, entry.color)
        for name, entry in value.items()
        if isinstance(entry, ClassSettings) and (entry.code or entry.color)
    }
    value = {n: entry.value if isinstance(entry, ClassSettings) else entry for n, entry in value.items()}
    return replace(_parsed_labels(value, where, faults, order), table=table)


def _parsed_labels(value: Mapping[Any, Any], where: str, faults: list[str], order: Any) -> Labels:
    labels: dict[str, LabelValue] = {}
    for key, entry in value.items():
        name, number = (entry, key) if isinstance(entry, str) and is_whole(key) else (key, entry)
        numbers = number if isinstance(number, list | tuple) else [number]
        said = f"{where}: label {shortened(repr(name))}"
        if not str(name).strip():
            faults.append(f"{said} has no name; give it one")
        elif not numbers or not all(is_whole(n, LARGEST_LABEL) for n in numbers):
            found = shortened(repr(number))
            faults.append(
                f"{said} has value {found}; a label is a whole number from 0 to {LARGEST_LABEL}, a region a "
                "list of them"
            )
        elif str(name) in labels:
            faults.append(f"{said} ({number}) repeats a name; keep one")
        else:
            labels[str(name)] = label_value(map(int, numbers))
    ignore = _ignore(labels, where, faults)
    regions = any(isinstance(found, tuple) for found in labels.values())
    first = {found: name for name, found in reversed(labels.items())}
    faults.extend(
        f"{where}: label {shortened(repr(name))} ({found}) repeats the value of {first[found]}; keep one"
        for name, found in labels.items()
        if not regions and first[found] != name
    )
    if labels and 0 not in labels.values():
        if "background" in labels:
            faults.append(f"{where}: background has value {labels['background']}; it must be 0")
        labels = {"background": 0, **labels}
    if len(labels) == 1:
        faults.append(f"{where}: only the background is named; name at least one label to segment")
    if regions:
        return Labels(labels, _region_order(labels, order, where, faults), ignore)
    return Labels(dict(sorted(labels.items(), key=lambda item: members(item[1]))), (), ignore)


def is_whole(value: Any, largest: int = 10**9) -> bool:
    """Whether `value` is a whole number from 0, or the digits of one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return False
    text = str(value)
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= largest


def _ignore(labels: dict[str, LabelValue], where: str, faults: list[str]) -> int | None:
    """Takes `ignore` out of `labels`. As in nnU-Net it is the highest value."""
    ignore = labels.pop("ignore", None)
    highest = max(map_values(labels.values()), default=0)
    if ignore is None or (isinstance(ignore, int) and ignore > highest):
        return ignore
    faults.append(f"{where}: `ignore` has value {ignore}; it must be one value above {highest}, the highest")
    return None


def _region_order(
    labels: Mapping[str, LabelValue], order: Any, where: str, faults: list[str]
) -> tuple[int, ...]:
    """The value to write for each region. Adds a line where it does not fit them."""
    regions = {name: value for name, value in labels.items() if value != 0}
    if within := [name for name, value in regions.items() if 0 in members(value)]:
        faults.append(f"{where}: region {', '.join(within)} holds 0, the background; leave it out there")
    if not isinstance(order, list | tuple) or len(order) != len(regions):
        faults.append(
            f"{where}: labels are regions, so `regions_class_order` must list {len(regions)} values, the one "
            f"to write for each of {', '.join(regions)}; it is {shortened(repr(order))}"
        )
        return ()
    for value, (name, region) in zip(order, regions.items()):
        if isinstance(value, bool) or value not in members(region):
            found = shortened(repr(value))
            faults.append(f"{where}: `regions_class_order` has {found} for {name}, which holds {region}")
    return tuple(order)


def parse_channels(value: Any, where: str, faults: list[str]) -> tuple[str, ...]:
    """Channel names in order from `{"0": "CT"}` or `["CT"]`. Adds a line per fault."""
    if isinstance(value, Mapping) and set(value) == {str(i) for i in range(len(value))}:
        value = [value[str(i)] for i in range(len(value))]
    if isinstance(value, list) and value:
        if odd := [name for name in value if not isinstance(name, str) or not name.strip()]:
            faults.append(
                f"{where}: {shortened(repr(odd[0]))} is no name of a channel; write one, such as CT"
            )
        return tuple(map(str, value))
    faults.append(
        f'{where}: channels are missing or misnumbered; write them as {{"0": "CT"}}, counting from 0'
    )
    return ()


def check_cases(cases: Iterable[Case], faults: list[str], source: Path | None = None) -> None:
    """Add a line for every file that is not there, every label that is an image, every name used twice, and
    every name no file can have.

    `source`: the text that lists the cases, where one does.
    """
    cases, first = tuple(cases), dict[str, Case]()
    images = {os.path.normpath(path) for case in cases for path in case.images}
    for case in cases:
        name, file = shortened(repr(case.name)), shortened(str(case.images[0]))
        if not is_text(case.name):
            faults.append(f"{source or file}: the name of case {name} is no text in UTF-8; rename its files")
        elif not re.fullmatch(r"[^\s./\\][^/\\\n]{0,199}", case.name):
            faults.append(f"{source or file}: case name {name} (image {file}) cannot name a file; rename it")
        for path in case.files:
            if not os.path.isfile(path):
                faults.append(_missing(path, case, source))
        if case.label and os.path.normpath(case.label) in images:
            faults.append(
                f"{shortened(str(case.label), 300)}: is an image, and the label of case {name}"
                f"{f' in {source}' if source else ''}; name the file of its label, or none"
            )
        if case.name in first:
            file, other = (shortened(str(c.images[0]), 300) for c in (case, first[case.name]))
            in_list = f" in {source}" if source else ""
            faults.append(
                f"{file}: two cases are named {case.name}{in_list}, the other is {other}; rename one"
            )
        first.setdefault(case.name, case)


def with_dicom(
    cases: Iterable[Case], given: Labels, order: Sequence[int], faults: list[str]
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Cases whose labels are label maps, also where these are SEG or RTSTRUCT, with the patients that DICOM
    says they are of; and what to tell of them.

    `order`: values that may overlap, later ones over earlier ones. Adds a line per fault.
    """
    cases = tuple(cases)
    labels = dict(given.labels) if given.ignore is None else {**given.labels, "ignore": given.ignore}
    found = fitted({c.name: (c.label, c.images[0]) for c in cases if c.label}, labels, order)
    faults.extend(line for lines in found.faults.values() for line in lines)
    fit, whose = with_patients([replace(c, label=found.files.get(c.name)) for c in cases])
    return fit, (*found.notes, *whose)


def _missing(path: Path, case: Case, source: Path | None) -> str:
    """Why a case's file cannot be used."""
    of = f"(case {shortened(case.name)}{f' of {source}' if source else ''})"
    if not os.path.lexists(path):
        return f"{shortened(str(path), 300)}: no such file {of}; copy it there, or drop the case"
    if os.path.exists(path):
        return f"{path}: is no file {of}; name the file itself, or drop the case"
    return f"{not_there(path)} {of}"


def notes_on(
    root: Path,
    cases: Sequence[Case],
    *,
    test_cases: Sequence[Case] = (),
    folders: Sequence[Path] = (),
    known: Sequence[Path] = (),
) -> tuple[str, ...]:
    """What a dataset says beside its cases: which have no label, and what stands beside their files.

    `folders` are looked into even where no case has a file there; `known` are other files that are used.
    Raises DataError for links that lead nowhere, as a case may be missing.
    """
    bare = [case.name for case in cases if case.label is None]
    lines = []
    if bare:
        has = "has" if len(bare) == 1 else "have"
        lines.append(
            f"{root}: {named(bare, 'case')} {has} no label; only `train.pseudo_labels` with "
            "`cases: unlabelled` learns from them"
        )
    used = [file for case in (*cases, *test_cases) for path in case.files for file in sources_of(path)]
    parents = dict.fromkeys(path.parent for path in used)
    between = [above for parent in parents for above in parent.parents if root in above.parents]
    looked = dict.fromkeys([*folders, *parents, *between])
    seen = [path for folder in looked if folder.is_dir() for path in listed(folder) if path.name[0] != "."]
    if lost := [not_there(path) for path in (*looked, *seen) if lost_target(path)]:
        raise DataError(*lost)
    return (*lines, *left_out(root, [*used, *known], looked))


def read_splits(path: Path) -> tuple[Split, ...]:
    """Folds in nnU-Net's form, `[{"train": [names], "val": [names]}, …]`. Raises DataError."""
    data = JsonFile.read(path, remedy="give the path of a file of folds").data
    if not isinstance(data, list) or not all(_is_fold(fold) for fold in data) or not data:
        raise DataError(
            f'{path}: folds are a list such as [{{"train": ["a", "b"], "val": ["c"]}}]; rewrite it so'
        )
    return tuple(Split(tuple(fold["train"]), tuple(fold["val"])) for fold in data)


def _is_fold(fold: Any) -> bool:
    return isinstance(fold, Mapping) and all(
        isinstance(fold.get(part), list) and all(isinstance(name, str) for name in fold[part])
        for part in ("train", "val")
    )


def splits_beside(folder: Path, faults: list[str]) -> tuple[Split, ...]:
    """Folds of `splits_final.json` in `folder`; none where there is no such file. Adds a line per fault."""
    path = folder / "splits_final.json"
    try:
        return read_splits(path) if path.is_file() else ()
    except DataError as error:
        faults.extend(error.lines)
        return ()


def splits_from_folds(folds: Mapping[str, int]) -> tuple[Split, ...]:
    """One split per fold number: the cases of that fold are held out, all others train."""
    return tuple(
        Split(
            tuple(name for name, own in folds.items() if own != fold),
            tuple(name for name, own in folds.items() if own == fold),
        )
        for fold in sorted(set(folds.values()))
    )
