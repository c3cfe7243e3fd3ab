"""The sets that plans are measured on: medfuse reads them, and what they are made from stays as it was."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest

from medfuse.builtin.datasets.decathlon import Decathlon
from medfuse.data.fingerprint import take_fingerprint

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def plan_sets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which is no part of the package, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("plan_sets")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three volumes of 10 × 12 × 11 voxels in the layout of the hippocampus."""
    folder, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    names = [f"hippocampus_{i:03d}" for i in range(3)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    for name in names:
        label = np.zeros((10, 12, 11), np.uint8)
        label[3:7, 2:6, 2:9], label[3:7, 6:10, 2:9] = 1, 2
        image = (label * 40 + rng.normal(100, 10, label.shape)).astype(np.float32)
        for part, voxels in (("imagesTr", image), ("labelsTr", label)):
            affine = np.diag([1.0, 1, 1, 1])
            affine[:3, 3] = 5, -3, 2
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / part / f"{name}.nii.gz")
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    (folder / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": training})
    )
    (folder / "splits_final.json").write_text(json.dumps([{"train": names[1:], "val": names[:1]}]))
    return folder


def facts(folder: Path) -> list:
    """Of every case that medfuse reads and finds sound."""
    info = Decathlon(root=folder).read()
    assert info.splits
    found = take_fingerprint(info.cases, info, tolerance_mm=1e-3, progress=lambda done, total: None)
    return list(found.cases)


def test_hearts_are_read_and_patients_stay_together(plan_sets: ModuleType, tmp_path: Path) -> None:
    plan_sets.write_hearts(tmp_path / "hearts", patients=2, seed=3, lost=False)
    cases = facts(tmp_path / "hearts")
    assert len(cases) == 4
    for case in cases:
        assert all(ml > 1 for ml in case.volumes_ml.values())
        assert 6 <= case.shape[2] <= 18
        assert 5 <= case.spacing_mm[2] <= 10
    for fold in json.loads((tmp_path / "hearts" / "splits_final.json").read_text()):
        assert not {n[:11] for n in fold["train"]} & {n[:11] for n in fold["val"]}


def test_a_heart_is_smaller_at_the_end_of_its_beat(plan_sets: ModuleType) -> None:
    for patient in range(2):
        volumes = [(label == 3).sum() for _, _, label, _ in plan_sets.hearts.frames(3, patient)]
        assert volumes[1] < volumes[0]


def test_lost_spacing_changes_nothing_but_the_header(plan_sets: ModuleType, tmp_path: Path) -> None:
    for name, lost in (("kept", False), ("lost", True)):
        plan_sets.write_hearts(tmp_path / name, patients=1, seed=3, lost=lost)
    for file in sorted((tmp_path / "kept" / "imagesTr").iterdir()):
        kept, lost = (nibabel.load(tmp_path / name / "imagesTr" / file.name) for name in ("kept", "lost"))
        assert lost.header.get_zooms() == (1, 1, 1)
        assert kept.header.get_zooms() != (1, 1, 1)
        np.testing.assert_array_equal(kept.dataobj, lost.dataobj)


def test_the_same_seed_makes_the_same_heart(plan_sets: ModuleType) -> None:
    for one, same in zip(plan_sets.hearts.frames(1, 0), plan_sets.hearts.frames(1, 0)):
        np.testing.assert_array_equal(one[1], same[1])
        np.testing.assert_array_equal(one[2], same[2])


def test_a_thick_slice_is_the_mean_of_its_voxels_and_lies_amid_them(
    plan_sets: ModuleType, source: Path, tmp_path: Path
) -> None:
    plan_sets.write_thick(tmp_path / "thick", source, slices=5)
    assert [case.spacing_mm for case in facts(tmp_path / "thick")] == [(1, 1, 5)] * 3
    fine, coarse = (
        nibabel.load(f / "imagesTr" / "hippocampus_001.nii.gz") for f in (source, tmp_path / "thick")
    )
    assert coarse.shape == (10, 12, 2)
    np.testing.assert_allclose(coarse.get_fdata()[..., 1], fine.get_fdata()[..., 5:10].mean(-1), rtol=1e-5)
    np.testing.assert_allclose(coarse.affine @ [3, 4, 1, 1], fine.affine @ [3, 4, 7, 1])


def test_a_thick_label_is_that_of_most_voxels(plan_sets: ModuleType) -> None:
    label = np.array([0, 1, 1, 2, 2, 2, 0, 0], np.uint8).reshape(1, 1, 8)
    begin, _, most = plan_sets.thick(label.astype(np.float32), label, 3)
    assert begin == 1
    assert most.ravel().tolist() == [1, 2]


def test_a_larger_field_keeps_every_voxel_at_its_place(
    plan_sets: ModuleType, source: Path, tmp_path: Path
) -> None:
    plan_sets.write_in_field(tmp_path / "field", source, seed=1, only=2)
    before, after = facts(source), facts(tmp_path / "field")
    assert len(after) == 2
    for was, case in zip(before, after):
        assert all(64 <= n <= 112 for n in case.shape)
        for name in ("Anterior", "Posterior"):
            assert case.volumes_ml[name] == pytest.approx(was.volumes_ml[name])
    fine, wide = (
        nibabel.load(f / "labelsTr" / "hippocampus_000.nii.gz") for f in (source, tmp_path / "field")
    )
    corners = [file.affine @ [*np.argwhere(np.asarray(file.dataobj))[0], 1] for file in (fine, wide)]
    np.testing.assert_allclose(*corners)


def test_folds_hold_every_group_out_once(plan_sets: ModuleType, tmp_path: Path) -> None:
    groups = [[f"{i}_a", f"{i}_b"] for i in range(11)]
    plan_sets.write_splits(tmp_path, groups)
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    held = [name for fold in folds for name in fold["val"]]
    assert sorted(held) == sorted(name for group in groups for name in group)
    assert all(len({name[:-2] for name in fold["val"]}) * 2 == len(fold["val"]) for fold in folds)
