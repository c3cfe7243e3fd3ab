"""`--engine`, `--engine-option` and `--workers` become what starts workers, or a line."""

import pytest

from medfuse import MedfuseError
from medfuse.verbs.crews import Workers


def test_one_worker_of_this_machine_is_this_process():
    assert not Workers().are_others
    assert Workers(count=2).are_others
    assert Workers("ray").are_others


def test_the_starter_gives_workers_of_a_command(tmp_path):
    crew = Workers("local", (), 2).starter(["--version"], tmp_path)(2)
    try:
        assert len(crew) == 2
    finally:
        crew.end()


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("locl", (), "no engine named 'locl'; did you mean 'local'"),
        ("local", ("cores",), "--engine-option cores: write it as key=value"),
        ("local", ("a b=1",), "write it as key=value"),
        ("local", ("use=ray",), "write it as key=value"),
        ("local", ("colour=1",), "--engine local: colour: .*not permitted.*medfuse plugins show local"),
        ("local", ("cores=[1",), r"--engine-option cores=\[1: not valid YAML"),
    ],
)
def test_a_mistake_is_a_line(engine, options, message):
    with pytest.raises(MedfuseError, match=message) as said:
        Workers(engine, options, 2).plugin()
    assert len(said.value.lines) == 1


def test_the_command_says_so(finished_run, medfuse, tmp_path):
    images = finished_run.data / "imagesTr"
    said = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "--engine", "lokal")
    assert (said.code, said.out) == (2, "")
    assert "no engine named 'lokal'; did you mean 'local'?" in said.err
    none = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "--workers", "0")
    assert none.code == 2
    assert "write a whole number from 1 to 10,000" in " ".join(none.err.split())
    assert not (tmp_path / "out").exists()
