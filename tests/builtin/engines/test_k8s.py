"""An Indexed Job of Kubernetes whose pods do a shard each."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from medfuse import Command, MedfuseError, registry
from medfuse.cli.words import shard_of
from medfuse.testing import check_engine

ARGUMENTS = ("infer", "/data/runs/liver", "--input", "/data/scäns of $(HOME)", "--output", "/data/labels")


def engine(**options):
    return registry.get("medfuse.engines", "k8s")(**options)


def job(workers=4, **options):
    return yaml.safe_load(engine(**options).printed(Command(ARGUMENTS, "/data"), workers))


def test_it_keeps_the_contract():
    check_engine(engine())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gpus": 2, "memory_gb": 1.5, "namespace": "radiology", "at_once": 2, "retries": 0, "name": "livers"},
    ],
)
def test_it_is_a_job_by_the_schema_of_kubernetes(options):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate comes with the extra dev"
    )
    validate.validate(job(**options), validate.latest_version(), strict=True)
    broken = job(**options)
    broken["spec"]["completionz"] = 4
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, validate.latest_version(), strict=True)


def test_its_pods_are_the_shards_of_the_command_line():
    """Kubernetes puts 0 … completions - 1 in place of the index; each is a shard that `infer` takes."""
    spec = job(4)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    words = spec["template"]["spec"]["containers"][0]["args"]
    assert words[-2] == "--shard"
    shards = [shard_of(words[-1].replace("$(JOB_COMPLETION_INDEX)", str(index))) for index in range(4)]
    assert shards == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_words_are_taken_literally():
    """`$$` is how Kubernetes writes a dollar."""
    words = job()["spec"]["template"]["spec"]["containers"][0]["args"][:-2]
    assert [word.replace("$$", "$") for word in words] == list(ARGUMENTS)
    assert "$$(HOME)" in words[3]


def test_it_starts_nothing_itself(tmp_path):
    with pytest.raises(MedfuseError, match=r"--engine k8s: starts nothing itself; add --print") as said:
        engine().start(Command(ARGUMENTS, tmp_path), 2)
    assert len(said.value.lines) == 1


def test_the_command_prints_what_the_pods_run(medfuse):
    said = medfuse(
        *("infer", "runs/liver", "-i", "/data/scans", "--workers=3", "-o", "/data/labels", "--strict"),
        *("--engine", "k8s", "--engine-option", "claim=mine", "--engine-option=gpus=1", "--print"),
    )
    assert said.code == 0, said.err
    pod = yaml.safe_load(said.out)["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "mine"}
    words = pod["containers"][0]["args"]
    given = "infer runs/liver -i /data/scans -o /data/labels --strict --shard $(JOB_COMPLETION_INDEX)/3"
    assert words == shlex.split(given)


def test_engines_that_start_their_workers_print_nothing(medfuse):
    said = medfuse("infer", "runs/liver", "-i", "scans", "-o", "labels", "--print")
    assert said.code == 2
    assert "--engine local: it starts its workers itself; leave --print out" in said.err


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (("/data/runs", "/data", "/data/a/../b"), ""),
        (("runs/liver", "/data/x"), "runs/liver: not below /data"),
        (("/database", "/data/../etc"), "/database, /data/../etc: not below /data"),
    ],
)
def test_what_pods_do_not_see_is_one_line(places, told, caplog):
    engine().printed(Command(ARGUMENTS, "/data", places=tuple(map(Path, places))), 2)
    assert len(caplog.messages) == bool(told)
    assert told in "".join(caplog.messages)


def test_json_is_of_what_is_printed_and_not_of_the_pods(medfuse):
    words = ("infer", "s3://bucket/run", "-i", "/data/in", "-o", "/data/out", "--engine", "k8s", "--print")
    said = medfuse(*words, "--json")
    assert (said.code, said.err) == (0, "")
    assert "--json" not in json.loads(said.out)["file"]


@pytest.mark.parametrize(
    "words",
    [
        ("infer", "run", "-i", "scans", "-o", "out"),
        ("evaluate", "ours", "theirs", "-o", "out"),
        ("features", "run", "-l", "bottleneck", "-i", "scans", "-o", "out"),
        ("run", "pipeline.yaml", "--folds", "all"),
        ("compare", "a.yaml", "b.yaml", "-o", "out"),
        ("search", "a.yaml"),
    ],
)
def test_every_verb_refuses_to_start_it_before_all_else(words, medfuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = medfuse(*words, "--engine", "k8s", "--workers", "2")
    assert said.code == 2
    assert said.err.count("starts nothing itself; add --print to `medfuse infer`, which alone has it") == 1
    assert not [*tmp_path.iterdir()]


def test_a_job_of_too_many_pods_is_a_line():
    with pytest.raises(MedfuseError, match=r"a Job has 100,000 pods at most, and not 100,001"):
        engine().printed(Command(ARGUMENTS, "/data"), 100_001)
