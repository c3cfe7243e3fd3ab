"""What a dataset's text files say: labels, channels, folds and cases, with the place of every fault."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.api import Case, Split
from medfuse.core.errors import DataError


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


def parse_labels(value: Any, where: str, faults: list[str]) -> dict[str, int]:
    """Name → value from `{"liver": 1}` or `{"1": "liver"}`, with background 0. Adds a line per fault."""
    if not isinstance(value, Mapping) or not value:
        faults.append(f'{where}: labels are missing; write them as {{"background": 0, "liver": 1}}')
        return {}
    labels: dict[str, int] = {}
    for key, entry in value.items():
        name, number = (entry, key) if isinstance(entry, str) and str(key).isdigit() else (key, entry)
        if isinstance(number, list):
            faults.append(
                f"{where}: label {name!r} is a region {number}; give each label one value of its own"
            )
        elif isinstance(number, bool) or not str(number).isdigit():
            faults.append(f"{where}: label {name!r} has value {number!r}; a label is a whole number from 0")
        elif str(name) in labels or int(number) in labels.values():
            faults.append(f"{where}: label {name!r} ({number}) repeats a name or a value; keep one")
        elif str(name) == "ignore":
            faults.append(
                f"{where}: an `ignore` label is not supported; remove it, and its voxels, or label them"
            )
        else:
            labels[str(name)] = int(number)
    if labels and 0 not in labels.values():
        if "background" in labels:
            faults.append(f"{where}: background has value {labels['background']}; it must be 0")
        labels = {"background": 0, **labels}
    if len(labels) == 1:
        faults.append(f"{where}: only the background is named; name at least one label to segment")
    return dict(sorted(labels.items(), key=lambda item: item[1]))


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
