"""What is odd about labels is said before training, and nothing is said of what is not."""

from pathlib import Path

import pytest

from medfuse.api import Case, DatasetInfo, Split
from medfuse.data.doubts import label_doubts, patch_doubts, plane_doubts, split_doubts, unlabelled_doubts
from medfuse.data.fingerprint import CaseFacts

SPLIT = Split(("a", "b"), ("c",))


def info(labels, region_order=(), names="abc", bare=""):
    cases = tuple(Case(n, (Path(n),), None if n in bare else Path(f"{n}.seg")) for n in names)
    return DatasetInfo(cases, {"background": 0, **labels}, ("CT",), region_order=region_order)


def said(labels, *, a, b, c, order=()):
    """What is said where these are the values of the label maps of cases a, b (training) and c (held out)."""
    facts = [CaseFacts(n, (9, 9, 9), (1.0, 1.0, 1.0), {}, {}, v) for n, v in zip("abc", (a, b, c))]
    return list(label_doubts(info(labels, order), facts, SPLIT))


def test_nothing_is_said_where_all_labels_are_on_both_sides():
    assert said({"liver": 1, "tumour": 2}, a=(0, 1), b=(0, 2), c=(0, 1, 2)) == []
    assert said({"whole": (1, 2), "core": (2,)}, a=(0, 1), b=(0, 2), c=(2,), order=(1, 2)) == []


def test_labels_that_no_label_map_holds_are_one_line():
    (line,) = said({"liver": 1, "b": 2, "c": 3}, a=(0, 1), b=(0, 1), c=(0, 1))
    assert line.startswith("warning: no label map holds b (2), c (3);")


@pytest.mark.parametrize(("side", "words"), [("a", "no held-out case"), ("c", "no training case")])
def test_a_label_on_one_side_alone_is_said(side, words):
    values = {"a": (0, 1), "b": (0, 1), "c": (0, 1)} | {side: (0, 1, 2)}
    (line,) = said({"liver": 1, "rare": 2}, **values)
    assert f"{words} holds rare (2)" in line


def test_a_region_is_there_where_one_of_its_values_is():
    labels = {"whole": (1, 2, 4), "core": (3,)}
    (line,) = said(labels, a=(0, 1, 3), b=(2,), c=(2, 3), order=(1, 3))
    assert "holds 4, which the region whole unites with others" in line
    lines = said(labels, a=(0, 3), b=(0, 3), c=(0, 3), order=(1, 3))
    assert len(lines) == 1
    assert "no label map holds whole (1, 2, 4)" in lines[0]


def test_labelled_cases_outside_a_split_are_named_or_counted():
    (line,) = split_doubts(info({"x": 1}, names="abcdefghijklmnopqrst", bare="t"), SPLIT)
    assert "16 labelled cases are in neither part" in line
    assert "d, e, f, g, h, i, j, k, l, m, n, o, … 4 more" in line
    assert list(split_doubts(info({"x": 1}, names="abcd", bare="d"), SPLIT)) == []


def sharing(label="a.seg", image="b"):
    """Cases a, b and c, of which b has another's label or image."""
    cases = Case("a", (Path("a"),), Path("a.seg")), Case("b", (Path(image),), Path(label))
    return DatasetInfo((*cases, Case("c", (Path("c"),), Path("c.seg"))), {"background": 0, "x": 1}, ("CT",))


@pytest.mark.parametrize(
    ("info", "file"),
    [(sharing(), "a.seg"), (sharing("d/../a.seg"), "a.seg"), (sharing("b.seg", "a"), "a")],
)
def test_a_file_of_two_cases_is_said_and_more_where_it_joins_both_sides(info, file):
    (line,) = split_doubts(info, SPLIT)
    assert (
        f"1 file is of several cases: {file} (a, b); give each its own, or leave it where this is meant"
        in line
    )
    (line,) = split_doubts(info, Split(("a",), ("b", "c")))
    assert f"1 file is of several cases: {file} (a, b)" in line
    assert line.endswith("as Dice now tells of what was learned")


def test_one_file_may_be_several_channels_of_a_case():
    case = Case("a", (Path("a"), Path("a"), Path("a")), Path("a.seg"))
    info = DatasetInfo((case,), {"background": 0, "x": 1}, ("R", "G", "B"))
    assert list(split_doubts(info, Split(("a",), ()))) == []


@pytest.mark.parametrize(
    ("classes", "patch", "lines"), [(8, (2, 2, 2), 0), (9, (2, 2, 2), 1), (5, (2, 2), 1)]
)
def test_more_classes_than_voxels_of_a_patch_are_said(classes, patch, lines):
    assert len(list(patch_doubts(classes, patch))) == lines


@pytest.mark.parametrize(
    ("shape", "patch", "said"),
    [
        ((1, 40, 40), (40, 40), "thin along x (a: 1 × 40 × 40)"),
        ((40, 1, 40), (40, 40), "thin along y (a: 40 × 1 × 40)"),
        ((1, 40, 40), (1, 40, 40), ""),
        ((40, 40, 1), (40, 40), ""),
    ],
)
def test_slices_that_a_network_of_two_axes_sees_as_lines_are_said(shape, patch, said):
    slices = [CaseFacts(name, shape, (1.0, 1.0, 1.0), {}, {}) for name in "abc"]
    lines = list(plane_doubts(patch, slices))
    assert len(lines) == bool(said)
    assert all(said in line for line in lines)
    volume = CaseFacts("d", (40, 40, 40), (1.0, 1.0, 1.0), {}, {})
    assert list(plane_doubts(patch, [*slices, volume])) == []


def test_scans_of_held_out_patients_that_pseudo_labels_learn_from_are_told():
    split = Split(("a",), ("b",))
    bare = [Case(name, (Path(name),), None, who) for name, who in (("x", "P1"), ("y", "P2"), ("z", None))]
    (line,) = unlabelled_doubts(bare, {"a": "P1", "b": "P2"}, split)
    assert "pseudo-labels learn from 1 case of held-out patients (y)" in line
    assert not [*unlabelled_doubts(bare, {"a": "P1", "b": "b"}, split)]
