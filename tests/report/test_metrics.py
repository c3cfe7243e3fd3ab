from dataclasses import replace

import numpy as np
import pytest

from medfuse.report.metrics import (
    CaseMetrics,
    case_metrics,
    dice_per_class,
    dice_per_region,
    mean_foreground_dice,
)
from medfuse.volumes.read import read_labels

MM = (1.0, 1.0, 1.0)


def line(*voxels: int) -> np.ndarray:
    array = np.zeros((5, 1, 1), np.uint8)
    array[list(voxels)] = 1
    return array


def one(prediction: np.ndarray, reference: np.ndarray, spacing=MM, **settings: float) -> CaseMetrics:
    return case_metrics(prediction, reference, {"background": 0, "organ": 1}, spacing, **settings)["organ"]


def test_dice_of_three_voxels_can_be_counted():
    found = one(line(0, 1), line(1, 2, 3))
    assert found.dice == pytest.approx(2 * 1 / 5)
    assert found.iou == pytest.approx(1 / 4)


def test_counts_add_up_to_the_volume():
    found = one(line(0, 1), line(1, 2, 3))
    assert (found.tp, found.fp, found.fn, found.tn) == (1, 1, 2, 1)
    assert (found.n_pred, found.n_ref) == (2, 3)


def test_volume_error_is_prediction_minus_reference_in_ml():
    found = one(line(0, 1), line(1, 2, 3), spacing=(10.0, 10.0, 20.0))
    assert found.volume_error_ml == pytest.approx(-2)
    assert found.relative_volume_error == pytest.approx(-1 / 3, abs=1e-6)


@pytest.mark.parametrize(("axis", "shift_mm"), [(0, 1.0), (1, 2.5), (2, 4.0)])
def test_hd95_of_a_shifted_cube_is_the_shift_in_mm(cube, axis, shift_mm):
    assert one(np.roll(cube, 1, axis), cube, spacing=(1.0, 2.5, 4.0)).hd95_mm == pytest.approx(shift_mm)


def test_nsd_is_1_where_the_shift_is_within_the_tolerance(cube):
    assert one(np.roll(cube, 1, 2), cube, spacing=(1, 1, 3), nsd_tolerance_mm=3.0).nsd == 1


def test_nsd_counts_the_surface_voxels_within_the_tolerance(cube):
    # 56 of a cube's 64 voxels are surface; shifted by a layer, 12 of each of the 3 shared layers coincide
    assert one(np.roll(cube, 1, 0), cube, nsd_tolerance_mm=0.5).nsd == pytest.approx(2 * 36 / (2 * 56))


def test_a_map_against_itself_is_perfect(cube):
    found = one(cube, cube)
    assert (found.dice, found.iou, found.hd95_mm, found.nsd, found.volume_error_ml) == (1, 1, 0, 1, 0)


def test_metrics_are_monai_s_on_the_whole_volume():
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice

    rng = np.random.default_rng(0)
    masks = np.zeros((2, 9, 8, 7), np.uint8)
    masks[:, 2:7, 2:6, 1:6] = rng.random((2, 5, 4, 5)) < 0.6
    spacing = (0.8, 1.5, 3.0)
    found = one(masks[0], masks[1], spacing, nsd_tolerance_mm=1.0)
    pred, ref = (torch.from_numpy(m)[None, None].bool() for m in masks)
    hd95 = compute_hausdorff_distance(pred, ref, include_background=True, percentile=95, spacing=spacing)
    nsd = compute_surface_dice(pred, ref, [1.0], include_background=True, spacing=spacing)
    expected = [compute_dice(pred, ref), compute_iou(pred.float(), ref.float()), hd95, nsd]
    assert [found.dice, found.iou, found.hd95_mm, found.nsd] == pytest.approx(
        [e.item() for e in expected], abs=1e-6
    )


def test_a_label_absent_in_both_is_undefined():
    found = one(line(), line())
    assert found.outcome == "absent in both"
    assert {found.dice, found.iou, found.hd95_mm, found.nsd, found.volume_error_ml} == {None}


def test_a_missed_label_has_dice_0_and_no_distance():
    found = one(line(), line(1))
    assert (found.outcome, found.dice, found.nsd, found.hd95_mm) == ("missed", 0, 0, None)
    assert found.relative_volume_error == -1


def test_a_false_alarm_has_dice_0_and_no_distance():
    found = one(line(1), line())
    assert (found.outcome, found.dice, found.nsd, found.hd95_mm) == ("false alarm", 0, 0, None)
    assert found.relative_volume_error is None


def test_background_is_not_judged():
    assert list(case_metrics(line(1), line(1), {"background": 0, "organ": 1}, MM)) == ["organ"]


def test_values_that_no_label_names_count_as_background():
    assert one(line(1) + 200 * line(3), line(1) + 7 * line(4)).dice == 1


def test_a_case_s_dice_leaves_undefined_labels_out():
    found = case_metrics(line(1), line(1, 2), {"organ": 1, "absent": 2}, MM)
    assert mean_foreground_dice(found) == pytest.approx(2 / 3, abs=1e-6)


def test_a_real_label_map_against_itself_has_dice_1(real_data):
    volume = read_labels(real_data / "ct_torso" / "organs_model_output.nii.gz")
    labels = {"spleen": 1, "kidney": 2, "gallbladder": 4}
    found = case_metrics(volume.array, volume.array, labels, volume.geometry.spacing_mm)
    assert [(m.outcome, m.dice, m.hd95_mm, m.nsd) for m in found.values()] == [("found", 1, 0, 1)] * 3


def test_the_quick_dice_is_the_metrics_dice():
    generator = np.random.default_rng(0)
    prediction, reference = generator.integers(0, 3, (2, 4, 5, 6))
    exact = case_metrics(prediction, reference, {"background": 0, "a": 1, "b": 2}, MM)
    quick = dice_per_class(prediction, reference, ["background", "a", "b"])
    assert quick == pytest.approx({name: found.dice for name, found in exact.items()}, abs=1e-6)


def test_the_quick_dice_is_silent_about_a_class_that_is_absent_in_both():
    assert dice_per_class(line(0, 1), line(1, 2, 3), ["background", "a", "b"]) == {"a": pytest.approx(2 / 5)}


def test_the_quick_dice_of_a_missed_class_and_of_a_false_alarm_is_zero():
    assert dice_per_class(line(0), line(), ["background", "a"]) == {"a": 0.0}
    assert dice_per_class(line(), line(0), ["background", "a"]) == {"a": 0.0}


def test_a_region_is_judged_as_the_union_of_its_values():
    prediction, reference = np.array([[[1, 2, 0, 2]]]), np.array([[[2, 1, 1, 0]]])
    found = case_metrics(prediction, reference, {"background": 0, "whole": (1, 2), "core": 2}, MM)
    assert (found["whole"].tp, found["whole"].fp, found["whole"].fn) == (2, 1, 1)
    assert found["core"].dice == 0


def test_what_is_ignored_in_the_reference_counts_for_nothing():
    prediction, reference = np.array([[[1, 1, 1, 0]]]), np.array([[[1, 9, 9, 1]]])
    found = case_metrics(prediction, reference, {"organ": 1}, MM, ignore=9)["organ"]
    cut = case_metrics(prediction[..., [0, 3]], reference[..., [0, 3]], {"organ": 1}, MM)["organ"]
    empty = case_metrics(prediction * [1, 0, 0, 1], reference % 9, {"organ": 1}, MM)["organ"]
    assert found == replace(
        cut, hd95_mm=empty.hd95_mm, nsd=empty.nsd, assd_mm=empty.assd_mm
    )  # distances stay what they are


def test_the_quick_look_leaves_out_what_is_ignored_too():
    reference = np.array([1, 1, 0, 2])  # 2: beyond the classes
    assert dice_per_class(np.array([1, 0, 0, 1]), reference, ("background", "organ")) == {
        "organ": pytest.approx(2 / 3)
    }


def test_the_quick_look_at_regions_is_their_dice():
    masks, reference = np.array([[True, True, False], [False, True, True]]), np.array([1, 2, 3])
    found = dice_per_region(masks, reference, {"whole": (1, 2), "core": (2,)}, ignored=3)
    assert found == {"whole": 1, "core": 1}


def test_numbers_of_labels_do_not_matter():
    chance = np.random.default_rng(0)
    small = [chance.integers(0, 4, (8, 8, 8)) for _ in range(2)]
    large = np.array([0, 7, 65_537, 614_454_277], np.uint32)  # as atlases number their structures
    names = {"a": 1, "b": 2, "c": 3, "b and c": (2, 3), "nowhere": 9}
    known = {1: 7, 2: 65_537, 3: 614_454_277, 9: 614_454_270}
    renamed = {
        name: tuple(known[v] for v in value) if isinstance(value, tuple) else known[value]
        for name, value in names.items()
    }
    assert case_metrics(*(large[array] for array in small), renamed, MM) == case_metrics(*small, names, MM)


@pytest.mark.parametrize(("axis", "shift_mm"), [(0, 1.0), (1, 2.5), (2, 4.0)])
def test_assd_of_a_shifted_slab_is_what_its_moved_faces_make(axis, shift_mm):
    """Two parallel planes of a voxel's thickness: each voxel of one is a shift away from the other."""
    plane = np.zeros((9, 9, 9), np.uint8)
    np.moveaxis(plane, axis, 0)[4] = 1
    found = one(np.roll(plane, 1, axis), plane, spacing=(1.0, 2.5, 4.0))
    assert (found.assd_mm, found.hd95_mm) == (pytest.approx(shift_mm), pytest.approx(shift_mm))


def test_assd_counts_every_surface_voxel_of_both_once():
    # one voxel against a row of three: distances 0 there, and 1, 0, 1 back
    assert one(line(2), line(1, 2, 3)).assd_mm == pytest.approx((0 + 1 + 0 + 1) / 4)


def test_assd_is_undefined_where_one_surface_is_missing(cube):
    empty = np.zeros_like(cube)
    assert one(empty, cube).assd_mm is one(cube, empty).assd_mm is one(empty, empty).assd_mm is None


def test_spacings_may_be_whole_numbers(cube):
    assert one(np.roll(cube, 1, 0), cube, spacing=(1, 2.5, 3)).hd95_mm == 1
