"""Which models a service offers, and under which names."""

import time
from dataclasses import replace

import numpy as np
import pytest
from service.answered import attached, labels, parts, voxels
from starlette.testclient import TestClient

from medfuse.core.reporter import Reporter
from medfuse.service.app import make_app
from medfuse.service.desk import Desk
from medfuse.service.door import Rules
from medfuse.service.kept import Store
from medfuse.service.limits import Limits
from medfuse.service.models import load_models

QUIET = Reporter(quiet=True)


def test_two_runs_of_one_name_are_two_models(finished_run):
    weights = finished_run.folder / "weights_last.safetensors"
    models = load_models([finished_run.folder, weights], devices=["cpu"], reporter=QUIET)
    assert list(models) == ["cubes", "cubes-2"]


def test_an_exported_file_is_a_model(finished_run, image, tmp_path):
    from medfuse.verbs.export import export_network
    from medfuse.verbs.infer import infer_volumes

    path = tmp_path / "model.pt2"
    export_network(finished_run.folder, path, kind="torch")
    infer_volumes([path], [image], tmp_path / "out", device="cpu", reporter=QUIET)
    models = load_models([path], devices=["cpu"], reporter=QUIET)
    (name,) = models
    kept = tmp_path / "kept"
    kept.mkdir()
    desk = Desk(models, Store(kept, Limits()), Limits())
    with TestClient(make_app(desk, Rules())) as client:
        answer = client.post(f"/infer/{name}", files=attached(image))
        found, content = parts(answer)["image"]
        np.testing.assert_array_equal(
            labels(content, found, tmp_path), voxels(tmp_path / "out" / "cube_00.nii.gz")
        )
    assert desk.queues.close(20)


def test_of_several_models_one_is_named(models, tmp_path, image):
    two = {name: replace(models["cubes"], name=name) for name in ("one", "two")}
    desk = Desk(two, Store(tmp_path, Limits()), Limits())
    with TestClient(make_app(desk, Rules())) as client:
        answer = client.post("/jobs", files=attached(image))
        assert answer.status_code == 422
        assert "say which model: one, two" in answer.json()["detail"]
        answer = client.post("/jobs", files=attached(image), data={"model": "two"})
        assert answer.json()["model"] == "two"
    assert desk.queues.close(20)


def test_each_device_has_a_queue(finished_run, tmp_path, image):
    models = load_models([finished_run.folder], devices=["cpu", "cpu"], reporter=QUIET)
    desk = Desk(models, Store(tmp_path, Limits()), Limits())
    both = []
    for line in desk.queues._lines:
        line._work = lambda job, line=line: (both.append(line), time.sleep(0.2), job.tell(status="done"))
    with TestClient(make_app(desk, Rules())) as client:
        ids = [client.post("/jobs", files=attached(image)).json()["id"] for _ in range(2)]
        while any(client.get(f"/jobs/{id}").json()["status"] != "done" for id in ids):
            time.sleep(0.02)
    assert {id(line) for line in both} == {id(line) for line in desk.queues._lines}
    assert desk.queues.close(20)


@pytest.mark.parametrize("text", ["x y/z", "../..", "ä", ""])
def test_names_can_stand_in_an_address(text):
    from medfuse.service.models import _free_name

    made = _free_name(text, {})
    assert made.isascii()
    assert "/" not in made
    assert made.strip(".")
