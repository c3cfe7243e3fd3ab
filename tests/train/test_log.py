"""The rows of a training: one for each step, whole whatever stood in the file."""

import json
import shutil

import pytest

from medfuse.core.errors import OutputError
from medfuse.train.log import MetricsLog, read_rows


def test_a_step_has_one_row_with_all_that_is_written_of_it(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write({"step": 1, "loss": 0.5})
        log.write({"step": 2, "loss": 0.25, "seconds": 1.0})
        log.write({"step": 2, "dice": 0.75, "seconds": 2.0})
        log.write({"step": 3, "loss": 0.125})
    assert read_rows(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25, "seconds": 2.0, "dice": 0.75},
        {"step": 3, "loss": 0.125},
    ]


def test_rows_of_lost_steps_are_dropped(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "loss": 1.0})
    with MetricsLog(tmp_path, step=2) as log:
        log.write({"step": 3, "loss": 9.0})
    assert [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1.0, 1.0, 9.0]


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"loss": 1}', '{"step": "1"}', "null", '{"step": 1, "loss": "x"}', "[" * 9999]
)
def test_lines_that_are_no_rows_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps({'step': 1})}\n{line}\n{json.dumps({'step': 2})}\n")
    assert read_rows(path) == [{"step": 1}, {"step": 2}]


def test_a_folder_that_goes_away_is_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()

    def train() -> None:
        with MetricsLog(folder) as log:
            while folder.exists():  # TensorBoard's thread may write into it meanwhile
                shutil.rmtree(folder, ignore_errors=True)
            for step in range(2000):
                log.write({"step": step, "loss": 1.0})

    with pytest.raises(OutputError, match="run: "):
        train()
    assert "Traceback" not in capsys.readouterr().err
