"""The trackers that come with medfuse, each with its own library where that is installed."""

import sqlite3

import pytest

from medfuse import registry
from medfuse.api import TrackedRun, Tracker
from medfuse.testing import check_tracker

NAMES = ("mlflow", "wandb", "trackio")


def tracker(name, **parameters):
    pytest.importorskip(name, reason=f"{name} comes with the extra {name}")
    return registry.get(Tracker.group, name)(**parameters)


def run(folder, step=0):
    (folder / "livers").mkdir(exist_ok=True)
    (folder / "livers" / "report.html").write_text("<html></html>")
    return TrackedRun("livers", "1a2b3c", folder / "livers", folder, step, {"seed": 1, "train.minutes": 0.5})


def whole(plugin, folder):
    """A run that is killed after two steps and carried on from the first."""
    begun = plugin.begin(run(folder))
    for step in (1, 2):
        begun.log(step, {"loss": 1.0 / step})
    begun = plugin.begin(run(folder, 1))
    for step in (2, 3):
        begun.log(step, {"loss": 1.0 / step, "dice/liver": 0.5})
    begun.finish({"Dice": 0.5}, [folder / "livers" / "report.html"])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the libraries
@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name):
    check_tracker(tracker(name))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_has_one_run_with_all_that_was_told(tmp_path):
    plugin = tracker("mlflow")
    whole(plugin, tmp_path)
    from mlflow.tracking import MlflowClient

    from medfuse.builtin.trackers.mlflow import local

    client = MlflowClient(tracking_uri=local(run(tmp_path)))
    experiment = client.get_experiment_by_name("medfuse")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["train.minutes"] == "0.5"
    assert {one.step for one in client.get_metric_history(found.info.run_id, "loss")} == {1, 2, 3}
    assert found.data.metrics["held out/Dice"] == 0.5
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["report.html"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_keeps_runs_here_and_sends_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    whole(tracker("wandb", mode="online"), tmp_path)  # nobody is logged in
    assert {*(tmp_path / "wandb").glob("*-1a2b3c*")} == {*(tmp_path / "wandb").glob("offline-run-*")} != set()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_trackio_has_one_run_in_its_database(tmp_path, monkeypatch):
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    whole(tracker("trackio"), tmp_path)
    (file,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select distinct run_name from metrics").fetchall()
    assert rows == [("livers 1a2b3c",)]
