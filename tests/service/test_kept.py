"""What is kept for clients goes by itself, at the end and at the start."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace

import pytest
from service.answered import attached

from medfuse.service.kept import Store, scratch
from medfuse.service.limits import Limits
from medfuse.service.refusals import Refusal


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, replace(Limits(), keep_s=0.05, disk=1000))


def test_what_nobody_asks_for_goes(store, tmp_path):
    kept = store.add("session")
    (kept.folder / "x").write_bytes(b"x")
    assert store.get("session", kept.id) is kept
    time.sleep(0.06)
    with pytest.raises(Refusal, match="no session"):
        store.get("session", kept.id)
    store.sweep()
    assert not any(tmp_path.iterdir())


def test_what_is_asked_for_stays(store):
    kept = store.add("session")
    for _ in range(4):
        time.sleep(0.02)
        assert store.get("session", kept.id) is kept


def test_what_is_in_use_stays_and_goes_afterwards(store, tmp_path):
    kept = store.add("session")
    with store.held(kept):
        time.sleep(0.06)
        store.sweep()
        store.remove(kept)
        assert kept.folder.is_dir()
    assert not any(tmp_path.iterdir())


def test_an_image_of_the_same_name_is_replaced(store, tmp_path):
    first, second = store.add("image"), store.add("image")
    store.rename(first, "x")
    store.rename(second, "x")
    assert store.get("image", "x") is second
    assert not first.folder.exists()


def test_a_full_disk_takes_no_more(store):
    kept = store.add("session")
    (kept.folder / "x").write_bytes(b"x" * 1000)
    with pytest.raises(Refusal, match="delete what is not needed"):
        store.add("session")


def test_names_are_not_to_be_guessed(store):
    names = {store.add("session").id for _ in range(50)}
    assert len(names) == 50
    assert all(len(name) >= 20 for name in names)


def test_the_folder_of_a_service_is_gone_with_it_and_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as first, scratch() as second:
        assert first != second
        assert first.parent.stat().st_mode & 0o077 == first.stat().st_mode & 0o077 == 0
        assert first.is_dir()
    assert not first.exists()
    assert not second.exists()


def test_what_a_killed_service_left_is_gone_at_the_next_start(tmp_path, monkeypatch):
    code = (
        "import os\nfrom medfuse.service.kept import scratch\n"
        "with scratch() as folder:\n    (folder / 'x').write_text('x')\n    os._exit(9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    left = list(tmp_path.rglob("x"))
    assert len(left) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch():
        assert not left[0].exists()


def test_results_go_after_their_time(make_service, image):
    service = make_service(keep_s=0.3)
    id = service.client.post("/jobs", files=attached(image)).json()["id"]
    until = time.monotonic() + 20
    while not service.is_empty and time.monotonic() < until:
        time.sleep(0.05)
    assert service.is_empty
    assert service.client.get(f"/jobs/{id}").status_code == 404


def test_a_session_that_expires_while_it_is_labelled_is_labelled(make_service, image):
    service = make_service(keep_s=0.2)
    id = service.client.put("/session/", files=attached(image, "files")).json()["session_id"]
    (line,) = service.desk.queues._lines
    work = line._work

    def slow(job) -> None:
        threading.Event().wait(0.5)
        work(job)

    line._work = slow
    assert service.client.post(f"/infer/cubes?session_id={id}").status_code == 200
