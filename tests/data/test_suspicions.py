"""What is suspicious about a dataset is said with its numbers, and nothing is said of what is sound."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medfuse.api import Case, DatasetInfo, Split
from medfuse.data.detect import detect
from medfuse.data.doubts import label_doubts
from medfuse.data.fingerprint import CaseFacts, Fingerprint, take_fingerprint
from medfuse.data.plan import Normalization, target_spacing
from medfuse.data.suspicions import suspicions

NAMES = [f"c{i:02d}" for i in range(12)]
SAMPLE_DATA = Path(__file__).parents[2] / "sample_data"


def facts(name, shape=(200, 200, 40), spacing=(0.8, 0.8, 3.0), organ=200.0, **more) -> CaseFacts:
    """A CT of 160 mm in which `organ` takes so many millilitres."""
    more = {"intensities": ((-1024.0, 2000.0),), "medians": (60.0,)} | more
    files = {f"{name}.nii": more.pop("digest", f"image of {name}"), f"{name}.seg.nii": "same"}
    return CaseFacts(name, shape, spacing, {"background": 0.0, "organ": organ}, files, **more)


def info_of(cases, labels=None, channels=("CT",), patients=None) -> DatasetInfo:
    listed = (
        Case(c.name, (Path(f"{c.name}.nii"),), Path(f"{c.name}.seg.nii"), (patients or {}).get(c.name))
        for c in cases
    )
    return DatasetInfo(tuple(listed), {"background": 0, **(labels or {"organ": 1})}, channels)


def found(cases, *, spacing=(0.8, 0.8, 3.0), info=None, **more) -> dict[str, str]:
    """Kind → line; no kind is said twice here."""
    said = suspicions(Fingerprint(tuple(cases), ()), info or info_of(cases), spacing, **more)
    assert len({s.kind for s in said}) == len(said)
    assert all(s.line.startswith(("warning: ", "note: ")) for s in said)
    return {s.kind: s.line for s in said}


def all_of(change=lambda i: {}) -> list[CaseFacts]:
    return [facts(name, **change(i)) for i, name in enumerate(NAMES)]


def test_nothing_is_said_of_cases_that_differ_as_cases_do():
    random = np.random.default_rng(1)

    def change(i):
        return {
            "shape": tuple(int(n) for n in random.integers((180, 180, 34), (230, 230, 48))),
            "spacing": (*2 * (float(random.uniform(0.7, 0.9)),), float(random.choice([2.5, 3.0]))),
            "organ": float(random.uniform(100, 300)),
            "intensities": ((float(random.uniform(-3024, -900)), float(random.uniform(900, 30000))),),
            "medians": (float(random.uniform(20, 120)),),
        }

    assert found(all_of(change)) == {}


@pytest.mark.parametrize("side", [1.0, 1.00002, 10.0, 0.001])
@pytest.mark.parametrize("depth", [10, 90])
def test_one_spacing_for_sizes_that_differ_twofold_was_lost(side, depth):
    voxels_ml = side**3 * 128 * 128 * 10 / 1000
    cases = all_of(
        lambda i: {
            "shape": (128 + 12 * i, 128 + 12 * i, depth),
            "spacing": (side,) * 3,
            "organ": 0.5 * voxels_ml,
        }
    )
    said = found(cases, spacing=(side,) * 3)
    assert said.keys() == {"lost_spacing"}
    assert f"sizes go from 128×128×{depth} to 260×260×{depth} voxels" in said["lost_spacing"]
    assert "augment.scale_range" in said["lost_spacing"]


def test_one_spacing_is_believed_of_like_sizes_along_two_axes_and_where_it_is_no_default():
    assert found(all_of(lambda i: {"shape": (150, 160, 150 + i), "spacing": (1, 1, 1)})) == {}
    longer = found(all_of(lambda i: {"shape": (150, 160, 150 + 30 * i), "spacing": (1, 1, 1)}))
    assert longer.keys() == {"fields_of_view"}
    larger = all_of(lambda i: {"shape": 3 * (100 + 20 * i,), "spacing": (1.5, 1.5, 1.5)})
    assert found(larger, spacing=(1.5, 1.5, 1.5)).keys() == {"fields_of_view"}


def test_one_odd_case_of_many_loses_no_spacing_and_two_do():
    def sizes(odd):
        return [facts(f"m{i}", (180 if i >= odd else 400,) * 2 + (160,), (1, 1, 1)) for i in range(60)]

    assert "lost_spacing" not in found(sizes(1))
    assert "lost_spacing" in found(sizes(2))


def test_pixels_may_have_lost_their_size_where_slices_have_a_distance():
    cases = all_of(lambda i: {"shape": (128 + 12 * i, 128 + 12 * i, 10), "spacing": (1, 1, 8.0)})
    said = found(cases, spacing=(1, 1, 8))
    assert said.keys() == {"lost_spacing"}
    assert "a spacing of 1 × 1 × 8 mm" in said["lost_spacing"]
    true = [replace(case, spacing_mm=(0.9, 0.9, 8.0)) for case in cases]
    assert found(true, spacing=(0.9, 0.9, 8)).keys() == {"fields_of_view"}


def test_pictures_of_many_sizes_without_a_size_of_a_pixel_are_told_how_to_give_it():
    cases = all_of(lambda i: {"shape": (300 + 60 * i, 200 + 40 * i, 1), "spacing": (1, 1, 1), "organ": 9.0})
    said = found(cases, spacing=(1, 1, 1))
    assert said.keys() == {"lost_spacing"}
    assert "preprocess.pixel_mm" in said["lost_spacing"]


def test_a_spacing_that_some_have_lost_is_told_by_what_like_cases_have():
    cases = all_of(lambda i: {"spacing": (1, 1, 1) if i < 2 else (0.8, 0.8, 3)})
    said = found(cases)
    assert said.keys() == {"lost_spacing"}
    assert "2 of 12 cases (c00, c01) have a spacing of 1 × 1 × 1 mm" in said["lost_spacing"]
    assert "have 0.8 × 0.8 × 3;" in said["lost_spacing"]


def test_cases_that_are_finer_in_truth_have_more_voxels():
    fine = {"spacing": (1, 1, 1), "shape": (160, 160, 120)}
    assert found(all_of(lambda i: fine if i < 2 else {})) == {}


def test_slices_without_a_distance_are_told():
    said = found(all_of(lambda i: {"shape": (256, 230, 9 + i % 3), "spacing": (1, 1, 1)}), spacing=(1, 1, 1))
    assert said.keys() == {"lost_distance"}
    assert "10 mm of a body that is 230 mm wide" in said["lost_distance"]


@pytest.mark.parametrize("axis", range(3))
def test_fields_of_view_that_differ_are_told_along_their_axis(axis):
    def change(i):
        shape = [200, 200, 60]
        shape[axis] *= 1 + i % 2
        return {"shape": tuple(shape)}

    said = found(all_of(change))
    assert said.keys() == {"fields_of_view"}
    mm = ("160 to 320", "160 to 320", "180 to 360")[axis]
    assert f"{mm} mm along {'xyz'[axis]} (5th" in said["fields_of_view"]


def test_a_spacing_that_makes_up_for_size_leaves_the_field_of_view():
    wide = {"shape": (400, 400, 80), "spacing": (0.4, 0.4, 1.5)}
    assert found(all_of(lambda i: wide if i % 2 else {})) == {}


def test_stacks_in_several_planes_are_told():
    sagittal = {"shape": (40, 200, 200), "spacing": (3.0, 0.8, 0.8)}
    said = found(all_of(lambda i: sagittal if i == 5 else {}))
    assert said.keys() == {"orientations"}
    assert "across z in 11 (c00, c01, c02, … 8 more), across x in 1 (c05)" in said["orientations"]
    cubes = {"shape": (180, 180, 130), "spacing": (0.9, 0.9, 0.9)}
    assert found(all_of(lambda i: cubes if i == 5 else {})) == {}


def test_single_slices_among_volumes_are_told_and_slices_alone_are_not():
    flat = {"shape": (200, 200, 1), "organ": 9.0}
    said = found(all_of(lambda i: flat if i < 2 else {}))
    assert said.keys() == {"single_slices"}
    assert "2 of 12 cases (c00, c01) have one voxel along z" in said["single_slices"]
    assert found(all_of(lambda i: flat)) == {}


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        ({"intensities": ((0.0, 3095.0),), "medians": (1084.0,)}, "as if 1024 were added in 2 of 12"),
        ({"intensities": ((0.0, 1.0),), "medians": (0.4,)}, "a scale of its own in 2 of 12"),
        ({"intensities": ((-2.1, 9.5),), "medians": (0.1,)}, "a scale of its own in 2 of 12"),
        ({"intensities": ((0.0, 255.0),), "medians": (140.0,)}, "a byte's scale in 2 of 12"),
        ({"intensities": ((0.0, 170.0),), "medians": (67.0,)}, "a byte's scale in 2 of 12"),
    ],
)
def test_a_ct_in_other_units_is_told_with_its_kind(odd, word):
    said = found(all_of(lambda i: odd if i in (3, 4) else {}))
    assert said.keys() == {"units"}
    assert word in said["units"]
    assert "Hounsfield units in 10 of 12 (c00, c01, c02, … 7 more; -1,024 to 2,000 in c00)" in said["units"]
    assert "bring them to the units of the others" in said["units"]
    assert found(all_of(lambda i: odd)) == {}  # of one kind, whatever it is


def test_air_in_most_cases_is_ct_whatever_the_channel_is_called():
    shifted = {"intensities": ((0.0, 3095.0),), "medians": (1084.0,)}
    cases = all_of(lambda i: shifted if i == 0 else {})
    said = found(cases, info=info_of(cases, channels=("channel_0",)))
    assert "as if 1024 were added in 1 of 12 (c00; 0 to 3,095)" in said["units"]
    assert said["units"].startswith("note: channel_0 is")


def test_a_crop_of_bone_is_in_hounsfield_units_as_well():
    bone = {"intensities": ((-10.0, 1900.0),), "medians": (420.0,)}
    assert found(all_of(lambda i: bone if i < 2 else {})) == {}


def test_brains_without_their_skull_are_in_hounsfield_units_as_well():
    brain = {"intensities": ((0.0, 170.0),), "medians": (35.0,)}
    calcified = {"intensities": ((0.0, 900.0),), "medians": (36.0,)}
    assert found(all_of(lambda i: calcified if i < 2 else brain)) == {}


def mr(low, high, median):
    return {"intensities": ((float(low), float(high)),), "medians": (float(median),)}


def test_channels_scaled_by_a_thousand_are_told_with_what_is_done():
    cases = all_of(lambda i: mr(0, 9e5, 3e5) if i == 3 else mr(0, 800 + 100 * i, 300))
    info = info_of(cases, channels=("T2",))
    said = found(cases, info=info)
    assert said.keys() == {"units"}
    assert said["units"].startswith("note: T2 is in other units")
    assert "0 to 800 in c00, 0 to 900,000 in c03; each volume is scaled by its own numbers" in said["units"]
    fixed = found(cases, info=info, normalization=(Normalization("none"),))
    assert fixed["units"].startswith("warning: T2 is in other units")
    assert "scaled by the same numbers" in fixed["units"]


@pytest.mark.parametrize("odd", [mr(0, 9e5, 290), mr(0, 9000, 4000)])
def test_bright_voxels_and_the_gain_of_a_scanner_are_no_other_unit(odd):
    cases = all_of(lambda i: odd if i == 3 else mr(0, 800, 300))
    assert found(cases, info=info_of(cases, channels=("T2",))) == {}


def test_only_the_channel_in_other_units_is_named_and_none_without_numbers():
    both = {"intensities": ((0.0, 900.0), (0.0, 700.0)), "medians": (300.0, 200.0)}
    odd = {"intensities": ((0.0, 900.0), (0.0, 0.7)), "medians": (300.0, 0.2)}
    cases = all_of(lambda i: odd if i == 3 else both)
    said = found(cases, info=info_of(cases, channels=("T1", "T2")))
    assert said["units"].startswith("note: T2 is in other units")
    assert found(all_of(lambda i: {"intensities": (), "medians": ()})) == {}


def test_copies_of_an_image_are_told_and_more_where_they_join_both_sides():
    cases = all_of(lambda i: {"digest": "one"} if i in (2, 7) else {})
    said = found(cases)
    assert said.keys() == {"duplicates"}
    assert "the same, byte for byte: c02 = c07; keep one of each" in said["duplicates"]
    apart = Split(tuple(n for n in NAMES if n != "c07"), ("c07",))
    assert "some of them train and their copies judge" in found(cases, split=apart)["duplicates"]
    together = Split(tuple(NAMES[1:]), ("c00",))
    assert "some of them train" not in found(cases, split=together)["duplicates"]
    many = found(all_of(lambda i: {"digest": "one"}))["duplicates"]
    assert "c00 = c01 = c02 = c03 = c04 = c05 = … 6 more; keep" in many


def test_equal_label_maps_and_a_file_that_two_cases_share_are_no_copies():
    cases = all_of(lambda i: {"digest": "one"} if i < 2 else {})
    shared = [replace(c, files={"c00.nii": "one"}) if c.name in ("c00", "c01") else c for c in cases]
    info = info_of(cases)
    both = tuple(replace(c, images=(Path("x/../c00.nii"),)) if c.name == "c01" else c for c in info.cases)
    assert found(shared, info=replace(info, cases=both)) == {}


def test_a_structure_of_a_few_voxels_of_the_planned_spacing_is_tiny():
    cases = all_of(lambda i: {"organ": 0.05, "shape": (400, 400, 240), "spacing": (0.4, 0.4, 0.5)})
    said = found(cases, spacing=(2, 2, 2))
    assert said.keys() == {"tiny"}
    assert "takes 6.2 voxels of 2 × 2 × 2 mm" in said["tiny"]
    assert "the files have about 0.4 × 0.4 × 0.5 mm" in said["tiny"]
    assert found(cases, spacing=(0.4, 0.4, 0.5)) == {}


def test_pieces_thinner_than_a_slice_are_tiny_however_many_they_are():
    lesions = all_of(lambda i: {"organ": 20.0, "pieces_ml": {"organ": 0.005}})
    assert "its pieces are about 2.1 mm thick, less than a voxel is long" in found(lesions)["tiny"]
    assert "tiny" not in found(all_of(lambda i: {"organ": 20.0, "pieces_ml": {"organ": 0.5}}))


def test_a_structure_thinner_than_a_slice_is_tiny_and_no_plan_helps():
    said = found(all_of(lambda i: {"organ": 0.1, "spacing": (0.8, 0.8, 8.0)}), spacing=(0.8, 0.8, 8.0))
    assert "is about 5.8 mm thick, less than a voxel is long; the files are no finer" in said["tiny"]


def test_a_label_that_covers_everything_is_told():
    all_ml = 200 * 200 * 40 * 0.8 * 0.8 * 3 / 1000
    said = found(all_of(lambda i: {"organ": 0.99 * all_ml}))
    assert said.keys() == {"covering"}
    assert "organ covers 99% of the voxels" in said["covering"]
    assert found(all_of(lambda i: {"organ": 0.9 * all_ml})) == {}


def with_rare(*held):
    return [replace(c, volumes_ml={**c.volumes_ml, "rare": 5.0 * (c.name in held)}) for c in all_of()]


LABELS = {"organ": 1, "rare": 2}


@pytest.mark.parametrize(
    ("held", "means"),
    [
        (["c03"], "it can be learned or judged, not both"),
        (["c03", "c08"], "of 5 folds 3 have none to judge by"),
    ],
)
def test_a_label_of_few_cases_is_rare(held, means):
    cases = with_rare(*held)
    said = found(cases, info=info_of(cases, LABELS))
    assert said.keys() == {"rare"}
    assert f"rare is in {len(held)} of 12 cases ({', '.join(held)}): {means};" in said["rare"]


def test_a_label_of_one_patient_is_rare_and_one_of_five_is_not():
    cases = with_rare(*NAMES[:5])
    info = info_of(cases, LABELS)
    assert found(cases, info=info) == {}
    one = info_of(cases, LABELS, patients=dict.fromkeys(NAMES[:5], "p"))
    assert "all of one patient" in found(cases, info=one)["rare"]


@pytest.mark.parametrize("held", [["c03"], ["c00"], ["c00", "c03"], ["c03", "c08"]])
def test_a_rare_label_is_said_once_by_a_run(held):
    cases, split = with_rare(*held), Split(tuple(NAMES[3:]), tuple(NAMES[:3]))
    values = [replace(c, values=(0, 1, 2) if c.name in held else (0, 1)) for c in cases]
    info = info_of(cases, LABELS)
    said = [*label_doubts(info, values, split), *found(values, info=info, split=split).values()]
    assert len([line for line in said if "rare" in line]) == 1


def test_a_sample_does_not_tell_what_is_rare_nor_what_is_nowhere():
    cases = with_rare("c03")
    info = info_of([*cases, facts("c99")], {**LABELS, "lost": 3})
    assert found(cases, info=info) == {}
    everyone = (*NAMES, "c99")
    lines = list(label_doubts(info, [replace(c, values=(0, 1, 2)) for c in cases], Split(everyone, everyone)))
    assert len(lines) == 1
    assert "none of the 12 label maps that were looked at holds lost (3)" in lines[0]
    assert "look whether others do" in lines[0]


def test_few_cases_are_told_with_what_their_dice_is_worth():
    few = all_of()[:6]
    assert "6 labelled cases: Dice of 1 held-out case is known to about ± 0.2;" in found(few)["few_cases"]
    split = Split(tuple(NAMES[:2]), tuple(NAMES[2:6]))
    assert "Dice of 4 held-out cases is known to about ± 0.1;" in found(few, split=split)["few_cases"]
    assert found(few, split=Split(tuple(NAMES[:6]), ())) == {}
    cases = all_of()
    two = info_of(cases, patients={name: "ab"[i % 2] for i, name in enumerate(NAMES)})
    assert (
        "12 labelled cases of 2 patients: Dice of 1 held-out patient" in found(cases, info=two)["few_cases"]
    )


def suspected(folder: Path) -> dict[str, str]:
    info = detect(folder).info
    labelled = [case for case in info.cases if case.label]
    fingerprint = take_fingerprint(labelled, info, tolerance_mm=1e-3, progress=lambda *_: None)
    spacing, _ = target_spacing(fingerprint)
    said = suspicions(fingerprint, info, spacing)
    kept = Fingerprint.from_json(json.loads(json.dumps(fingerprint.to_json())))
    assert suspicions(kept, info, spacing) == said
    return {s.kind: s.line for s in said}


@pytest.mark.parametrize(("name", "true"), [("hippocampus", {"units"}), ("ms_lesions", {"few_cases"})])
@pytest.mark.slow
def test_of_sound_data_only_what_is_true_is_said(real_data, name, true):
    assert suspected(real_data / name).keys() == true


def test_nothing_is_said_of_the_phantoms():
    assert suspected(SAMPLE_DATA) == {}
