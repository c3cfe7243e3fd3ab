"""A service in a process of its own: how it starts, what clients do to it, how it ends."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from service.answered import attached

pytestmark = pytest.mark.slow


def connected(service) -> socket.socket:
    where = urlsplit(service.url)
    return socket.create_connection((where.hostname, where.port), timeout=20)


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.parent != folder]


def numbers(service) -> dict[str, float]:
    text = httpx.get(f"{service.url}/metrics").text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def until(true, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_when_it_is_told_to(running, image, tmp_path, number):
    service = running()
    httpx.put(f"{service.url}/session/", files=attached(image, "files"), timeout=20)
    assert left_in(tmp_path / "tmp")
    assert service.end(number) == 0
    assert not left_in(tmp_path / "tmp")
    assert "Traceback" not in "".join(service.said)


def test_a_token_is_printed_and_needed_where_others_can_come(running, image):
    service = running("--host", "0.0.0.0")
    (line,) = [line for line in service.said if "token" in line]
    url = service.url.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{url}/info/").status_code == 401
    token = line.split()[-1]
    assert httpx.get(f"{url}/info/", headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_a_token_from_the_environment_is_not_printed(running):
    service = running(env={"MEDFUSE_TOKEN": "a-token-of-the-tests"})
    assert httpx.get(f"{service.url}/info/").status_code == 401
    assert "a-token" not in "".join(service.said)


def test_a_port_that_is_in_use_is_a_line(running, finished_run):
    port = urlsplit(running().url).port
    words = [sys.executable, "-m", "medfuse", "serve", finished_run.folder, "--port", str(port)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip() == f"port {port} is in use; choose another by --port, or end what uses it"


def test_a_client_that_hangs_up_while_it_sends_leaves_nothing(running, image, tmp_path):
    service = running()
    for _ in range(5):
        with connected(service) as wire:
            head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
            wire.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())
            wire.sendall(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\nxxx')
            time.sleep(0.1)
    assert until(lambda: numbers(service)["medfuse_kept_bytes"] == 0)
    assert not [path for path in left_in(tmp_path / "tmp") if path.name == "a.nii"]
    answer = httpx.post(f"{service.url}/infer/cubes", files=attached(image), timeout=30)
    assert answer.status_code == 200


def test_a_client_that_hangs_up_while_it_waits_has_cancelled(running, image, tmp_path):
    service = running()
    body = httpx.Request("POST", f"{service.url}/infer/cubes", files=attached(image))
    content = body.read()
    for _ in range(8):
        with connected(service) as wire:
            lines = "".join(f"{name}: {value}\r\n" for name, value in body.headers.items())
            wire.sendall(f"POST /infer/cubes HTTP/1.1\r\n{lines}\r\n".encode() + content)
            time.sleep(0.05)
    assert until(lambda: numbers(service)["medfuse_kept_bytes"] == 0)
    assert numbers(service)["medfuse_queue_waiting"] == 0
    assert "Traceback" not in "".join(service.said)


def test_a_request_of_ten_gigabytes_is_refused_at_once(running):
    service = running()
    with connected(service) as wire:
        wire.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n")
        assert b"413" in wire.recv(1000).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET /info/ HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
    ],
)
def test_a_client_that_sends_nothing_more_is_cut(running, sent):
    service = running("--idle", "1s")
    with connected(service) as wire:
        wire.sendall(sent)
        began = time.monotonic()
        while True:
            try:
                if not wire.recv(10_000):
                    break
            except ConnectionResetError:
                break
        assert time.monotonic() - began < 10


def test_a_client_that_drips_is_cut(running):
    service = running("--idle", "1s")
    with connected(service) as wire:
        wire.sendall(b"GET /info/ HTTP/1.1\r\nHost: localhost\r\n")
        began = time.monotonic()
        while time.monotonic() - began < 10:
            try:
                wire.sendall(b"A: b\r\n")
            except ConnectionError:
                break
            time.sleep(0.2)
        assert time.monotonic() - began < 10


def test_others_are_served_while_many_hold_the_line(running, image):
    service = running()
    held = [connected(service) for _ in range(150)]
    try:
        for wire in held:
            wire.sendall(b"GET / HTTP/1.1\r\nHost: ")
        answer = httpx.post(f"{service.url}/infer/cubes", files=attached(image), timeout=30)
        assert answer.status_code == 200
    finally:
        for wire in held:
            wire.close()


def test_nothing_that_is_no_http_upsets_it(running):
    service = running()
    for sent in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"\0" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with connected(service) as wire:
            try:
                wire.sendall(sent)
                wire.shutdown(socket.SHUT_WR)
                wire.recv(1000)
            except ConnectionError:
                pass
    assert httpx.get(f"{service.url}/healthz").status_code == 200
