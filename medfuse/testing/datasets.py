"""What a dataset keeps: the cases, files, labels and folds that a folder's text and names tell of."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from medfuse.api import Case, Dataset, DatasetInfo
from medfuse.core.errors import DataError
from medfuse.core.labels import map_values, members
from medfuse.testing.disk import contents, listed, opened
from medfuse.testing.report import report


def check_dataset(plugin: Dataset) -> None:
    """What is read from `plugin`'s folder, which has to hold a case or more; no image is opened."""
    report(
        plugin,
        {
            "has cases": partial(_has_cases, plugin),
            "says it in the contract's types": partial(_has_types, plugin),
            "labels have values of their own": partial(_labels_have_values, plugin),
            "ignored voxels have a value of their own": partial(_ignore_is_free, plugin),
            "cases have names of their own": partial(_cases_have_names, plugin),
            "every file is there": partial(_files_are_there, plugin),
            "every file is one thing": partial(_files_are_one_thing, plugin),
            "channels have files": partial(_channels_have_files, plugin),
            "test cases are no training cases": partial(_tests_are_unseen, plugin),
            "splits part the cases": partial(_splits_part_the_cases, plugin),
            "splits part the patients": partial(_splits_part_the_patients, plugin),
            "reads the same again": partial(_reads_the_same_again, plugin),
            "reads the same in any order of files": partial(_minds_no_order, plugin),
            "reads the same from anywhere": partial(_reads_from_anywhere, plugin),
            "opens no image and writes nothing": partial(_only_reads_texts, plugin),
            "hidden files are no cases": partial(_skips_hidden_files, plugin),
            "blames a missing folder": partial(_blames_a_missing_folder, plugin),
        },
    )


def _has_cases(plugin: Dataset) -> None:
    assert plugin.read().cases, f"no case is found in {plugin.root}"


def _has_types(plugin: Dataset) -> None:
    info = plugin.read()
    assert isinstance(info, DatasetInfo), f"read() returns a {type(info).__name__}, wanted is a DatasetInfo"
    for name in ("cases", "channels", "splits", "test_cases", "region_order"):
        value = getattr(info, name)
        assert isinstance(value, tuple), f"{name} is a {type(value).__name__}, wanted is a tuple"
    for case in (*info.cases, *info.test_cases):
        assert isinstance(case, Case), f"a case is a {type(case).__name__}, wanted is a Case"
        assert isinstance(case.name, str), f"the case {case.name!r} is named by a {type(case.name).__name__}"
        assert isinstance(case.images, tuple), f"images of {case.name} are no tuple: {case.images!r}"
        odd = [path for path in _files(case) if not isinstance(path, Path)]
        assert not odd, f"{odd[0]!r} of {case.name} is no pathlib.Path"
    assert info.channels, "channels is empty; name what the images show, such as CT"
    fit = all(isinstance(name, str) and name.strip() for name in info.channels)
    assert fit, f"channels {info.channels} are not all names"
    assert len(set(info.channels)) == len(info.channels), f"channels {info.channels} share a name"


def _labels_have_values(plugin: Dataset) -> None:
    info = plugin.read()
    labels, values = info.labels, list(info.labels.values())
    assert 0 in values, f"labels {dict(labels)} do not begin with background: 0"
    assert len(values) > 1, f"labels {dict(labels)} name nothing to segment"
    assert len(set(values)) == len(values), f"labels {dict(labels)} share values"
    blank = [name for name in labels if not isinstance(name, str) or not name.strip()]
    assert not blank, f"labels {dict(labels)} have no names"
    for name, value in labels.items():
        numbers = members(value)
        assert numbers, f"label {name} has no value"
        odd = [n for n in numbers if type(n) is not int or n < 0]
        assert not odd, f"label {name} has the value {odd[0]!r}; values are whole numbers from 0"
    regions = any(isinstance(value, tuple) for value in values)
    order = len(values) - 1 if regions else 0
    assert len(info.region_order) == order, f"region_order has {len(info.region_order)} values, not {order}"
    regioned = {name: value for name, value in labels.items() if value != 0}
    for name, value in regioned.items():
        assert 0 not in members(value), f"label {name} holds 0, which is the background"
    for written, (name, value) in zip(info.region_order, regioned.items()):
        assert written in members(value), f"region_order has {written} for {name}, which holds {value}"


def _ignore_is_free(plugin: Dataset) -> None:
    info = plugin.read()
    if info.ignore is None:
        return
    fits = type(info.ignore) is int and info.ignore >= 0
    assert fits, f"ignore is {info.ignore!r}, wanted is a whole number from 0"
    taken = [name for name, value in info.labels.items() if info.ignore in members(value)]
    assert not taken, (
        f"ignore is {info.ignore}, which is a value of {', '.join(taken)} too, whose voxels would be "
        "left out; "
        f"values of labels are {list(map_values(info.labels.values()))}"
    )


def _cases_have_names(plugin: Dataset) -> None:
    info = plugin.read()
    for cases in (info.cases, info.test_cases):
        twice = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
        assert not twice, f"{', '.join(twice)} names more than one case"
        unfit = [c.name for c in cases if not _names_a_file(c.name)]
        assert not unfit, f"{unfit} cannot name a file; results are written under these names"


def _names_a_file(name: str) -> bool:
    return (
        bool(name)
        and name == name.strip()
        and name[0] != "."
        and name.isprintable()
        and not set(name) & set("/\\")
    )


def _files_are_there(plugin: Dataset) -> None:
    info = plugin.read()
    missing = [p for case in (*info.cases, *info.test_cases) for p in _files(case) if not p.is_file()]
    assert not missing, f"{', '.join(map(str, missing))}: no such file"
    assert any(case.label for case in info.cases), "no case has a label"


def _files_are_one_thing(plugin: Dataset) -> None:
    """No file is two channels, two cases, or an image and a label."""
    info = plugin.read()
    uses: dict[Path, list[str]] = {}
    for case in (*info.cases, *info.test_cases):
        for number, path in enumerate(case.images):
            uses.setdefault(path.resolve(), []).append(f"image {number} of {case.name}")
        if case.label:
            uses.setdefault(case.label.resolve(), []).append(f"the label of {case.name}")
    for path, what in uses.items():
        assert len(what) == 1, f"{path} is {' and '.join(what)}; a file is one of these"


def _channels_have_files(plugin: Dataset) -> None:
    info = plugin.read()
    for case in (*info.cases, *info.test_cases):
        counts = len(case.images), len(info.channels)
        assert counts[0] in (1, counts[1]), f"{case.name} has {counts[0]} images for {counts[1]} channels"


def _tests_are_unseen(plugin: Dataset) -> None:
    info = plugin.read()
    both = {case.name for case in info.cases} & {case.name for case in info.test_cases}
    assert not both, f"{', '.join(sorted(both))} is a test case, and among the cases that train"
    people = {c.patient for c in info.cases if c.patient} & {c.patient for c in info.test_cases if c.patient}
    assert not people, f"patient {', '.join(sorted(people))} has a test case, and one among those that train"


def _splits_part_the_cases(plugin: Dataset) -> None:
    info = plugin.read()
    names = {case.name for case in info.cases}
    for number, split in enumerate(info.splits):
        unknown = {*split.train, *split.validation} - names
        assert not unknown, f"fold {number} names {', '.join(sorted(unknown))}, which is no case"
        both = set(split.train) & set(split.validation)
        assert not both, f"fold {number} trains and judges with {', '.join(sorted(both))}"
        assert all((split.train, split.validation)), f"fold {number} has an empty side"
        for side in (split.train, split.validation):
            twice = [name for name, times in Counter(side).items() if times > 1]
            assert not twice, f"fold {number} names {', '.join(twice)} twice"
    judged = Counter(split.validation for split in info.splits)
    again = [side for side, times in judged.items() if times > 1]
    assert not again, f"two folds judge by the same cases, {', '.join(again[0])}" if again else ""


def _splits_part_the_patients(plugin: Dataset) -> None:
    info = plugin.read()
    patient = {case.name: case.patient for case in info.cases if case.patient}
    for number, split in enumerate(info.splits):
        train, judge = (
            {patient[n] for n in side if n in patient} for side in (split.train, split.validation)
        )
        assert not train & judge, (
            f"fold {number} trains and judges with patient {', '.join(sorted(train & judge))}"
        )


def _reads_the_same_again(plugin: Dataset) -> None:
    assert plugin.read() == plugin.read(), "read twice it differs; sort what the disk lists"


def _minds_no_order(plugin: Dataset) -> None:
    """A disk lists a folder in any order it likes."""
    orders = []
    for backwards in (False, True):
        with listed(backwards):
            orders.append(plugin.read())
    assert orders[0] == orders[1], (
        "where the disk lists files in another order it reads "
        f"{[c.name for c in orders[1].cases]} in place of {[c.name for c in orders[0].cases]}; sort "
        "what it lists"
    )


def _reads_from_anywhere(plugin: Dataset) -> None:
    """The working directory has no part in it."""
    fixed = plugin.model_copy(update={"root": plugin.root.absolute()})
    here = fixed.read()
    with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
        there = fixed.read()
        lost = [p for case in (*there.cases, *there.test_cases) for p in _files(case) if not p.is_file()]
    assert not lost, (
        f"{lost[0]} is not found from another working directory; let paths begin with `self.root`"
    )
    assert here == there, (
        "from another working directory it reads something else; let paths begin with `self.root`"
    )


def _only_reads_texts(plugin: Dataset) -> None:
    info = plugin.read()
    images = {os.path.abspath(p) for case in (*info.cases, *info.test_cases) for p in _files(case)}
    before = contents(plugin.root)
    with opened() as paths:
        plugin.read()
    seen = sorted(images & {os.path.abspath(p) for p in paths})
    assert not seen, f"{seen[0]} is opened; a thousand volumes take minutes: tell by names and text files"
    changed = sorted(set(before.items()) ^ set(contents(plugin.root).items()))
    assert not changed, f"{changed[0][0]} is written or removed by reading; leave the folder as it is"


def _skips_hidden_files(plugin: Dataset) -> None:
    """macOS leaves `._scan.nii.gz` beside every scan.nii.gz that it copies; here they lie beside links."""
    names = [case.name for case in plugin.read().cases]
    files = [os.path.join(folder, name) for folder, _, found in os.walk(plugin.root) for name in found]
    if len(files) > 2000:
        return
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, plugin.root.resolve().name)
        for file in files:
            link = Path(root, os.path.relpath(file, plugin.root))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.abspath(file))
            Path(link.parent, f"._{link.name}").touch()
            Path(link.parent, ".DS_Store").touch()
        try:
            found = [case.name for case in plugin.model_copy(update={"root": root}).read().cases]
        except DataError as error:
            if "._" in str(error) or ".DS_Store" in str(error):
                return  # it refuses them, by name
            raise
    assert sorted(found) == sorted(names), (
        f"with hidden files (._NAME, .DS_Store) beside its files it reads {found} in place of "
        f"{names}; skip names "
        "that begin with a dot"
    )


def _blames_a_missing_folder(plugin: Dataset) -> None:
    nowhere = plugin.root / "no_such_folder"
    try:
        plugin.model_copy(update={"root": nowhere}).read()
    except DataError as error:
        said = str(error)
    else:
        raise AssertionError("a folder that is not there is read; raise DataError that names it")
    assert str(nowhere) in said, f"{said!r} does not name the folder"


def _files(case: Case) -> list[Path]:
    return [*case.images, *([case.label] if case.label else [])]
