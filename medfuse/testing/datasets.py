"""What a dataset keeps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medfuse.api import Case, Dataset
from medfuse.core.errors import DataError
from medfuse.testing.report import report


def check_dataset(plugin: Dataset) -> None:
    """What is read from `plugin`'s folder, which has to hold a case or more; no image is opened."""

    def has_cases() -> None:
        assert plugin.read().cases, f"no case is found in {plugin.root}"

    def labels_have_values() -> None:
        info = plugin.read()
        labels, values = info.labels, list(info.labels.values())
        assert 0 in values, f"labels {dict(labels)} do not begin with background: 0"
        assert len(values) > 1, f"labels {dict(labels)} name nothing to segment"
        assert len(set(values)) == len(values), f"labels {dict(labels)} share values"
        regions = any(isinstance(value, tuple) for value in values)
        order = len(values) - 1 if regions else 0
        assert len(info.region_order) == order, (
            f"region_order has {len(info.region_order)} values, not {order}"
        )

    def cases_have_names() -> None:
        info = plugin.read()
        for cases in (info.cases, info.test_cases):
            twice = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
            assert not twice, f"{', '.join(twice)} names more than one case"
        unfit = [c.name for c in info.cases if not c.name or set(c.name) & set("/\\\n") or c.name[0] == "."]
        assert not unfit, f"{unfit} cannot name a file"

    def files_are_there() -> None:
        info = plugin.read()
        missing = [p for case in (*info.cases, *info.test_cases) for p in files_of(case) if not p.is_file()]
        assert not missing, f"{', '.join(map(str, missing))}: no such file"
        bare = [case.name for case in info.cases if case.label is None]
        assert not bare, f"{', '.join(bare)} has no label"

    def channels_have_files() -> None:
        info = plugin.read()
        for case in info.cases:
            counts = len(case.images), len(info.channels)
            assert counts[0] in (1, counts[1]), f"{case.name} has {counts[0]} images for {counts[1]} channels"

    def splits_part_the_cases() -> None:
        info = plugin.read()
        names = {case.name for case in info.cases}
        for number, split in enumerate(info.splits):
            unknown = {*split.train, *split.validation} - names
            assert not unknown, f"fold {number} names {', '.join(sorted(unknown))}, which is no case"
            both = set(split.train) & set(split.validation)
            assert not both, f"fold {number} trains and judges with {', '.join(sorted(both))}"
            assert all((split.train, split.validation)), f"fold {number} has an empty side"

    def reads_the_same_again() -> None:
        assert plugin.read() == plugin.read(), "read twice it differs; sort what the disk lists"

    def blames_a_missing_folder() -> None:
        nowhere = plugin.root / "no_such_folder"
        try:
            plugin.model_copy(update={"root": nowhere}).read()
        except DataError as error:
            said = str(error)
        else:
            raise AssertionError("a folder that is not there is read; raise DataError that names it")
        assert str(nowhere) in said, f"{said!r} does not name the folder"

    report(
        plugin,
        {
            "has cases": has_cases,
            "labels have values of their own": labels_have_values,
            "cases have names of their own": cases_have_names,
            "every file is there": files_are_there,
            "channels have files": channels_have_files,
            "splits part the cases": splits_part_the_cases,
            "reads the same again": reads_the_same_again,
            "blames a missing folder": blames_a_missing_folder,
        },
    )


def files_of(case: Case) -> list[Path]:
    return [*case.images, *([case.label] if case.label else [])]
