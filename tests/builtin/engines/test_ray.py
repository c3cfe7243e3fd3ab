"""Workers on a Ray cluster of several nodes on this machine, which come and go."""

import json

import pytest
from fleets import began, rehearsal, wait_for

from medfuse import MedfuseError, registry
from medfuse.testing import check_engine

ray = pytest.importorskip("ray", reason="ray comes with the extra ray")
pytestmark = pytest.mark.filterwarnings("default")  # those of Ray


def engine(**options):
    return registry.get("medfuse.engines", "ray")(**options)


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=2, resources={"spot": 2})
    ray.init(address=made.address, log_to_driver=False, logging_level=40)
    yield made
    ray.shutdown()
    made.shutdown()


def test_it_keeps_the_contract_on_a_cluster(cluster):
    check_engine(engine(cores=1))


def test_what_no_node_has_is_a_line(cluster, tmp_path):
    with pytest.raises(MedfuseError, match=r"no node of the cluster has CPU: 64; ask for less"):
        engine(cores=64).start(rehearsal(tmp_path), 1)
    with pytest.raises(MedfuseError, match=r"no node of the cluster has CPU: 1, GPU: 1"):
        engine(cores=1, gpus=1).start(rehearsal(tmp_path), 1)
    with pytest.raises(MedfuseError, match=r"no node of the cluster has CPU: 1, moon: 1"):
        engine(cores=1, resources={"moon": 1}).start(rehearsal(tmp_path), 1)


def test_more_workers_than_there_is_room_for_wait(cluster, tmp_path):
    crew = engine(cores=1, resources={"spot": 1}).start(rehearsal(tmp_path), 3)
    try:
        wait_for(lambda: len(began(tmp_path)) == 2)
        assert (len(crew), crew.ended()) == (3, [])
        (tmp_path / f"{min(began(tmp_path))}.order").write_text("well")
        wait_for(lambda: crew.ended() == [] and len(began(tmp_path)) == 3)
        assert len(crew) == 2
    finally:
        crew.end()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:9", "no cluster answers at ray://127.0.0.1:9: .*refused.*ray start --head"),
        ("127.0.0.1:9", "no cluster answers at 127.0.0.1:9"),
        ("head", "address 'head': write it as ray://HOST:10001"),
        ("ray://head:port", "write it as ray://HOST:10001"),
        ("ray://127.0.0.1:99999", "no cluster answers"),
    ],
)
def test_an_address_without_a_cluster_is_a_line(address, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(MedfuseError, match=message) as said:
        engine(address=address).start(rehearsal(tmp_path), 1)
    assert len(said.value.lines) == 1


@pytest.mark.slow
def test_a_worker_whose_node_is_lost_begins_again_elsewhere(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1, resources={"fast": 1})
    crew = engine(cores=1, resources={"fast": 1}).start(rehearsal(tmp_path), 1)
    try:
        wait_for(lambda: sum(began(tmp_path).values()) == 1)
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=1, resources={"fast": 1})
        wait_for(lambda: [*began(tmp_path).values()] == [2], 120)
        assert crew.ended() == []
        (tmp_path / f"{min(began(tmp_path))}.order").write_text("well")
        wait_for(lambda: crew.ended() == [] and len(crew) == 0)
    finally:
        crew.end()


@pytest.mark.slow
def test_a_cluster_is_started_for_the_call_and_gone_afterwards(tmp_path):
    """In a process of its own, as this one is a driver already."""
    import subprocess
    import sys

    code = """
import json, os, sys
from pathlib import Path
from medfuse import registry
from medfuse.testing import check_engine
check_engine(registry.get("medfuse.engines", "ray")())
import ray
print(json.dumps(ray.is_initialized()))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr[-2000:]
    assert json.loads(said.stdout) is False
