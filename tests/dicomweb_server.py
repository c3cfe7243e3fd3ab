"""A server here that speaks DICOMweb: what it holds is found, sent and added to; it can fail as others do."""

import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword

KEYS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesDescription",
    "PatientID",
)


@dataclass
class Server:
    """`held`: SOPInstanceUID → (what it says, bytes). `fails_after`: so many instances are sent, no more."""

    held: dict[str, tuple[dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    token: str = ""
    fails_after: int | None = None
    refuses_to_store: bool = False
    swaps: bool = False
    url: str = ""

    def add(self, content: bytes) -> str:
        read = dcmread(io.BytesIO(content), force=True)
        said = {key: str(read.get(key, "")) for key in KEYS}
        self.held[said["SOPInstanceUID"]] = (said, content)
        return said["SOPInstanceUID"]

    def add_folder(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            self.add(path.read_bytes())

    @property
    def sent(self) -> list[str]:
        """Instances that were asked for."""
        return [
            path.rsplit("/", 1)[1] for how, path, _ in self.asked if re.search(r"/instances/[^/?]+$", path)
        ]


def as_json(said: dict[str, str]) -> dict:
    kinds = {"Modality": "CS", "SeriesDescription": "LO", "PatientID": "LO"}
    return {
        f"{tag_for_keyword(key):08X}": {"vr": kinds.get(key, "UI"), "Value": [value]}
        for key, value in said.items()
        if value
    }


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            server.asked.append(("GET", parts.path, self.headers.get("Authorization", "")))
            if server.token and self.headers.get("Authorization") != server.token:
                return self.answer(401, b"", "text/plain")
            if parts.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", parts.path.replace("/moved", "/dicom-web"))
                self.send_header("Content-Length", "0")
                return self.end_headers()
            found = re.fullmatch(
                r"/dicom-web(?:/studies/([0-9.]+))?(/series)?(?:/([0-9.]+))?(/instances)?(?:/([0-9.]+))?",
                parts.path,
            )
            if not found:
                return self.answer(404, b"", "text/plain")
            study, _, series, _, instance = found.groups()
            wanted = dict(parse_qsl(parts.query))
            offset = int(wanted.pop("offset", 0))
            wanted |= {"StudyInstanceUID": study} if study else {}
            wanted |= {"SeriesInstanceUID": series} if series else {}
            if instance:
                return self.send(instance)
            level = "SOPInstanceUID" if parts.path.endswith("/instances") else "SeriesInstanceUID"
            rows = {
                said[level]: said
                for said, _ in server.held.values()
                if all(said.get(key) == value for key, value in wanted.items() if key in KEYS)
            }
            made = [as_json(said) for said in list(rows.values())[offset : offset + 5]]
            return self.answer(200, json.dumps(made).encode(), "application/dicom+json")

        def send(self, instance: str) -> None:
            if server.fails_after is not None and len(server.sent) > server.fails_after:
                self.close_connection = True
                self.connection.close()
                return None
            if server.swaps:
                instance = next(uid for uid in server.held if uid != instance)
            if instance not in server.held:
                return self.answer(404, b"", "text/plain")
            content = server.held[instance][1]
            body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"
            return self.answer(200, body, 'multipart/related; type="application/dicom"; boundary=b')

        def do_POST(self) -> None:
            server.asked.append(("POST", self.path, self.headers.get("Authorization", "")))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            said = {}
            for part in body.split(b"--" + boundary)[1:-1]:
                content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
                uid = "1.2" if server.refuses_to_store else server.add(content)
                item = {"00081155": {"vr": "UI", "Value": [uid]}}
                tag = "00081198" if server.refuses_to_store else "00081199"
                said[tag] = {"vr": "SQ", "Value": [item]}
            self.answer(200, json.dumps(said).encode(), "application/dicom+json")

        def answer(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def served() -> Iterator[Server]:
    server = Server()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    server.url = f"http://127.0.0.1:{listening.server_port}/dicom-web"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
