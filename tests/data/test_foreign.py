"""Images of another kind than training saw are told of, a line for each kind; others are not."""

import json
from dataclasses import replace

import numpy as np
import pytest

from medfuse.api import Case
from medfuse.core.errors import CheckpointError
from medfuse.core.geometry import Geometry
from medfuse.core.prepared import Outlook
from medfuse.data.fingerprint import Fingerprint, take_fingerprint
from medfuse.data.foreign import foreign
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
    return "\n".join(foreign(plan, images).values())


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
    found = foreign(plan_of(VOLUMES), images)
    assert len(found) == 3
    assert all(": s0, s1, s2, … 17 more (20 of 20): " in line for line in found.values())


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
    assert not foreign(plan, [Preprocessor(plan).look(case) for case in cases])


def test_it_is_the_same_after_a_file(fingerprint) -> None:
    taken, plan, _ = fingerprint

    facts = json.loads(json.dumps(plan.to_json()))
    assert read_plan(facts, "w", raises=CheckpointError, remedy="") == plan
    assert Fingerprint.from_json(json.loads(json.dumps(taken.to_json()))) == taken


def test_a_fingerprint_of_before_says_nothing_of_values(fingerprint) -> None:
    taken, _, _ = fingerprint
    old = replace(taken, cases=tuple(replace(case, intensities=()) for case in taken.cases))
    assert Seen.of(old).values == ()
