"""A damaged file is named by every verb that reads it, becomes no result, and stops no other case."""

import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
from phantoms import write_dataset, write_pipeline


def flip(path: Path) -> None:
    """One bit in the middle, where the compressed voxels lie."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def header_of_forty_axes(path: Path) -> None:
    """What ITK ends the process on."""
    path.write_bytes(b"NRRD0004\ntype: short\ndimension: 40\nsizes: " + b"2 " * 40 + b"\nencoding: raw\n\n")


HARMS = {".nii.gz": flip, ".nrrd": flip, ".mha": flip, "header.nrrd": header_of_forty_axes}


@pytest.fixture
def scans(finished_run, tmp_path):
    """Three images, the second of any format and damaged."""

    def made(ending: str) -> tuple[Path, Path]:
        folder = tmp_path / "scans"
        folder.mkdir()
        for name in "abc":
            shutil.copy(finished_run.data / "imagesTr" / "cube_00.nii.gz", folder / f"{name}.nii.gz")
        path = folder / f"b{ending.removeprefix('header')}"
        sitk.WriteImage(sitk.ReadImage(str(folder / "b.nii.gz")), str(path), useCompression=True)
        if path.name != "b.nii.gz":
            (folder / "b.nii.gz").unlink()
        HARMS[ending](path)
        return folder, path

    return made


@pytest.mark.parametrize("ending", HARMS)
@pytest.mark.parametrize("verb", ["infer", "features"])
def test_the_other_cases_are_done(finished_run, medfuse, scans, tmp_path, verb, ending):
    folder, damaged = scans(ending)
    layers = ("--layers", "decoded") if verb == "features" else ()
    said = medfuse(verb, finished_run.folder, "-i", folder, "-o", tmp_path / "out", *layers, "-q")
    assert said.code == 2
    assert damaged.name in said.out
    assert "Traceback" not in said.out + said.err
    cases = {path.name.partition(".")[0] for path in (tmp_path / "out").iterdir()} - {"manifest", "quality"}
    assert cases == {"a", "c"}


@pytest.mark.parametrize("side", ["predictions", "references"])
def test_a_damaged_label_map_is_not_judged(finished_run, medfuse, tmp_path, side):
    folders = {name: tmp_path / name for name in ("predictions", "references")}
    for folder in folders.values():
        shutil.copytree(finished_run.data / "labelsTr", folder)
    flip(folders[side] / "cube_01.nii.gz")
    said = medfuse("evaluate", *folders.values(), "-q")
    assert said.code == 2
    assert str(folders[side] / "cube_01.nii.gz") in said.err
    assert "(3)" in said.err


@pytest.mark.parametrize("side", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("verb", ["run", "init"])
def test_nothing_is_trained_or_planned_on_a_damaged_case(medfuse, tmp_path, verb, side):
    data = write_dataset(tmp_path / "cubes")
    flip(data / side / "cube_01.nii.gz")
    words = {
        "run": (write_pipeline(tmp_path / "cubes.yaml", data), "--runs", tmp_path / "runs"),
        "init": (data, "-o", tmp_path / "made.yaml"),
    }[verb]
    said = medfuse(verb, *words, "-q")
    assert said.code == 2
    assert f"{side}/cube_01.nii.gz" in said.err
    assert not (tmp_path / "made.yaml").exists()
    assert not (tmp_path / "runs" / "cubes").exists()
