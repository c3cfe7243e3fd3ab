"""What bad input gets: one clear line each, no traceback, exit code 2, and nothing half-written."""

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from phantoms import AFFINE, SHAPE, describe, write_case, write_dataset, write_pipeline


def save(path: Path, array: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text_file(path: Path) -> None:
    path.write_text("no image")


def four_axes(path: Path) -> None:
    save(path, np.zeros((*SHAPE, 2), np.float32))


def not_a_number(path: Path) -> None:
    save(path, np.where(np.arange(SHAPE[2]) == 0, np.nan, np.ones(SHAPE)).astype(np.float32))


def infinite(path: Path) -> None:
    save(path, np.where(np.arange(SHAPE[2]) == 0, np.inf, np.ones(SHAPE)).astype(np.float32))


def ten_channels(path: Path) -> None:
    save(path, np.zeros((*SHAPE, 10), np.float32))


def sheared(path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 1.0  # a gantry tilted by 27 degrees
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.float32), affine), path)


def spacing_of_zero(path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), None)
    image.header["pixdim"][1:4] = 1, 0, 1
    content = bytearray(image.to_bytes())
    path.write_bytes(gzip.compress(bytes(content)))


BAD_IMAGES = [
    (truncate, "truncated"),
    (text_file, "not a gzip file"),
    (four_axes, "channel"),
    (not_a_number, "NaN"),
    (infinite, "infinite"),
    (ten_channels, "10 channels"),
    (sheared, "perpendicular"),
    (spacing_of_zero, "not invertible"),
]


@pytest.fixture
def dataset(tmp_path) -> Path:
    return write_dataset(tmp_path / "cubes")


@pytest.fixture
def run(medfuse, tmp_path, dataset):
    """`medfuse run` on the small dataset, with what each test has spoilt in it."""
    pipeline = write_pipeline(tmp_path / "cubes.yaml", dataset)

    def speak(*words):
        return medfuse("run", pipeline, "--runs", tmp_path / "runs", "-q", *words)

    return speak


def only_line(said) -> str:
    """The one line that a command said of what is wrong."""
    assert said.code == 2
    assert "Traceback" not in said.err + said.out
    (line,) = said.err.strip().splitlines()
    return line


def unfinished(folder: Path) -> list[Path]:
    return list(folder.rglob(".unfinished*"))


@pytest.mark.parametrize(("spoil", "word"), BAD_IMAGES)
def test_a_bad_image_is_named_before_training(run, dataset, spoil, word):
    image = dataset / "imagesTr" / "cube_01.nii.gz"
    spoil(image)
    line = only_line(run())
    assert str(image) in line
    assert word in line


@pytest.mark.parametrize(("spoil", "word"), BAD_IMAGES)
def test_a_bad_image_is_named_in_inference(finished_run, medfuse, tmp_path, spoil, word):
    write_case(tmp_path, "odd")
    image = tmp_path / "imagesTr" / "odd.nii.gz"
    spoil(image)
    said = medfuse("infer", finished_run.folder, "-i", image, "-o", tmp_path / "out", "-q")
    assert said.code == 2
    assert str(image) in said.out
    assert word in said.out
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def oblique() -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, :3] = np.array([[0, -0.6, 0.8], [1, 0, 0], [0, 0.8, 0.6]]) @ affine[:3, :3]
    return affine


ODD_IMAGES = {
    "smaller_than_the_window": (np.float32, (5, 6, 4), AFFINE),
    "one_slice": (np.float32, (20, 18, 1), AFFINE),
    "one_row": (np.float32, (1, 18, 1), AFFINE),
    "one_voxel": (np.float32, (1, 1, 1), AFFINE),
    "oblique": (np.float32, SHAPE, oblique()),
    "left_handed": (np.float32, SHAPE, AFFINE @ np.diag([-1, 1, -1, 1])),
    **{dtype: (dtype, SHAPE, AFFINE) for dtype in ("int8", "uint8", "uint16", "int64", "float64")},
    "big_endian_short": (">i2", SHAPE, AFFINE),
    "big_endian_float": (">f4", SHAPE, AFFINE),
}


def test_odd_images_get_label_maps_that_overlay_them(finished_run, medfuse, tmp_path):
    (tmp_path / "odd").mkdir()
    random = np.random.default_rng(0)
    for name, (dtype, shape, affine) in ODD_IMAGES.items():
        voxels = random.integers(0, 100, shape).astype(dtype)
        image = nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype)
        nibabel.save(image, tmp_path / "odd" / f"{name}.nii.gz")
    said = medfuse("infer", finished_run.folder, "-i", tmp_path / "odd", "-o", tmp_path / "out", "-q")
    assert said.code == 0, said.out
    for name in ODD_IMAGES:
        labels, image = (nibabel.load(tmp_path / place / f"{name}.nii.gz") for place in ("out", "odd"))
        assert labels.shape == image.shape
        np.testing.assert_array_equal(labels.affine, image.affine)


def test_a_value_outside_the_labels_is_named(run, dataset):
    label = dataset / "labelsTr" / "cube_02.nii.gz"
    save(label, np.full(SHAPE, 7, np.uint8))
    line = only_line(run())
    assert str(label) in line
    assert "7" in line


def test_an_image_without_a_label_is_named(run, dataset):
    (dataset / "labelsTr" / "cube_02.nii.gz").unlink()
    assert "cube_02.nii.gz: no such file" in only_line(run())


def test_two_cases_with_one_name_are_named(run, dataset):
    describe(dataset, ["cube_00", "cube_01", "cube_02", "cube_03", "cube_00"])
    assert "two cases are named cube_00" in only_line(run())


def test_grids_that_differ_are_an_error(run, dataset):
    label = dataset / "labelsTr" / "cube_01.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([1.5, 1.5, 3.0, 1.0])), label)
    line = only_line(run())
    assert str(label) in line
    assert "spacing" in line


def test_every_fault_of_every_case_is_listed(run, dataset):
    truncate(dataset / "imagesTr" / "cube_00.nii.gz")
    text_file(dataset / "labelsTr" / "cube_02.nii.gz")
    said = run()
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 2


def test_an_output_folder_below_a_file_is_refused_before_work(finished_run, medfuse, tmp_path):
    (tmp_path / "file").write_text("")
    image = finished_run.data / "imagesTr" / "cube_00.nii.gz"
    line = only_line(
        medfuse("infer", finished_run.folder, "-i", image, "-o", tmp_path / "file" / "out", "-q")
    )
    assert str(tmp_path / "file") in line
    assert "choose another path" in line


def test_an_output_folder_without_permission_is_refused(finished_run, medfuse, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    image = finished_run.data / "imagesTr" / "cube_00.nii.gz"
    line = only_line(medfuse("infer", finished_run.folder, "-i", image, "-o", tmp_path / "out", "-q"))
    assert "cannot be written; choose another folder" in line


def test_a_full_disk_stops_inference_with_one_line(finished_run, medfuse, tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    images = finished_run.data / "imagesTr"
    line = only_line(medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "-q"))
    assert "the disk is full" in line
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_stops_a_run_with_one_line(run, tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    assert "the disk is full" in only_line(run())
    assert not unfinished(tmp_path / "runs")


def test_what_infer_would_take_is_explained(finished_run, medfuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = medfuse("infer", finished_run.folder, "-i", finished_run.data / "imagesTr", "--explain", "-q")
    assert said.code == 0
    assert "cube_00  20×18×16 voxels" in said.out
    assert said.out.splitlines()[-1].startswith("4 cases, ")
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_refused_before_work(finished_run, medfuse, tmp_path):
    images, output = finished_run.data / "imagesTr" / "cube_00.nii.gz", tmp_path / "out"
    line = only_line(
        medfuse("infer", finished_run.folder, "-i", images, "-o", output, "--max-memory", "1MiB", "-q")
    )
    assert line.startswith("case cube_00: needs ")
    assert "--max-memory 1 MiB" in line
    assert not list(output.iterdir())


def test_an_amount_of_memory_that_is_none_is_refused(finished_run, medfuse, tmp_path):
    images = finished_run.data / "imagesTr"
    words = ("-i", images, "-o", tmp_path / "out", "--max-memory", "plenty", "-q")
    assert "'plenty' is no amount of memory" in only_line(medfuse("infer", finished_run.folder, *words))


def test_weights_that_are_cut_off_are_named(finished_run, medfuse, tmp_path):
    weights = tmp_path / "cut.safetensors"
    shutil.copy(finished_run.folder / "weights_last.safetensors", weights)
    truncate(weights)
    image = finished_run.data / "imagesTr" / "cube_00.nii.gz"
    assert str(weights) in only_line(medfuse("infer", weights, "-i", image, "-o", tmp_path / "out", "-q"))


def test_a_checkpoint_of_another_model_is_named(finished_run, medfuse, tmp_path):
    from safetensors.torch import save_file

    from medfuse.model.weights import load_weights

    state, facts = load_weights(finished_run.folder / "weights_last.safetensors")
    other = tmp_path / "other.safetensors"
    name = next(iter(state))
    save_file({name: state[name]}, str(other), metadata={"medfuse": json.dumps(facts)})
    image = finished_run.data / "imagesTr" / "cube_00.nii.gz"
    line = only_line(medfuse("infer", other, "-i", image, "-o", tmp_path / "out", "-q"))
    assert str(other) in line
    assert "another model" in line


STAGES = {
    "checking": "medfuse.data.fingerprint.take_fingerprint",
    "preparing": "medfuse.data.store.Store.build",
    "training": "medfuse.train.step.follow",
    "predicting": "medfuse.infer.line.predict_bricks",
    "evaluating": "medfuse.report.evaluate.evaluate_pairs",
    "reporting": "medfuse.report.html.write_report",
}


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_every_stage_leaves_whole_files_only(run, tmp_path, monkeypatch, stage):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(STAGES[stage], interrupt)
        said = run()
    assert said.code == 130
    assert said.err.strip() == "medfuse: stopped; run the same command again to carry on"
    assert not unfinished(tmp_path / "runs")
    for file in (tmp_path / "runs").rglob("*.json"):
        json.loads(file.read_text())


def test_a_run_that_was_stopped_carries_on(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(STAGES["predicting"], lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert run().code == 130
    assert run().code == 0


@pytest.mark.slow
def test_a_real_ctrl_c_ends_with_130_and_one_line(tmp_path, dataset):
    pipeline = write_pipeline(tmp_path / "cubes.yaml", dataset)
    command = [sys.executable, "-c", "from medfuse.cli import main; main()", "run", str(pipeline)]
    with subprocess.Popen(
        [*command, "--runs", str(tmp_path / "runs"), "--set", "train.steps=100000"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        state = tmp_path / "runs" / "cubes" / "training_state.pt"
        while process.poll() is None and not state.exists():
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.strip().endswith("run the same command again to carry on")


def test_an_empty_gzip_is_damaged_not_empty(finished_run, medfuse, tmp_path):
    image = tmp_path / "empty.nii.gz"
    image.write_bytes(gzip.compress(b""))
    said = medfuse("infer", finished_run.folder, "-i", image, "-o", tmp_path / "out", "-q")
    assert said.code == 2
    assert str(image) in said.out
