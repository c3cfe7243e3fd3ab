"""`medfuse init` refuses data that no plan helps, before a step is measured, and writes nothing."""

import json
import shutil

import nibabel
import numpy as np
import pytest
from phantoms import write_dataset

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.train import cost
from medfuse.verbs.init import init_pipeline


@pytest.fixture
def cubes(tmp_path, monkeypatch):
    def measure(*_, **__):
        pytest.fail("a step was measured")

    monkeypatch.setattr(cost, "measure_step", measure)
    data = write_dataset(tmp_path / "cubes")
    (data / "splits_final.json").unlink()
    return data


def folders(data):
    """The same without its text file: labels are read from label maps."""
    (data / "dataset.json").unlink()
    return data


def per_case(data):
    """The same as a folder for each case."""
    for image in sorted((data / "imagesTr").iterdir()):
        case = data / image.name.partition(".")[0]
        case.mkdir()
        image.rename(case / "t1.nii.gz")
        (data / "labelsTr" / image.name).rename(case / "mask.nii.gz")
    for name in ("imagesTr", "labelsTr"):
        (data / name).rmdir()
    return folders(data)


def refused(data) -> str:
    output = data.parent / "plan" / "cubes.yaml"
    with pytest.raises(MedfuseError) as caught:
        init_pipeline(data, output=output, budget=2**30, device="cpu", reporter=Reporter(quiet=True))
    assert not output.exists()
    return "\n".join(caught.value.lines)


@pytest.mark.parametrize("layout", [folders, per_case])
def test_one_case_in_any_layout(cubes, layout):
    data = layout(cubes)
    for path in sorted(data.rglob("*cube_*"), reverse=True):
        if "cube_00" not in str(path.relative_to(data)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "has 1 labelled case;" in refused(data)


@pytest.mark.parametrize("layout", [lambda data: data, folders, per_case])
def test_label_maps_without_foreground_in_any_layout(cubes, layout):
    for path in (cubes / "labelsTr").iterdir():
        label = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    line = refused(layout(cubes))
    assert "none of the 4 label maps" in line or "holds 0 alone, as does each label map" in line


@pytest.mark.parametrize("layout", [folders, per_case])
def test_images_in_the_place_of_label_maps(cubes, layout):
    for path in (cubes / "labelsTr").iterdir():
        shutil.copy(cubes / "imagesTr" / path.name, path)
    lines = refused(layout(cubes)).splitlines()
    assert len(lines) == 4
    assert all("mask" in line or "labelsTr" in line for line in lines)


def test_images_too_small_for_a_network(cubes):
    for path in [*(cubes / "imagesTr").iterdir(), *(cubes / "labelsTr").iterdir()]:
        volume = nibabel.load(path)
        nibabel.save(volume.slicer[2:9, 2:9, 2:9], path)
    assert refused(cubes).startswith("patches of 7×7×7 voxels are too small for a U-Net")


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ([0, 1], [7], "names cases that the dataset lacks or that have no label: cube_07"),
        ([0, 1, 2], [2, 3], "cases both train and judge"),
        ([0, 1, 2], [], "`val` is empty"),
    ],
)
def test_faulty_folds_of_the_dataset(cubes, train, val, said):
    fold = {"train": [f"cube_{n:02d}" for n in train], "val": [f"cube_{n:02d}" for n in val]}
    (cubes / "splits_final.json").write_text(json.dumps([fold]))
    assert said in refused(cubes)


def test_no_labelled_case_at_all(cubes):
    described = json.loads((cubes / "dataset.json").read_text())
    for entry in described["training"]:
        del entry["label"]
    (cubes / "dataset.json").write_text(json.dumps(described))
    line = refused(cubes)
    assert "has 0 labelled cases; training needs two at least" in line
    assert "fold: all" not in line
