"""A service in this process, with a tiny model."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from starlette.testclient import TestClient

from medfuse.core.reporter import Reporter
from medfuse.service.app import make_app
from medfuse.service.desk import Desk
from medfuse.service.door import Rules
from medfuse.service.kept import Store
from medfuse.service.limits import Limits
from medfuse.service.models import Model, load_models


@dataclass
class Service:
    """`client` speaks to it, `desk` is behind it, `folder` holds what it keeps."""

    client: TestClient
    desk: Desk
    folder: Path

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept; a worker may still be about to let go."""
        until = time.monotonic() + 3
        while any(self.folder.iterdir()) and time.monotonic() < until:
            time.sleep(0.01)
        return not any(self.folder.iterdir())


@pytest.fixture(scope="session")
def models(finished_run) -> dict[str, Model]:
    return load_models([finished_run.folder], devices=["cpu"], reporter=Reporter(quiet=True))


@pytest.fixture
def make_service(models, tmp_path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(rules: Rules | None = None, desk: dict[str, Any] | None = None, **limits: Any) -> Service:
        folder = tmp_path / f"kept{len(made)}"
        folder.mkdir()
        bounds = replace(Limits(), **limits)
        behind = Desk(models, Store(folder, bounds), bounds, **(desk or {}))
        app = make_app(behind, rules or Rules(behind.token))
        client = TestClient(app, raise_server_exceptions=True)
        client.__enter__()
        made.append(Service(client, behind, folder))
        return made[-1]

    yield make
    for service in made:
        service.client.__exit__(None, None, None)
        assert service.desk.queues.close(20)


@pytest.fixture
def service(make_service) -> Service:
    return make_service()


@pytest.fixture
def image(finished_run) -> Path:
    return finished_run.data / "imagesTr" / "cube_00.nii.gz"


@pytest.fixture(scope="session")
def inferred(finished_run, tmp_path_factory) -> Path:
    """What `medfuse infer` makes of the same images."""
    from medfuse.verbs.infer import infer_volumes

    out = tmp_path_factory.mktemp("inferred")
    images = finished_run.data / "imagesTr"
    infer_volumes([finished_run.folder], [images], out, device="cpu", reporter=Reporter(quiet=True))
    return out


@dataclass
class Running:
    """A service in a process of its own."""

    process: subprocess.Popen
    url: str
    said: list[str]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def running(finished_run, tmp_path) -> Iterator[Callable[..., Running]]:
    """Starts `medfuse serve` on a free port of loopback; ends it after the test."""
    made: list[Running] = []

    def run(*words: object, env: dict[str, str] | None = None) -> Running:
        command = [
            sys.executable,
            "-m",
            "medfuse",
            "serve",
            finished_run.folder,
            "--port",
            "0",
            "--device",
            "cpu",
        ]
        (tmp_path / "tmp").mkdir(exist_ok=True)
        process = subprocess.Popen(
            [*map(str, command), *map(str, words)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), **(env or {})},
        )
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"at (http://\S+);", line):
                break
        else:
            raise AssertionError(f"it did not start: {''.join(said)}")
        made.append(Running(process, found[1], said))
        threading.Thread(target=lambda: said.extend(process.stderr), daemon=True).start()
        return made[-1]

    yield run
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait(30)
        one.process.stderr.close()
