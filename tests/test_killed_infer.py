"""A process that is killed leaves whole files beside hidden ones, and the next run finishes the folder."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medfuse.volumes.read import read_geometry, read_labels

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
