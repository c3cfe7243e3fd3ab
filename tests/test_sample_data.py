"""The phantoms: repeatable, labelled as declared, and as varied as scanners are."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"
SMALL = (20, 16, 12)


@pytest.fixture(scope="module")
def phantoms() -> ModuleType:
    """The script, which is no part of the package, as a module."""
    spec = importlib.util.spec_from_file_location("make_phantoms", SAMPLE_DATA / "make_phantoms.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def description() -> dict:
    return json.loads((SAMPLE_DATA / "dataset.json").read_text())


@pytest.fixture(scope="module")
def pairs(description: dict) -> list[tuple[nib.Nifti1Image, nib.Nifti1Image]]:
    return [
        (nib.load(SAMPLE_DATA / case["image"]), nib.load(SAMPLE_DATA / case["label"]))
        for case in description["training"]
    ]


def voxels(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)


def test_same_seed_makes_the_same_bytes(phantoms: ModuleType, tmp_path: Path) -> None:
    for folder in ("once", "again"):
        phantoms.make_dataset(tmp_path / folder, cases=1, test_cases=1, seed=5, shape=SMALL)
    written = [file for file in (tmp_path / "once").rglob("*") if file.is_file()]
    assert len(written) == 4  # two images, one label, dataset.json
    for file in written:
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "once")).read_bytes()


def test_another_seed_makes_another_patient(phantoms: ModuleType) -> None:
    labels = [voxels(phantoms.make_case(seed, 0, SMALL)[1]) for seed in (5, 6)]
    assert not np.array_equal(*labels)


def test_the_shape_asked_for_is_made(phantoms: ModuleType) -> None:
    image, label = phantoms.make_case(5, 0, SMALL)
    assert image.shape == label.shape == SMALL


def test_the_same_patient_looks_the_same_from_an_oblique_grid(phantoms: ModuleType) -> None:
    anatomy = phantoms.Anatomy(np.random.default_rng(5), 0)
    straight, oblique = np.diag([12.0, 12, 12, 1]), np.eye(4)
    oblique[:3, :3] = phantoms.rotation((10, -7, 14)) * 12
    volumes = []
    for affine in (straight, oblique):
        affine[:3, 3] = -affine[:3, :3] @ [14.5, 14.5, 14.5]
        grid = phantoms.Grid((30, 30, 30), affine)
        label = np.stack(
            [phantoms.LABEL_OF[anatomy.tissue(*grid.slice_points(k, (1, 1, 1)))] for k in range(30)]
        )
        volumes.append((label == 1).sum())
    assert volumes[0] == pytest.approx(volumes[1], rel=0.05)


def test_a_tumour_lies_where_the_liver_was(phantoms: ModuleType) -> None:
    grid = phantoms.draw_grid(np.random.default_rng(0), 1, (40, 40, 40))
    sick = phantoms.Anatomy(np.random.default_rng(5), 2)
    points = [grid.slice_points(k, (1, 1, 1)) for k in range(40)]
    with_tumours = np.stack([sick.tissue(*p) for p in points])
    sick.tumours.clear()
    without = np.stack([sick.tissue(*p) for p in points])
    where = with_tumours == phantoms.Tissue.TUMOUR
    assert where.any()
    assert np.isin(without[where], [phantoms.Tissue.LIVER, phantoms.Tissue.LIVER_VESSEL]).all()


def test_every_committed_file_is_listed(description: dict) -> None:
    listed = {c[k] for c in description["training"] for k in ("image", "label")} | set(description["test"])
    assert {f"./{f.relative_to(SAMPLE_DATA)}" for f in SAMPLE_DATA.rglob("*.nii.gz")} == listed


def test_committed_files_are_what_the_script_makes(phantoms: ModuleType) -> None:
    for made, folder in zip(phantoms.make_case(1, 1), ("imagesTr", "labelsTr")):
        committed = nib.load(SAMPLE_DATA / folder / "phantom_001.nii.gz")
        np.testing.assert_array_equal(voxels(made), voxels(committed))
        np.testing.assert_allclose(made.affine, committed.affine, atol=1e-4)


def test_the_committed_data_set_stays_small() -> None:
    assert sum(f.stat().st_size for f in SAMPLE_DATA.rglob("*.nii.gz")) < 6_000_000


def test_labels_hold_declared_values_only(pairs: list, description: dict) -> None:
    declared = {int(value) for value in description["labels"]}
    assert set().union(*(np.unique(voxels(label)).tolist() for _, label in pairs)) == declared


def test_labels_share_their_image_grid(pairs: list) -> None:
    for image, label in pairs:
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)


def test_some_cases_have_no_tumour(pairs: list) -> None:
    sick = [(voxels(label) == 2).any() for _, label in pairs]
    assert any(sick)
    assert not all(sick)


def test_one_case_is_oblique(pairs: list) -> None:
    turned = [np.abs(image.affine[:3, :3]).astype(bool).sum() > 3 for image, _ in pairs]
    off_axis = [nib.affines.obliquity(image.affine).max() > 0.05 for image, _ in pairs]
    assert sum(off_axis) == 1
    assert off_axis == turned


def test_arrays_are_stored_in_several_orientations_and_types(pairs: list) -> None:
    assert {nib.aff2axcodes(image.affine) for image, _ in pairs} >= {tuple("LPS"), tuple("RAS"), tuple("PSR")}
    assert {str(image.get_data_dtype()) for image, _ in pairs} == {"int16", "int32", "float32"}


def test_the_liver_is_on_the_patients_right(pairs: list) -> None:
    for image, label in pairs:
        liver = nib.affines.apply_affine(image.affine, np.argwhere(voxels(label) == 1)).mean(axis=0)
        body = nib.affines.apply_affine(image.affine, np.argwhere(voxels(image) > -300)).mean(axis=0)
        assert liver[0] > body[0] + 20


def test_tumours_are_darker_than_their_liver(pairs: list) -> None:
    for image, label in pairs:
        if (tumour := voxels(label) == 2).any():
            assert voxels(image)[tumour].mean() < voxels(image)[voxels(label) == 1].mean() - 15


def test_every_case_is_held_out_in_one_fold(description: dict) -> None:
    folds = json.loads((SAMPLE_DATA / "splits_final.json").read_text())
    names = sorted(Path(case["image"]).name.removesuffix(".nii.gz") for case in description["training"])
    assert sorted(name for fold in folds for name in fold["val"]) == names
    assert all(sorted(fold["train"] + fold["val"]) == names for fold in folds)


# ---- organs told apart by where they are


@pytest.fixture(scope="module")
def organs(phantoms: ModuleType) -> list[tuple[nib.Nifti1Image, nib.Nifti1Image]]:
    return [phantoms.make_case(3, index, (48, 36, 14), phantoms.ORGANS) for index in range(3)]


def test_a_recipe_for_organs_leaves_the_phantoms_as_they_are(phantoms: ModuleType) -> None:
    plain = phantoms.make_case(5, 0, SMALL)
    for file, same in zip(plain, phantoms.make_case(5, 0, SMALL, phantoms.PHANTOMS)):
        np.testing.assert_array_equal(voxels(file), voxels(same))
    assert not np.array_equal(voxels(plain[0]), voxels(phantoms.make_case(5, 0, SMALL, phantoms.ORGANS)[0]))


def test_organs_are_as_dense_as_one_another(phantoms: ModuleType) -> None:
    soft = [phantoms.Tissue[name] for name in ("LIVER", "SPLEEN", "KIDNEY", "KIDNEY_CORE", "MUSCLE", "HEART")]
    means, spreads = zip(*(phantoms.ALIKE[tissue] for tissue in soft))
    assert max(means) - min(means) < min(spreads)


def test_left_and_right_are_told_by_the_side_alone(phantoms: ModuleType, organs: list) -> None:
    labels = phantoms.ORGANS.labels
    for _, label in organs:
        for side, sign in (("right kidney", 1), ("left kidney", -1)):
            where = np.argwhere(voxels(label) == labels[side])
            x = nib.affines.apply_affine(label.affine, where)[:, 0]
            assert (sign * x >= 0).all()


def test_thick_slices_differ_in_what_they_show(phantoms: ModuleType) -> None:
    rng = np.random.default_rng(0)
    grids = [phantoms.draw_thick_grid(rng, index, None) for index in range(12)]
    thickness = [max(grid.spacing_mm) for grid in grids]
    assert 6 <= min(thickness) <= max(thickness) <= 8
    widths = [max(n * s for n, s in zip(grid.shape, grid.spacing_mm)) for grid in grids]
    assert max(widths) > 1.4 * min(widths)


def test_tumours_of_the_organs_have_few_voxels(organs: list, phantoms: ModuleType) -> None:
    value = phantoms.ORGANS.labels["tumour"]
    counts = [int((voxels(label) == value).sum()) for _, label in organs]
    assert 0 < max(counts) < 60
