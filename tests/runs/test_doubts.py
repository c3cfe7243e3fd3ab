"""What a run says of its data before it trains."""

import io
import shutil

from phantoms import write_dataset, write_pipeline

from medfuse.core.reporter import Reporter
from medfuse.pipeline import load_pipeline
from medfuse.runs.run import open_run, read_dataset
from medfuse.runs.stages import prepare
from medfuse.train.together import Together


def said(file) -> list[str]:
    """The warnings of a run until it trains."""
    pipeline, _ = load_pipeline(file)
    runs, stream = file.parent / "runs", io.StringIO()
    with open_run(
        pipeline, read_dataset(pipeline), runs, runs / "cubes", Reporter(stream), Together()
    ) as run:
        prepare(run)
    return [line for line in stream.getvalue().splitlines() if line.startswith("warning: ")]


def test_what_is_suspicious_is_said_before_training_and_once(tmp_path):
    data = write_dataset(tmp_path / "cubes")
    file = write_pipeline(tmp_path / "cubes.yaml", data)
    shutil.copy(data / "imagesTr" / "cube_00.nii.gz", data / "imagesTr" / "cube_03.nii.gz")
    lines = said(file)
    (few,) = (line for line in lines if "4 labelled cases" in line)
    assert "Dice of 1 held-out case is" in few
    (copies,) = (line for line in lines if "byte for byte: cube_00 = cube_03" in line)
    assert "some of them train and their copies judge" in copies
    assert len(lines) == len({*lines})
