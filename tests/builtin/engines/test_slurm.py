"""Workers as jobs of Slurm: by submitit's own processes, and on a real Slurm of one node where it is."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from fleets import began, hashes, infer, rehearsal, wait_for

from medfuse import Command, MedfuseError, registry
from medfuse.testing import check_engine

submitit = pytest.importorskip("submitit", reason="submitit comes with the extra slurm")
pytestmark = pytest.mark.filterwarnings("default")  # of the processes that submitit leaves to the queue


def engine(**options):
    return registry.get("medfuse.engines", "slurm")(**{"cores": 1, **options})


def test_workers_are_told_of_by_name(tmp_path):
    crew = engine(executor="local").start(rehearsal(tmp_path), 2)
    wait_for(lambda: len(began(tmp_path)) == 2)
    first, second = sorted(began(tmp_path))
    (tmp_path / f"{first}.order").write_text("fail")
    (tmp_path / f"{second}.order").write_text("well")
    told = []
    wait_for(lambda: told.extend(crew.ended()) or len(crew) == 0)
    assert told == [(first, "its worker ended with code 1: this worker cannot go on")]
    crew.end()


def test_what_is_preempted_is_queued_again_under_its_name(tmp_path):
    crew = engine(executor="local").start(rehearsal(tmp_path), 1)
    wait_for(lambda: len(began(tmp_path)) == 1)
    ((_, job),) = crew._members.values()
    controller = job._process.pid
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    wait_for(lambda: [*began(tmp_path).values()] == [2])
    assert crew.ended() == []
    (tmp_path / f"{min(began(tmp_path))}.order").write_text("well")
    wait_for(lambda: crew.ended() == [] and len(crew) == 0)


def test_options_become_those_of_sbatch(tmp_path):
    made = engine(
        partition="gpu",
        cores=8,
        gpus=1,
        minutes=120,
        memory_gb=1.5,
        more={"account": "radiology", "qos": "low"},
    )
    told = made._parameters(Command(("work",), tmp_path))
    text = submitit.slurm.slurm._make_sbatch_string("run", tmp_path, **told)
    for line in (
        "--partition=gpu",
        "--cpus-per-task=8",
        "--gpus-per-node=1",
        "--time=120",
        "--mem=1536MB",
        "--account=radiology",
        "--qos=low",
        "--signal=USR2@90",
    ):
        assert f"#SBATCH {line}" in text


def test_a_machine_without_slurm_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MedfuseError, match="no srun here; run this on a machine of a Slurm cluster") as said:
        engine().start(rehearsal(tmp_path), 1)
    assert len(said.value.lines) == 1
    before = [*tmp_path.iterdir()]
    with pytest.raises(MedfuseError, match="no srun here"):
        engine().ready()
    assert [*tmp_path.iterdir()] == before


@pytest.mark.slow
def test_it_keeps_the_contract_in_processes(tmp_path):
    check_engine(engine(executor="local"))


# ---- a real one


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    import slurm_cluster

    if missing := slurm_cluster.missing():
        pytest.skip(f"no {', '.join(missing)} here; apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("its daemons are started by root")
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.mark.slow
def test_it_keeps_the_contract_on_a_cluster(slurm):
    check_engine(engine(minutes=5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "moon"}, "--engine slurm: .*Invalid partition name specified"),
        ({"more": {"acount": "x"}}, r"--engine slurm: more: .*acount.*names of sbatch's options"),
    ],
)
def test_what_the_cluster_refuses_is_a_line(slurm, options, message, tmp_path):
    with pytest.raises(MedfuseError, match=message) as said:
        engine(**options).start(rehearsal(tmp_path), 2)
    assert len(said.value.lines) == 1


@pytest.mark.slow
def test_a_preempted_job_is_queued_again_by_the_cluster(slurm, tmp_path):
    crew = engine(minutes=5).start(rehearsal(tmp_path), 2)
    try:
        wait_for(lambda: len(began(tmp_path)) == 2)
        for _, job in [*crew._members.values()][:1]:
            subprocess.run(["scancel", "--signal=USR2", job.job_id], check=True)
        wait_for(lambda: sorted(began(tmp_path).values()) == [1, 2], 120)
        assert crew.ended() == []
        assert len(crew) == 2
    finally:
        crew.end()


@pytest.mark.slow
def test_a_job_that_somebody_cancels_is_told_of(slurm, tmp_path):
    crew = engine(minutes=5).start(rehearsal(tmp_path), 1)
    try:
        wait_for(lambda: len(began(tmp_path)) == 1)
        ((name, job),) = crew._members.values()
        subprocess.run(["scancel", job.job_id], check=True)
        told = []
        wait_for(lambda: told.extend(crew.ended()) or told, 90)
        assert [who for who, _ in told] == [name]
    finally:
        crew.end()


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_same_command_carries_on(slurm, finished_run, tmp_path):
    images, one, many = finished_run.data / "imagesTr", tmp_path / "one", tmp_path / "many"
    subprocess.run(infer(finished_run, images, one), check=True, timeout=300)
    options = ["--engine-option", "cores=1", "--engine-option", "minutes=5"]
    command = infer(finished_run, images, many, "--engine", "slurm", "--workers", 2, *options)
    leader = subprocess.Popen(command)
    wait_for(lambda: [*many.glob(".fleet/workers/*")] or leader.poll() is not None)
    leader.send_signal(signal.SIGKILL)
    leader.wait()
    subprocess.run(command, check=True, timeout=600)
    assert hashes(many) == hashes(one)
    assert {path.name for path in many.iterdir()} == {path.name for path in one.iterdir()}
    assert len(json.loads((many / "manifest.json").read_text())["cases"]) == 4
