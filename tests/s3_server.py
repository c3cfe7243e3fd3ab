"""An S3 server here, by moto: it can fail for a while, refuse one object for good, and be slow."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

NAME = "bucket"


@dataclass
class Server:
    """`asked`: method and path of every request. `answer`: an HTTP status to give instead of an answer."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    answer: Callable[[str, str], int | None] = lambda method, path: None
    slow_s: float = 0.0
    client: Any = None

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=NAME, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=NAME, Key=key)["Body"].read()

    @property
    def keys(self) -> dict[str, int]:
        found = self.client.list_objects_v2(Bucket=NAME).get("Contents", [])
        return {one["Key"]: one["Size"] for one in found}

    def count(self, method: str, part: str) -> int:
        return sum(one == method and part in path for one, path in self.asked)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto.start()
    inner = moto._server.app

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        server.asked.append((method, path))
        if server.slow_s:
            time.sleep(server.slow_s)
        if (status := server.answer(method, path)) is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{status} failed", [("Content-Length", "0")])
            return [b""]
        return inner(environ, start)

    moto._server.app = app
    host, port = moto.get_host_and_port()
    server.url = f"http://{host}:{port}"
    server.client = boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        region_name="us-east-1",
    )
    server.client.create_bucket(Bucket=NAME)
    try:
        yield server
    finally:
        server.client.close()
        moto.stop()
