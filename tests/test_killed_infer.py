"""A process that is killed leaves whole files beside hidden ones, and the next run finishes the folder."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scanner

from medfuse.core.files import file_hash
from medfuse.volumes.read import read_geometry, read_labels, read_volume

RECORDS = ("manifest.", "quality.")


IN_STEPS = """
import os, sys, threading
from medfuse import Predictor

fsync, turn = os.fsync, threading.Lock()

def asked(file):  # a moment in which a file is not yet whole, and nothing goes on until it is said
    with turn:
        print("may I?", flush=True)
        sys.stdin.readline()
    fsync(file)

os.fsync = asked
Predictor.load(sys.argv[1], device="cpu").files(sys.argv[2], sys.argv[3])
"""


def labels(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("*.nii.gz") if not path.name.startswith("."))


def half_written(output: Path) -> bool:
    return any(path.name.startswith(".unfinished-") for path in output.glob(".*"))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "at the beginning": lambda output: output.exists(),
    "while the first file is written": half_written,
    "after the first file": lambda output: bool(labels(output)),
    "while a later file is written": lambda output: bool(labels(output)) and half_written(output),
    "after the first entry of the manifest": lambda output: (output / "manifest.json").exists(),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_leaves_whole_files_and_the_next_finishes(finished_run, medfuse, tmp_path, moment):
    images, output = finished_run.data / "imagesTr", tmp_path / "out"
    command = [sys.executable, "-c", IN_STEPS, str(finished_run.folder), str(images), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        for _ in process.stdout:
            if MOMENTS[moment](output):
                break
            process.stdin.write("yes\n")
            process.stdin.flush()
        process.kill()
    assert process.returncode == -9, "it ended before it could be killed"
    for name in labels(output):
        assert read_labels(output / name).geometry.differences(read_geometry(images / name)) == []
    assert medfuse("infer", finished_run.folder, "-i", images, "-o", output, "-q").code == 0
    assert labels(output) == sorted(path.name for path in images.glob("*.nii.gz"))
    assert not half_written(output)


FORMATS = ("dicom_seg", "rtstruct", "nifti")
IN_FORMATS = IN_STEPS.replace('device="cpu").files(sys.argv[2], sys.argv[3])', 'device="cpu")').rstrip() + (
    f".files(sys.argv[2], sys.argv[3], formats={FORMATS})\n"
)
STEPS = (1, 3, 2, 7, 4, 5, 1, 6)
"""How often each process goes on before it is killed."""


def tree(data: Path, root: Path) -> Path:
    """The images of a run's dataset as DICOM series, each in a folder of its patient and study."""
    for number, path in enumerate(sorted((data / "imagesTr").glob("*.nii.gz"))):
        volume = read_volume(path)
        mm = volume.geometry.spacing_mm
        low, high = float(volume.array.min()), float(volume.array.max())
        array = np.rint((volume.array - low) * (2000 / max(high - low, 1e-6))).astype(np.int16)
        folder = root / f"patient{number}" / "study" / "series"
        scanner.write(
            folder,
            array,
            patient=f"P{number}",
            number=number,
            modality="MR",
            pixel_mm=mm[:2],
            step_mm=mm[2],
            series=f"1.2.3.{number}",
            study="1.2.3",
        )
    return root


def hashes(output: Path) -> dict[str, str]:
    files = [path for path in output.rglob("*") if path.is_file() and not path.name.startswith(RECORDS)]
    return {path.name: file_hash(path) for path in files if not path.name.startswith(".")}


@pytest.mark.slow
def test_dicom_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    finished_run, medfuse, tmp_path, monkeypatch
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    scans, output, calm = tree(finished_run.data, tmp_path / "scans"), tmp_path / "out", tmp_path / "calm"
    how = ("--format", ",".join(FORMATS), "-q")
    assert medfuse("infer", finished_run.folder, "-i", scans, "-o", calm, *how).code == 0
    wanted = hashes(calm)
    assert len(wanted) == 4 * len(FORMATS)
    command = [sys.executable, "-c", IN_FORMATS, str(finished_run.folder), str(scans), str(output)]
    ended = 0
    for steps in STEPS:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            for step, _ in enumerate(process.stdout):
                if step == steps:
                    process.kill()
                    break
                process.stdin.write("yes\n")
                process.stdin.flush()
        ended += process.returncode == 0
        there = hashes(output) if output.exists() else {}
        assert {name: wanted.get(name) for name in there} == there
    assert ended < len(STEPS)
    assert medfuse("infer", finished_run.folder, "-i", scans, "-o", output, *how).code == 0
    assert hashes(output) == wanted
    said, own = (json.loads((folder / "manifest.json").read_text())["cases"] for folder in (calm, output))
    assert {name: case["formats"] for name, case in own.items()} == {
        name: case["formats"] for name, case in said.items()
    }
