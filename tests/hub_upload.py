"""The server of hub_server, which takes what is pushed as huggingface.co does, and then hands it out."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hub_server import Hub, handler, listening
from huggingface_hub import constants

THIRD = "3" * 40


@dataclass
class Taking(Hub):
    """made: the body of each call that made a repository. refused: a status code for all that is sent."""

    made: list[dict] = field(default_factory=list)
    public: set[str] = field(default_factory=set)
    blobs: dict[str, bytes] = field(default_factory=dict)
    refused: int = 0

    def pushed(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        return self.repos[repo][revision][1]


def taking(hub: Taking) -> type:
    class Handler(handler(hub)):  # type: ignore[misc]  # a class that is made
        def do_GET(self) -> None:
            if not self.path.startswith("/api/"):
                return super().do_GET()
            self.note()
            name = self.path.removeprefix("/api/models/").partition("?")[0].partition("/revision")[0]
            private = name not in hub.public
            return self.say({"id": name, "modelId": name, "private": private, "siblings": [], "sha": THIRD})

        def note(self) -> str:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            hub.asked.append((self.command, self.path, token))
            return token

        def do_PUT(self) -> None:
            self.note()
            hub.blobs[self.path.rpartition("/")[2]] = self.body()
            self.say({})

        def do_POST(self) -> None:
            token, body = self.note(), self.body()
            if hub.refused or token != "hf_good":
                return self.say({"error": "no"}, hub.refused or 401)
            if self.path == "/api/repos/create":
                hub.made.append(json.loads(body))
                return self.say({"url": f"{hub.url}/{hub.made[-1]['organization']}/{hub.made[-1]['name']}"})
            if self.path == "/api/validate-yaml":
                return self.say({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                files = json.loads(body)["files"]
                return self.say({"files": [self.mode(one["path"]) for one in files]})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                return self.say({"transfer": "basic", "objects": [self.place(one) for one in objects]})
            if "/branch/" in self.path:
                return self.say({})
            if "/commit/" in self.path:
                return self.commit([json.loads(line) for line in body.splitlines()])
            return self.say({"error": "no such thing"}, 404)

        def mode(self, path: str) -> dict:
            kind = "lfs" if path.endswith((".safetensors", ".pt")) else "regular"
            return {"path": path, "uploadMode": kind, "shouldIgnore": False}

        def place(self, one: dict) -> dict:
            return {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}

        def commit(self, lines: list[dict]) -> None:
            repo, _, revision = self.path.removeprefix("/api/models/").partition("/commit/")
            revision = revision.partition("?")[0]
            files = dict(hub.repos.get(repo, {}).get(revision, ("", {}))[1])
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
                    assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
            said = (THIRD, files)
            hub.repos.setdefault(repo, {}).update({revision: said, THIRD: said})
            self.say({"commitUrl": f"{hub.url}/{repo}/commit/{THIRD}", "commitOid": THIRD, "hookOutput": ""})

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def say(self, value: object, code: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


@contextmanager
def taking_hub(folder: Path) -> Iterator[Taking]:
    """A hub that the library asks and sends to, as who has logged in."""
    made = Taking()
    with listening(made, taking(made), folder) as patch:
        patch.setenv("HF_TOKEN", "hf_good")
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # which has servers of its own
        yield made
