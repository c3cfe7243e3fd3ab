"""Images of another kind than training saw are told of, a line for each kind; others are not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from medfuse.api import Case
from medfuse.core.errors import CheckpointError
from medfuse.core.geometry import Geometry
from medfuse.core.prepared import Outlook
from medfuse.data.fingerprint import Fingerprint, take_fingerprint
from medfuse.data.foreign import in_lines, strange, strange_values
from medfuse.data.images import limits_of
from medfuse.data.plan import DataPlan, Normalization, make_plan
from medfuse.data.plan_facts import read_plan
from medfuse.data.prepare import Preprocessor
from medfuse.data.seen import Seen
from medfuse.data.settings import PreprocessSettings, SampleSettings

CT = Normalization("ct", -100, 240, 60, 50)
VOLUMES = Seen(((0.6, 0.6, 1.0), (0.9, 0.9, 5.0)), ((512, 512, 40), (512, 512, 400)), ((-1024, 3071),))
PICTURES = Seen(((0.5, 0.5, 1.0), (0.5, 0.5, 1.0)), ((200, 200, 1), (400, 300, 1)), ((0, 255),))
NAMES = {"background": 0, "organ": 1}


def plan_of(seen: Seen | None, patch: tuple[int, ...] = (64, 64, 32), how: Normalization = CT) -> DataPlan:
    return DataPlan((0.8, 0.8, 2.5), patch, 2, ("CT",), (how,), NAMES, {}, seen=seen)


def image(shape=(512, 512, 90), spacing=(0.8, 0.8, 2.5), dtype=np.int16, name="a") -> Outlook:
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1])
    return Outlook(name, Geometry(shape, affine), (1, 9, 9, 9), 0, (limits_of(np.dtype(dtype)),))


def lines(plan: DataPlan, *images: Outlook) -> str:
    return "\n".join(told(plan, images).values())


def told(plan: DataPlan, images: Sequence[Outlook]) -> Mapping[str, str]:
    return in_lines({image.name: strange(plan, image) for image in images})


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize("spacing", [(0.6, 0.9, 5), (0.3, 0.3, 0.5), (1.5, 1.5, 10)])
def test_images_like_those_of_training_are_no_matter(spacing, dtype) -> None:
    assert not lines(plan_of(VOLUMES), image(spacing=spacing, dtype=dtype))


def test_single_slices_for_a_network_of_volumes_are_told() -> None:
    found = lines(plan_of(VOLUMES), image(), image((200, 300, 1), name="b"), image((90, 90, 1), name="c"))
    assert found == (
        "unlike the images of training: b, c (2 of 3): one voxel thin along z, where training saw 40 at "
        "least, so that labels will mean little"
    )
    assert "along x, where training saw 512" in lines(plan_of(VOLUMES), image((1, 300, 90)))
    assert "along z, where the network takes volumes" in lines(plan_of(None), image((200, 300, 1)))


def test_volumes_for_a_network_of_pictures_are_told() -> None:
    pictures = plan_of(PICTURES, (64, 64))
    found = lines(pictures, image(spacing=(0.5, 0.5, 3)))
    assert found.startswith("unlike the images of training: a: volumes, where training saw single slices")
    assert not lines(pictures, image((300, 200, 1), (0.5, 0.5, 1), np.uint8))


def test_a_network_of_slices_takes_volumes_and_slices_of_any_distance() -> None:
    for shape in ((512, 512, 90), (512, 512, 1)):
        assert not lines(plan_of(VOLUMES, (64, 64)), image(shape, (0.8, 0.8, 30)))


@pytest.mark.parametrize("times", [3, 10, 1000, 1 / 3, 0.001])
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("seen", [VOLUMES, None])
def test_a_spacing_several_times_off_is_told(times: float, axis: int, seen: Seen | None) -> None:
    plan = plan_of(seen)
    ends = seen.spacing_mm if seen else (plan.spacing_mm, plan.spacing_mm)
    spacing = [0.8, 0.8, 2.5]
    spacing[axis] = ends[int(times > 1)][axis] * times
    found = lines(plan, image(spacing=spacing))
    assert f"a spacing of {spacing[axis]:.3g} mm along {'xyz'[axis]}, where training saw" in found


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16])
def test_numbers_too_short_for_the_values_of_training_are_told(dtype) -> None:
    assert "where CT had -1024 to 3071 in training" in lines(plan_of(VOLUMES), image(dtype=dtype))


def test_numbers_are_no_matter_where_a_channel_is_scaled_by_its_own_or_was_like_them() -> None:
    byte = image(dtype=np.uint8)
    assert not lines(plan_of(VOLUMES, how=Normalization("zscore")), byte)
    assert not lines(plan_of(replace(VOLUMES, values=((0, 255),))), byte)
    assert not lines(plan_of(replace(VOLUMES, values=((-3, 250),))), byte)
    assert not lines(plan_of(None), byte)


def test_a_kind_is_one_line_however_many_images_are_of_it() -> None:
    images = [image((90, 90, 1), (9, 9, 1), np.uint8, name=f"s{n}") for n in range(20)]
    found = told(plan_of(VOLUMES), images)
    assert len(found) == 3
    assert all(": s0, s1, s2, … 17 more (20 of 20): " in line for line in found.values())


CT_PERCENTS = ((-1024, -1000, -900, -300, 40, 130, 300), (-1000, -990, -200, 30, 60, 200, 900))
MR_SHAPES = ((0.2, 0.1, 0.2), (0.4, 0.2, 0.9))
KNOWING = replace(
    VOLUMES,
    cases=20,
    extent_mm=((250, 250, 200), (450, 450, 600)),
    modalities=(("CT",),),
    oblique_degrees=3.0,
    planes=("z",),
    percentiles=(CT_PERCENTS,),
    shapes=(MR_SHAPES,),
)
SOUND_CT = (-1010, -995, -600, -100, 50, 180, 500)


def said(*profile: float, how: Normalization = CT, seen: Seen = KNOWING) -> str:
    return strange_values(plan_of(seen, how=how), [profile]).get("intensities", "")


def test_values_like_those_of_training_are_no_matter() -> None:
    assert not said(*SOUND_CT)
    assert not said(*CT_PERCENTS[0])
    assert not said(*CT_PERCENTS[1])


@pytest.mark.parametrize(
    "of",
    [lambda v: v + 1024, lambda v: (v + 1024) / 4000, lambda v: (v + 1024) / 16, lambda v: v % 65536],
    ids=["offset", "scaled", "byte", "wrapped"],
)
def test_ct_in_other_units_is_told_with_the_number_and_the_range(of) -> None:
    found = said(*sorted(map(of, SOUND_CT)))
    assert "CT" in found
    assert ", where training saw " in found
    assert " HU" in found


@pytest.mark.parametrize("gain", [1e-3, 1, 1e4])
def test_the_unit_of_a_channel_that_is_scaled_by_its_own_is_no_matter(gain) -> None:
    own = Normalization("zscore")
    mr = (0, 1, 2, 4, 6, 11, 15)
    assert not said(*(gain * v for v in mr), how=own)
    assert "spread otherwise" in said(*(gain * v for v in (0, 4, 9, 10, 10.5, 11, 11.2)), how=own)
    assert not said(*(gain for _ in mr), how=own)


def test_ct_for_a_network_of_mr_is_told() -> None:
    assert "as CT does" in said(
        *SOUND_CT, how=Normalization("zscore"), seen=replace(KNOWING, values=((0, 999),))
    )


def test_older_weights_say_nothing_of_what_they_do_not_know() -> None:
    assert not said(*(v + 5000 for v in SOUND_CT), seen=VOLUMES)
    assert not strange_values(plan_of(None), [SOUND_CT])
    wide = replace(image((512, 512, 90), (5, 5, 3)), modalities=("MR",))
    assert {*strange(plan_of(VOLUMES), wide)} == {"modality", "spacing"}  # names of channels they do know


def test_another_modality_is_told_by_dicom_or_by_the_name_of_the_channel() -> None:
    mr = replace(image(), modalities=("MR",))
    assert "its modality is MR, where training saw CT" in lines(plan_of(KNOWING), mr)
    for unsaid in (replace(KNOWING, modalities=()), VOLUMES, None):  # older weights, and those from elsewhere
        assert "its modality is MR, where training saw CT" in lines(plan_of(unsaid), mr)
    for fine in (replace(image(), modalities=("CT",)), replace(image(), modalities=("",)), image()):
        assert not lines(plan_of(KNOWING), fine)


@pytest.mark.parametrize(
    ("shape", "axis"), [((200, 512, 120), "x"), ((512, 512, 20), "z"), ((512, 512, 600), "z")]
)
def test_a_field_of_view_of_another_size_is_told(shape, axis) -> None:
    found = lines(plan_of(KNOWING), image(shape, (0.6, 0.6, 2.5)))
    assert f"mm along {axis}, where training saw 2" in found


def test_slices_in_another_plane_and_turned_grids_are_told() -> None:
    sagittal = image((150, 512, 400), (1.8, 0.8, 0.85))
    assert "slices across x, where training saw slices across z" in lines(plan_of(KNOWING), sagittal)
    assert not lines(plan_of(replace(KNOWING, planes=("", "z"))), sagittal)
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    plain = image()
    turned = replace(plain, geometry=Geometry(plain.geometry.shape, turn @ plain.geometry.affine))
    assert "turned by 37 degrees against the patient's, where training saw 3" in lines(
        plan_of(KNOWING), turned
    )
    assert not lines(plan_of(replace(KNOWING, oblique_degrees=30.0)), turned)


def test_what_a_header_has_wrong_is_told_once() -> None:
    """A wrong spacing makes a wrong extent too."""
    assert {*strange(plan_of(KNOWING), image(spacing=(8, 8, 25)))} == {"spacing"}


@pytest.fixture
def fingerprint(make_case, info_of) -> tuple[Fingerprint, DataPlan, list[Case]]:
    cases = [make_case("a"), make_case("bb", (8, 9, 20), (1, 2, 3))]
    info = info_of(*cases)
    taken = take_fingerprint(cases, info, tolerance_mm=1e-3, progress=lambda *_: None)
    return taken, make_plan(taken, info, PreprocessSettings(), SampleSettings()), cases


def test_a_plan_knows_what_its_cases_were_like(fingerprint) -> None:
    _, plan, cases = fingerprint
    assert plan.seen.spacing_mm == ((1, 1, 1), (1, 2, 3))
    assert plan.seen.shape == ((8, 9, 10), (8, 9, 20))
    ((least, most),) = plan.seen.values
    assert least < 80 < 120 < most
    assert not told(plan, [Preprocessor(plan).look(case) for case in cases])


def test_it_is_the_same_after_a_file(fingerprint) -> None:
    taken, plan, _ = fingerprint

    facts = json.loads(json.dumps(plan.to_json()))
    assert read_plan(facts, "w", raises=CheckpointError, remedy="") == plan
    assert Fingerprint.from_json(json.loads(json.dumps(taken.to_json()))) == taken


def test_a_fingerprint_of_before_says_nothing_of_values(fingerprint) -> None:
    taken, _, _ = fingerprint
    old = replace(taken, cases=tuple(replace(case, intensities=()) for case in taken.cases))
    assert Seen.of(old).values == ()
