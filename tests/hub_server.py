"""A server here that speaks as huggingface.co does, as far as files are concerned."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medfuse.model.repository import asked_anew

FIRST, SECOND = "1" * 40, "2" * 40


@dataclass
class Hub:
    """Repositories as {revision: (commit, {file: bytes})}; what is asked for, with its token."""

    repos: dict[str, dict[str, tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    cut: bool = False
    url: str = ""

    def publish(self, commit: str, content: bytes, repo: str = "owner/net", **more: str) -> None:
        said = (commit, {"folder/net.pth": content, **{f"{k}.md": v.encode() for k, v in more.items()}})
        self.repos.setdefault(repo, {}).update({"main": said, commit: said})


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            hub.asked.append((self.command, self.path, token))
            repo, found, rest = self.path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            if not found or repo not in hub.repos:
                return self.refuse(401, "RepoNotFound")
            if repo in hub.gated and token != "hf_good":
                return self.refuse(403, "GatedRepo")
            if revision not in hub.repos[repo]:
                return self.refuse(404, "RevisionNotFound")
            commit, files = hub.repos[repo][revision]
            if file not in files:
                return self.refuse(404, "EntryNotFound")
            content = files[file]
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if hub.cut else content)
                self.close_connection = hub.cut
            return None

        def refuse(self, code: int, why: str) -> None:
            self.send_response(code)
            self.send_header("X-Error-Code", why)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def listening(made: Hub, answers: type[BaseHTTPRequestHandler], folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """The library asks `made`; its cache and its token lie in `folder`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    asked_anew()
    try:
        with pytest.MonkeyPatch.context() as patch:
            point_at(made.url, folder, patch)
            yield patch
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        asked_anew()


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A hub with a first commit."""
    made = Hub()
    made.publish(FIRST, b"first weights")
    with listening(made, handler(made), folder):
        yield made


def point_at(url: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The library reads its environment once, when it is imported, and tests of others have done that."""
    from huggingface_hub import constants, file_download

    patch.setenv("MEDFUSE_CACHE", str(folder / "medfuse"))
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
