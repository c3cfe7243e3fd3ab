"""A folder that one process works in is refused by every verb that writes into it, and stays as it is."""

import shutil
from pathlib import Path

import pytest

from medfuse.core.lock import locked


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("verb", ["infer", "features", "run", "run --retrain", "import-nnunet"])
def test_a_folder_in_use_is_refused(finished_run, medfuse, tmp_path, verb):
    folder = tmp_path / "runs" / "cubes"
    shutil.copytree(finished_run.folder, folder)
    images = finished_run.data / "imagesTr"
    verb, *options = verb.split()
    words = {
        "infer": (finished_run.folder, "-i", images, "-o", folder),
        "features": (finished_run.folder, "-l", "decoded", "-i", images, "-o", folder),
        "run": (finished_run.pipeline, "--runs", folder.parent, "--set", "train.steps=6"),
        "import-nnunet": (tmp_path / "nnunet", "-o", folder),
    }[verb]
    checkpoint = tmp_path / "nnunet" / "fold_0" / "checkpoint_final.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with locked(folder):
        before = content(folder)
        said = medfuse(verb, *words, *options, "-q")
        assert content(folder) == before
    assert said.code == 2
    assert f"{folder}: is in use by process" in said.err
    assert said.err.count("\n") == 1
