"""Regions and an ignore label, from a label map to a patch."""

import dataclasses

import numpy as np
import pytest

from medfuse.api import DatasetInfo
from medfuse.data.fingerprint import hash_files, take_fingerprint
from medfuse.data.patches import PatchSampler
from medfuse.data.plan import DataPlan, make_plan
from medfuse.data.prepare import Preprocessor
from medfuse.data.settings import AugmentSettings, PreprocessSettings, SampleSettings
from medfuse.data.store import Store

STILL = AugmentSettings(
    rotate=0, scale=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0, gamma=0
)
REGIONS = {"background": 0, "whole": (1, 2), "core": 2}


@pytest.fixture
def scribbled(make_case):
    """Two strokes of label 2 and 0 in a volume that is otherwise 7, ignored."""
    label = np.full((20, 20, 20), 7, np.uint8)
    label[3, 3:6, 3] = 2
    label[3, 12:15, 15] = 0
    return make_case("s", shape=label.shape, label=label)


@pytest.fixture
def sparse(plan) -> DataPlan:
    return dataclasses.replace(plan, labels={"background": 0, "organ": 2}, ignore=7)


@pytest.fixture
def sparse_store(tmp_path, scribbled, sparse) -> Store:
    store = Store(tmp_path / "sparse")
    store.build([scribbled], Preprocessor(sparse), hash_files([scribbled]), progress=lambda done, total: None)
    return store


def test_a_plan_of_regions_has_one_output_for_each(plan):
    regions = dataclasses.replace(plan, labels=REGIONS, region_order=(1, 2))
    assert (regions.classes, regions.values) == (("whole", "core"), (0, 1, 2))
    assert regions.regions == ((1, 2), (2,))


def test_a_plan_with_regions_and_ignore_reads_back(plan):
    import json

    regions = dataclasses.replace(plan, labels=REGIONS, region_order=(1, 2), ignore=3)
    assert DataPlan.from_json(json.loads(json.dumps(regions.to_json()))) == regions


def test_ignored_voxels_have_the_number_after_the_last_class(sparse, sparse_store):
    _, label = sparse_store.read_case("s")
    assert sparse.ignored == 2
    assert np.bincount(label.ravel()).tolist() == [3, 1 * 3, 20**3 - 6]


def test_a_fingerprint_measures_regions_and_leaves_out_what_is_ignored(make_case, info_of):
    label = np.zeros((8, 9, 10), np.uint8)
    label[0], label[1], label[2] = 1, 2, 3
    case = make_case(label=label)
    info = DatasetInfo((case,), REGIONS, ("MR",), region_order=(1, 2), ignore=3)
    found = take_fingerprint([case], info, tolerance_mm=1e-3, progress=lambda done, total: None)
    assert found.cases[0].volumes_ml == pytest.approx({"background": 0.45, "whole": 0.18, "core": 0.09})
    made = make_plan(found, info, PreprocessSettings(), SampleSettings())
    assert (made.labels, made.region_order, made.ignore) == (REGIONS, (1, 2), 3)


def test_every_patch_of_a_scribbled_case_holds_something_annotated(sparse, sparse_store):
    sampler = PatchSampler(sparse_store, ("s",), sparse, SampleSettings(), STILL, seed=1)
    patches = [sampler.draw(i)["label"] for i in range(24)]
    assert all((patch != sparse.ignored).any() for patch in patches)
    assert any((patch == 0).any() for patch in patches)


def test_forced_patches_of_a_scribbled_case_hold_foreground(sparse, sparse_store):
    sampler = PatchSampler(sparse_store, ("s",), sparse, SampleSettings(foreground=1), STILL, seed=1)
    assert all((sampler.draw(i)["label"] == 1).any() for i in range(8))


def test_every_class_of_a_case_centres_as_many_patches(tmp_path, make_case, plan):
    label = np.zeros((30, 8, 8), np.uint8)
    label[2:12], label[28, 0, 0] = 1, 2  # 640 voxels of one class, one of the other
    both = dataclasses.replace(plan, labels={"background": 0, "large": 1, "small": 2})
    store = Store(tmp_path / "both")
    case = make_case("b", shape=label.shape, label=label)
    store.build([case], Preprocessor(both), hash_files([case]), progress=lambda *_: None)
    sampler = PatchSampler(store, ("b",), both, SampleSettings(foreground=1), STILL, seed=1)
    small = sum(bool((sampler.draw(i)["label"] == 2).any()) for i in range(200))
    assert 70 < small < 130


def test_a_plan_keeps_what_is_said_of_labels_and_one_without_reads_too(plan):
    import json

    from medfuse.core.label_table import LabelSays

    says = {"organ": LabelSays("SCT 10200004 Liver", "#dd8265")}
    told = dataclasses.replace(plan, label_table=says)
    read = DataPlan.from_json(json.loads(json.dumps(told.to_json())))
    assert read == told
    (entry,) = read.entries
    assert (entry.value, entry.code.value, entry.color) == (1, "10200004", "#dd8265")
    older = {key: value for key, value in plan.to_json().items() if key != "label_table"}
    assert DataPlan.from_json(older) == plan
