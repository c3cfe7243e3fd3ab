"""What a dataset's text files say: labels, channels, folds and cases, with the place of every fault."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.api import Case, Split
from medfuse.core.errors import DataError
from medfuse.core.labels import LabelValue, map_values, members


@dataclass(frozen=True)
class JsonFile:
    """A JSON file: its values, and its text to find the line of one of them."""

    path: Path
    text: str
    data: Any

    @classmethod
    def read(cls, path: Path) -> "JsonFile":
        """Raises DataError for a missing or unreadable file, with line and column for faulty JSON."""
        try:
            text = path.read_text(encoding="utf-8-sig")
            return cls(path, text, json.loads(text))
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"{path}: no such file; `data.root` should be the folder that holds it") from None
        except json.JSONDecodeError as error:
            place = f"{path}:{error.lineno}:{error.colno}"
            raise DataError(f"{place}: not valid JSON: {error.msg}; mend it there or just before") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a text file ({error}); replace it") from None

    def at(self, value: str) -> str:
        """`dataset.json:12`, the first line that holds the string `value`."""
        before, found, _ = self.text.partition(json.dumps(value, ensure_ascii=False))
        return f"{self.path}:{before.count(chr(10)) + 1}" if found else str(self.path)


@dataclass(frozen=True)
class Labels:
    """What a dataset says of its labels: see the fields of these names in DatasetInfo."""

    labels: Mapping[str, LabelValue]
    region_order: tuple[int, ...] = ()
    ignore: int | None = None


def parse_labels(value: Any, where: str, faults: list[str], order: Any = None) -> Labels:
    """From `{"liver": 1}` or `{"1": "liver"}`, with background 0 and perhaps `ignore`. Adds a line per fault.

    A region is a list of values, `{"whole": [1, 2], "core": 2}`; `order` is nnU-Net's `regions_class_order`,
    the value to write for each region, later ones over earlier ones.
    """
    if not isinstance(value, Mapping) or not value:
        faults.append(f'{where}: labels are missing; write them as {{"background": 0, "liver": 1}}')
        return Labels({})
    regions = any(isinstance(entry, list | tuple) for entry in value.values())
    labels: dict[str, LabelValue] = {}
    for key, entry in value.items():
        name, number = (entry, key) if isinstance(entry, str) and str(key).isdigit() else (key, entry)
        numbers = number if isinstance(number, list | tuple) else [number]
        if not numbers or any(isinstance(n, bool) or not str(n).isdigit() for n in numbers):
            faults.append(f"{where}: label {name!r} has value {number!r}; a label is a whole number from 0")
        elif str(name) in labels or (not regions and int(number) in labels.values()):
            faults.append(f"{where}: label {name!r} ({number}) repeats a name or a value; keep one")
        else:
            several = isinstance(number, list | tuple)
            labels[str(name)] = tuple(sorted(map(int, numbers))) if several else int(number)
    ignore = _ignore(labels, where, faults)
    if labels and 0 not in labels.values():
        if "background" in labels:
            faults.append(f"{where}: background has value {labels['background']}; it must be 0")
        labels = {"background": 0, **labels}
    if len(labels) == 1:
        faults.append(f"{where}: only the background is named; name at least one label to segment")
    if regions:
        return Labels(labels, _region_order(labels, order, where, faults), ignore)
    return Labels(dict(sorted(labels.items(), key=lambda item: members(item[1]))), (), ignore)


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
            f"to write for each of {', '.join(regions)}; it is {order!r}"
        )
        return ()
    for value, (name, region) in zip(order, regions.items()):
        if value not in members(region):
            faults.append(f"{where}: `regions_class_order` has {value!r} for {name}, which holds {region}")
    return tuple(order)


def parse_channels(value: Any, where: str, faults: list[str]) -> tuple[str, ...]:
    """Channel names in order from `{"0": "CT"}` or `["CT"]`. Adds a line per fault."""
    if isinstance(value, list) and value:
        return tuple(map(str, value))
    if isinstance(value, Mapping) and value and set(value) == {str(i) for i in range(len(value))}:
        return tuple(str(value[str(i)]) for i in range(len(value)))
    faults.append(
        f'{where}: channels are missing or misnumbered; write them as {{"0": "CT"}}, counting from 0'
    )
    return ()


def check_cases(cases: Iterable[Case], faults: list[str]) -> None:
    """Add a line for every file that is not there, every name used twice, and every name no file can have."""
    first: dict[str, Case] = {}
    for case in cases:
        if not re.fullmatch(r"[^\s./\\][^/\\\n]*", case.name):
            faults.append(f"{case.images[0]}: case name {case.name!r} cannot name a file; rename it")
        for path in (*case.images, *((case.label,) if case.label else ())):
            if not path.is_file():
                faults.append(f"{path}: no such file (case {case.name}); copy it there, or drop the case")
        if case.name in first:
            other = first[case.name].images[0]
            faults.append(
                f"{case.images[0]}: two cases are named {case.name}, the other is {other}; rename one"
            )
        first.setdefault(case.name, case)


def read_splits(path: Path) -> tuple[Split, ...]:
    """Folds in nnU-Net's form, `[{"train": [names], "val": [names]}, …]`. Raises DataError."""
    data = JsonFile.read(path).data
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


def splits_beside(folder: Path) -> tuple[Split, ...]:
    """The folds of `splits_final.json` in `folder`; none where there is no such file."""
    path = folder / "splits_final.json"
    return read_splits(path) if path.is_file() else ()


def splits_from_folds(folds: Mapping[str, int]) -> tuple[Split, ...]:
    """One split per fold number: the cases of that fold are held out, all others train."""
    return tuple(
        Split(
            tuple(name for name, own in folds.items() if own != fold),
            tuple(name for name, own in folds.items() if own == fold),
        )
        for fold in sorted(set(folds.values()))
    )
