import json
from dataclasses import replace
from math import prod

import pytest
from pydantic import ValidationError

from medfuse.api import DatasetInfo, ImageInfo
from medfuse.core.errors import DataError
from medfuse.core.topology import plan_strides, total_stride
from medfuse.data.fingerprint import CaseFacts, ChannelFacts, Fingerprint
from medfuse.data.plan import (
    PATCH_VOXELS,
    Advice,
    DataPlan,
    Normalization,
    counted_inputs,
    make_plan,
    plan_batch,
    plan_patch,
)
from medfuse.data.plan_facts import read_plan
from medfuse.data.settings import PreprocessSettings, SampleSettings
from medfuse.pipeline import problems_of


def planned(cases, channel="MR", zeros=0.0, preprocess=None, sample=None, labels=None):
    """A plan for cases given as (shape, spacing)."""
    facts = tuple(CaseFacts(str(i), shape, spacing, {}, {}) for i, (shape, spacing) in enumerate(cases))
    fingerprint = Fingerprint(facts, (ChannelFacts(channel, -100.0, 40.0, 200.0, 50.0, 25.0, zeros),))
    info = DatasetInfo((), labels or {"background": 0, "organ": 1}, (channel,))
    return make_plan(fingerprint, info, preprocess or PreprocessSettings(), sample or SampleSettings())


SMALL = ((35, 50, 36), (1.0, 1.0, 1.0))
THICK = ((160, 160, 26), (0.8, 0.8, 5.0))


def test_a_plan_reads_back_from_json():
    plan = planned([SMALL])
    assert DataPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_patch_covers_a_small_case_in_multiples_of_8():
    assert planned([SMALL]).patch_size == (40, 56, 40)


def test_a_large_case_gets_a_patch_within_the_voxel_budget():
    x, y, z = planned([((512, 512, 512), (1.0, 1.0, 1.0))]).patch_size
    assert (x, y, z) == (64, 64, 64)
    assert x * y * z <= PATCH_VOXELS


def test_the_coarse_axis_is_halved_less_often():
    x, y, z = planned([THICK]).patch_size
    assert x % 8 == y % 8 == 0
    assert z % 2 == 0
    assert x > 2 * z


def test_spacing_is_the_median():
    cases = [((40, 40, 40), (s, s, s)) for s in (1.0, 1.5, 4.0)]
    assert planned(cases).spacing_mm == (1.5, 1.5, 1.5)


def test_a_coarse_axis_takes_a_finer_spacing_than_the_median():
    cases = [((160, 160, 26), (0.8, 0.8, z)) for z in (2.0, 5.0, 5.0)]
    assert planned(cases).spacing_mm == (0.8, 0.8, pytest.approx(2.6))


def test_ct_is_clipped_and_standardised_with_the_datasets_numbers():
    (how,) = planned([SMALL], channel="CT").normalization
    assert (how.kind, how.lower, how.upper, how.mean, how.std) == ("ct", -100, 200, 50, 25)


@pytest.mark.parametrize(("zeros", "kind"), [(0.1, "zscore"), (0.3, "nonzero_zscore")])
def test_mr_is_scaled_per_volume(zeros, kind):
    assert planned([SMALL], zeros=zeros).normalization[0].kind == kind


def scaled(normalize, *channels: str, advice: Advice | None = None) -> DataPlan:
    facts = (CaseFacts("a", *SMALL, {}, {}),)
    fingerprint = Fingerprint(facts, tuple(ChannelFacts(c, -100.0, 40, 200.0, 50, 25, 0.0) for c in channels))
    info = DatasetInfo((), {"background": 0, "organ": 1}, channels)
    preprocess = PreprocessSettings.model_validate({"normalize": normalize})
    return make_plan(fingerprint, info, preprocess, SampleSettings(), advice)


LUNG, SOFT, BONE = (-1350.0, 150.0), (-160.0, 240.0), (-500.0, 1300.0)


@pytest.mark.parametrize(
    ("normalize", "channel", "expected"),
    [
        ("unit", "CT", Normalization.window(-100, 200)),
        ("unit", "MR", Normalization("unit")),
        ("symmetric", "CT", Normalization("symmetric")),
        ("symmetric", "MR", Normalization("symmetric")),
        ({"window": [-175, 250]}, "CT", Normalization.window(-175, 250)),
        ({"window": [-175, 250]}, "scan", Normalization.window(-175, 250)),
        ("window", "CT", Normalization.window(*SOFT)),
        ("windows", "CT", Normalization("windows", windows=(LUNG, SOFT, BONE))),
        ({"windows": [[0, 80]]}, "CT", Normalization("windows", windows=((0, 80),))),
    ],
)
def test_presets_are_scaled_as_they_say(normalize, channel, expected):
    plan = scaled(normalize, channel)
    assert plan.normalization == (expected,)
    assert plan.image.channels == len(expected.inputs) == counted_inputs((channel,), normalize_of(normalize))
    assert DataPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert read_plan(json.loads(json.dumps(plan.to_json())), "w", raises=DataError, remedy="") == plan


@pytest.mark.parametrize(
    ("normalize", "channels"),
    [
        ("ct", ("CT", "MR")),
        ("zscore", ("CT",)),
        ("none", ("MR",)),
        ("unit", ("MR",)),
        ("unit", ("CT",)),
        ("symmetric", ("CT", "PET")),
        ("window", ("CT",)),
        ("windows", ("CT", "PET")),
        ({"window": [-175, 250]}, ("CT",)),
        ({"window": [-175, 250]}, ("PET", "CT")),
        ({"windows": [[0, 80], [-10, 5]]}, ("CT",)),
    ],
)
def test_a_plan_says_the_setting_that_scales_alike_on_other_data(normalize, channels):
    plan = scaled(normalize, *channels)
    assert scaled(plan.normalize, *channels).normalization == plan.normalization


def test_what_no_setting_scales_alike_is_left_to_auto():
    window = Normalization.window(0, 100)
    for each in ((window, window), (window, Normalization("zscore")), (window, Normalization.window(0, 9))):
        assert replace(scaled("unit", "CT", "PET"), normalization=each).normalize == "auto"
    assert (
        replace(scaled("unit", "CT", "PET"), normalization=(window, Normalization("unit"))).normalize
        != "auto"
    )


def normalize_of(value):
    return PreprocessSettings.model_validate({"normalize": value}).normalize


def test_of_several_channels_ct_alone_is_seen_through_windows():
    plan = scaled("windows", "PET", "CT")
    assert [how.kind for how in plan.normalization] == ["unit", "windows"]
    assert plan.image.channels == counted_inputs(("PET", "CT"), "windows") == 4


def test_advice_counts_where_auto_is_said_and_has_its_reason():
    advice = Advice("unit", "as the weights of encoder were trained")
    plan = scaled("auto", "MR", advice=advice)
    assert plan.normalization == (Normalization("unit"),)
    assert plan.reasons["normalize.MR"].startswith("as the weights of encoder were trained; 0.5 and 99.5")
    assert scaled("zscore", "MR", advice=advice).normalization == (Normalization("zscore"),)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"window": [240, -160]}, "240 is not below -160"),
        ({"windows": [[0, 1], [5, 5]]}, "5 is not below 5"),
        ({"windows": []}, "at least 1 item"),
        ({"window": [0]}, "required"),
        ({"window": [0, 1], "windows": [[0, 1]]}, "give one of window"),
        ({}, "give one of window"),
        ({"windo": [0, 1]}, "windo"),
        ("windoze", "'window'"),
        (3, "'window'"),
    ],
)
def test_what_is_no_preset_is_one_problem(value, words):
    with pytest.raises(ValidationError) as caught:
        PreprocessSettings.model_validate({"normalize": value})
    (problem, *_) = problems_of(caught.value, PreprocessSettings, {"normalize": value})
    assert words in f"{problem} {caught.value}"


def test_settings_come_before_auto_and_need_no_reason():
    plan = planned(
        [SMALL],
        preprocess=PreprocessSettings(spacing_mm=(2, 2, 2), normalize="none"),
        sample=SampleSettings(patch_size=(16, 24), batch_size=3),
    )
    assert (plan.spacing_mm, plan.patch_size, plan.batch_size) == ((2, 2, 2), (16, 24), 3)
    assert plan.normalization[0].kind == "none"
    assert not plan.reasons


def test_every_auto_value_has_a_reason():
    assert set(planned([SMALL]).reasons) == {"spacing_mm", "patch_size", "batch_size", "normalize.MR"}


def test_two_numbers_make_a_2d_network():
    image = planned([SMALL], sample=SampleSettings(patch_size=(32, 48))).image
    assert (image.dims, image.spacing_mm) == (2, (1.0, 1.0))


def test_classes_are_labels_in_order_of_value():
    plan = planned([SMALL], labels={"spleen": 7, "background": 0, "liver": 5})
    assert plan.values == (0, 5, 7)
    assert plan.classes == ("background", "liver", "spleen")


# ---- nnU-Net's rules


@pytest.mark.parametrize("most", [20**3, 50**3, 128**3])
@pytest.mark.parametrize(("shape", "spacing"), [SMALL, THICK, ((512, 512, 90), (0.7, 0.7, 3.0))])
def test_a_patch_keeps_its_budget_and_halves_without_rest(shape, spacing, most):
    patch = plan_patch(shape, spacing, most)
    strides = plan_strides(ImageInfo(1, patch, spacing))
    assert prod(patch) <= most or all(p - s < 8 for p, s in zip(patch, shape))
    assert all(n % step == 0 for n, step in zip(patch, total_stride(strides)))


def test_a_cut_patch_keeps_the_proportions_of_the_case():
    x, y, z = plan_patch((400, 200, 100), (1.0, 1.0, 1.0), 64**3)
    assert x > y > z
    assert x / z == pytest.approx(4, rel=0.35)


def test_a_patch_is_never_cut_below_what_a_network_needs():
    assert min(plan_patch((40, 40, 40), (1.0, 1.0, 1.0), 1)) >= 4


def test_a_flat_patch_has_two_sides():
    assert plan_patch((160, 100), (0.8, 0.8), 1e9) == (160, 112)


def test_a_batch_has_two_patches_at_least():
    assert plan_batch((64, 64, 64), (512, 512, 300), 100, 1)[0] == 2


def test_a_batch_sees_few_of_a_small_datasets_voxels():
    batch, reason = plan_batch((32, 32, 32), (32, 32, 32), 100, 1e9)
    assert batch == 5
    assert "5%" in reason


def test_a_batch_grows_to_what_a_step_may_have():
    assert plan_batch((32, 32, 32), (64, 64, 64), 1000, 7 * 32**3)[0] == 7
