"""`--engine`, `--engine-option` and `--workers` become what starts workers, or a line."""

import pytest

from medfuse import MedfuseError, plugins
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


@pytest.mark.parametrize("options", [("cores", "use=ray"), ("cores=none", "colour=1"), ("a b=1", "cores=[1")])
def test_all_mistakes_in_options_are_told_at_once(options):
    with pytest.raises(MedfuseError) as said:
        Workers("local", options, 2).plugin()
    assert len(said.value.lines) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda engines: engines.k8s(image="here/medfuse:1", claim="scans", cores=2, at_once=3),
        lambda engines: engines.slurm(
            partition="a b=c", memory_gb=0.5, more={"nodelist": "x[1-3]", "n": ["1"]}
        ),
        lambda engines: engines.ray(resources={"spot": 1}, scales=True),
        lambda engines: engines.local(),
    ],
)
def test_an_engine_as_an_object_is_the_one_of_its_words(make):
    engine = make(plugins.engines)
    made = Workers.of(engine, 3)
    assert (made.plugin(), made.count) == (engine, 3)
    assert Workers(made.engine, made.options, 3) == made


def test_an_engine_by_its_name_and_a_count_that_is_none():
    assert Workers.of("ray", 2) == Workers("ray", (), 2)
    for count in (0, 1.5, True, "2"):
        with pytest.raises(MedfuseError, match="write a whole number, 1 or more"):
            Workers.of("local", count)


def test_the_command_says_so(finished_run, medfuse, tmp_path):
    images = finished_run.data / "imagesTr"
    said = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "--engine", "lokal")
    assert (said.code, said.out) == (2, "")
    assert "no engine named 'lokal'; did you mean 'local'?" in said.err
    none = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out", "--workers", "0")
    assert none.code == 2
    assert "write a whole number from 1 to 10,000" in " ".join(none.err.split())
    assert not (tmp_path / "out").exists()
