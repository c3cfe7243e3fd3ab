import json

import pytest

from medfuse.api import DatasetInfo
from medfuse.data.fingerprint import CaseFacts, ChannelFacts, Fingerprint
from medfuse.data.plan import PATCH_VOXELS, DataPlan, make_plan
from medfuse.data.settings import PreprocessSettings, SampleSettings


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
