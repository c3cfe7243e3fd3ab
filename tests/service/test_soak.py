"""Many clients at once, some of which hang up or lie: each gets what is its own, and nothing is left."""

import random
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from service.answered import attached
from service.test_job_api import lying
from service.test_uploads import BAD

pytestmark = pytest.mark.slow

CLIENTS, REQUESTS = 8, 200
MOST_GROWTH = 64 << 20
"""Bytes: what the C library keeps between sizes of its blocks goes up and down by some of them."""


class Clients:
    """What they do to a service, and what came of it."""

    def __init__(self, url: str, images: list[Path], inferred: Path) -> None:
        self.url, self.images, self.inferred = url, images, inferred
        self.came: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.turn = threading.Lock()

    def note(self, what: str, wrong: str = "") -> None:
        with self.turn:
            self.came[what] += 1
            if wrong:
                self.wrong.append(f"{what}: {wrong}")

    def send(self, client: httpx.Client, method: str, path: str, **content) -> httpx.Response:
        """Again, as long as the queue is full."""
        for _ in range(200):
            answer = client.request(method, path, **content)
            if answer.status_code != 429:
                break
            self.note("429")
            time.sleep(0.05 + 0.1 * random.random())
        return answer

    def infer(self, client: httpx.Client, image: Path) -> None:
        answer = self.send(client, "POST", "/infer/cubes?output=image", files=attached(image))
        self.compare("infer", answer, image)

    def session(self, client: httpx.Client, image: Path) -> None:
        made = self.send(client, "PUT", "/session/", files=attached(image, "files")).json()["session_id"]
        answer = self.send(client, "POST", f"/infer/cubes?session_id={made}&output=image")
        self.compare("session", answer, image)
        client.delete(f"/session/{made}")

    def job(self, client: httpx.Client, image: Path) -> None:
        answer = self.send(client, "POST", "/jobs", files=attached(image))
        where = answer.headers["location"]
        with client.stream("GET", f"{where}/events") as events:
            last = [line for line in events.iter_lines() if line.startswith("data: ")][-1]
        if '"status":"done"' not in last:
            self.note("job", last)
        self.compare("job", client.get(f"{where}/result"), image)
        client.delete(where)

    def compare(self, what: str, answer: httpx.Response, image: Path) -> None:
        want = (self.inferred / image.name).read_bytes()
        right = answer.status_code == 200 and answer.content == want
        self.note(what, "" if right else f"{answer.status_code} {answer.content[:200]!r}")

    def lie(self, client: httpx.Client, image: Path) -> None:
        name, content = random.choice(
            [
                ("scan.nii", lying((30000, 30000, 30000))),
                ("scan.nii", lying((10, 10, 25), spacing=1e6)),
                ("scan.nii.gz", image.read_bytes()[:-200]),
                (
                    "scan.nrrd",
                    b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9999 9999 9999\nencoding: raw\n\n",
                ),
                *(("scan.zip", content) for content in BAD.values()),
            ]
        )
        answer = self.send(client, "POST", "/infer/cubes", files={"file": (name, content)})
        self.note("lie", "" if answer.status_code == 422 else f"{answer.status_code} {answer.text[:200]}")

    def hang_up(self, client: httpx.Client, image: Path) -> None:
        where = urlsplit(self.url)
        body = httpx.Request("POST", f"{self.url}/infer/cubes", files=attached(image))
        content = body.read()
        lines = "".join(f"{key}: {value}\r\n" for key, value in body.headers.items())
        with socket.create_connection((where.hostname, where.port), timeout=20) as wire:
            wire.sendall(f"POST /infer/cubes HTTP/1.1\r\n{lines}\r\n".encode())
            wire.sendall(content[: random.choice([0, 10, len(content) // 2, len(content)])])
            time.sleep(0.1 * random.random())
        self.note("hung up")

    def one(self, number: int) -> None:
        image = self.images[number % len(self.images)]
        acts = [self.infer, self.infer, self.session, self.job, self.job, self.lie, self.lie, self.hang_up]
        with httpx.Client(base_url=self.url, timeout=120) as client:
            try:
                acts[number % len(acts)](client, image)
            except Exception as error:
                self.note("raised", repr(error))


def numbers(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}


def settled(url: str) -> dict[str, float]:
    """Numbers once nothing is kept any more."""
    for _ in range(200):
        said = numbers(url)
        if said["medfuse_kept_bytes"] == said["medfuse_queue_running"] == said["medfuse_queue_waiting"] == 0:
            return said
        time.sleep(0.1)
    raise AssertionError(said)


def test_two_hundred_requests_of_eight_clients_at_once(running, finished_run, inferred, tmp_path):
    service = running("--queue", "6")
    images = sorted((finished_run.data / "imagesTr").glob("*.nii.gz"))
    for round in range(2):
        clients = Clients(service.url, images, inferred)
        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(clients.one, range(REQUESTS if round else REQUESTS // 2)))
        assert not clients.wrong, clients.wrong[:5]
        assert sum(clients.came.values()) >= REQUESTS // 2
        said = settled(service.url)
        if round == 0:
            before = said
    grown = said["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    assert grown < MOST_GROWTH, f"{grown / 2**20:.0f} MiB more"
    assert said["process_open_fds"] <= before["process_open_fds"] + 3
    assert 'medfuse_requests_total{status="500"}' not in said
    assert "Traceback" not in "".join(service.said)
    assert service.end() == 0
    assert not [path for path in (tmp_path / "tmp").rglob("*") if path.parent != tmp_path / "tmp"]
