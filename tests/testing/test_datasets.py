"""Faults that authors of datasets make, each caught by the law that it breaks."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest
from planting import each, failed, planted
from sound import Layout

from medfuse.api import Case, Split
from medfuse.testing import check_dataset

CALLS = itertools.count()


@pytest.fixture
def scans(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "scans"
    root.mkdir()
    for name in ("a", "b", "c"):
        (root / f"{name}.nii").touch()
        (root / f"{name}_label.nii").touch()
    monkeypatch.chdir(tmp_path)
    return root


def test_without_a_fault_it_passes(scans):
    check_dataset(Layout(root=scans))


def told(**changes):
    """The layout, with other facts of it."""
    return {"info": lambda self, cases: replace(Layout.info(self, cases), **changes)}


def of_cases(change):
    return {"info": lambda self, cases: Layout.info(self, [change(case) for case in cases])}


def unsorted(self):
    return [p for p in self.root.glob("*.nii") if p.name[0] != "." and not p.stem.endswith("_label")]


def by_listdir(self):
    return [self.root / n for n in os.listdir(self.root) if n[0] != "." and not n.endswith("_label.nii")]


def with_hidden_files(self):
    return sorted(p for p in self.root.iterdir() if p.suffix == ".nii" and not p.stem.endswith("_label"))


def relative_to_here(self, path):
    return Layout.case(self, Path(os.path.relpath(path)))


def in_the_working_directory(self):
    return sorted(Path.cwd().joinpath("scans").glob("[abc].nii")) if "scans" in os.listdir() else []


def opening_its_images(self, path):
    path.read_bytes()
    return Layout.case(self, path)


def writing_an_index(self):
    (self.root / "index.txt").write_text("\n".join(os.listdir(self.root)))
    return Layout.images(self)


def moving_the_process(self):
    os.chdir(self.root)
    return Layout.images(self)


def with_tests(self, cases):
    return replace(Layout.info(self, cases[1:]), test_cases=(replace(cases[1], label=None),))


def with_one_patient_everywhere(self, cases):
    people = [replace(case, patient="p") for case in cases]
    return replace(Layout.info(self, people), splits=(Split(("a", "b"), ("c",)),))


def with_a_patient_that_is_tested(self, cases):
    first, *rest = (replace(case, patient="p") for case in cases)
    return replace(Layout.info(self, rest), test_cases=(first,))


def judged_twice(self, cases):
    return replace(Layout.info(self, cases), splits=(Split(("a", "b"), ("c",)), Split(("b", "a"), ("c",))))


def turned_each_time(self, cases):
    return Layout.info(self, cases[:: (-1) ** next(CALLS)])


def with_two_files_for_three_channels(self, cases):
    twice = [replace(case, images=case.images * 2) for case in cases]
    return replace(Layout.info(self, twice), channels=("T1", "T2", "FLAIR"))


def as_text(case):
    return replace(case, images=tuple(map(str, case.images)), label=str(case.label))


FAULTS = {
    "finds nothing": ("has cases", told(cases=())),
    "has no background": ("labels have values of their own", told(labels={"liver": 1, "tumour": 2})),
    "has a value for two labels": (
        "labels have values of their own",
        told(labels={"background": 0, "liver": 1, "tumour": 1}),
    ),
    "tests with a file that is not there": (
        "every file is there",
        told(test_cases=(Case("d", (Path("nowhere.nii"),)),)),
    ),
    "judges by a case that trains": ("splits part the cases", told(splits=(Split(("a", "b"), ("b",)),))),
    "judges by a case that is not there": ("splits part the cases", told(splits=(Split(("a",), ("d",)),))),
    "has two files for three channels": (
        "channels have files",
        {"info": with_two_files_for_three_channels},
    ),
    "has a case twice": (
        "cases have names of their own",
        {"info": lambda self, cases: Layout.info(self, [cases[0], cases[0]])},
    ),
    "reads otherwise each time": ("reads the same again", {"info": turned_each_time}),
    "reads a missing folder": (
        "blames a missing folder",
        {"read": lambda self: Layout.info(self, [])},
    ),
    "lists files as the disk does": ("reads the same in any order of files", {"images": unsorted}),
    "lists names as the disk does": ("reads the same in any order of files", {"images": by_listdir}),
    "reads hidden files": ("hidden files are no cases", {"images": with_hidden_files}),
    "gives paths from the working directory": ("reads the same from anywhere", {"case": relative_to_here}),
    "looks in the working directory": ("reads the same from anywhere", {"images": in_the_working_directory}),
    "opens its images": ("opens no image and writes nothing", {"case": opening_its_images}),
    "writes an index": ("opens no image and writes nothing", {"images": writing_an_index}),
    "moves the process": ("the process's settings stay as they are", {"images": moving_the_process}),
    "tests with a case that trains": ("test cases are no training cases", {"info": with_tests}),
    "tests with a file that trains": ("every file is one thing", {"info": with_tests}),
    "has a patient on both sides": ("splits part the patients", {"info": with_one_patient_everywhere}),
    "tests with a patient that trains": (
        "test cases are no training cases",
        {"info": with_a_patient_that_is_tested},
    ),
    "judges twice by the same": ("splits part the cases", {"info": judged_twice}),
    "names a case twice in a fold": ("splits part the cases", told(splits=(Split(("a", "a"), ("b",)),))),
    "gives a list of cases": (
        "says it in the contract's types",
        {"info": lambda self, cases: replace(Layout.info(self, cases), cases=cases)},
    ),
    "gives cases once": (
        "says it in the contract's types",
        {"info": lambda self, cases: replace(Layout.info(self, cases), cases=iter(cases))},
    ),
    "gives paths as text": ("says it in the contract's types", of_cases(as_text)),
    "has no channels": ("says it in the contract's types", told(channels=())),
    "has a channel twice": ("says it in the contract's types", told(channels=("T1", "T1"))),
    "has one file for two channels": (
        "every file is one thing",
        {
            "info": lambda self, cases: replace(
                Layout.info(self, [replace(c, images=c.images * 2) for c in cases]), channels=("T1", "T2")
            )
        },
    ),
    "has a case without images": ("channels have files", of_cases(lambda case: replace(case, images=()))),
    "has a test without images": ("channels have files", told(test_cases=(Case("t", ()),))),
    "has values that are no numbers": (
        "labels have values of their own",
        told(labels={"background": 0, "liver": 1.0}),
    ),
    "has the value True": ("labels have values of their own", told(labels={"background": 0, "liver": True})),
    "has a region of nothing": (
        "labels have values of their own",
        told(labels={"background": 0, "liver": ()}, region_order=(1,)),
    ),
    "ignores a value of a region": (
        "ignored voxels have a value of their own",
        told(labels={"background": 0, "liver": (1, 2)}, region_order=(1,), ignore=2),
    ),
    "ignores a negative value": ("ignored voxels have a value of their own", told(ignore=-1)),
    "names cases by paths": (
        "cases have names of their own",
        of_cases(lambda case: replace(case, name=f"x/{case.name}")),
    ),
    "names cases with line ends": (
        "cases have names of their own",
        of_cases(lambda case: replace(case, name=f"{case.name}\r")),
    ),
    "names tests by paths": (
        "cases have names of their own",
        told(test_cases=(Case("../t", (Path("t.nii"),)),)),
    ),
    "names a region's value twice in the order": (
        "labels have values of their own",
        told(labels={"background": 0, "whole": (1, 2), "core": (2,)}, region_order=(1, 1)),
    ),
}


@each(FAULTS)
def test_a_faulty_dataset_is_caught(fault, scans):
    check, members = fault
    assert check in failed(check_dataset, planted(Layout, **members)(root=scans))
