"""Nothing asks for a host, and nothing is left in the home folder."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medfuse.core import offline

HOOK = """
import os, sys

def note(event, details):
    asks = event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname")
    if asks or event == "urllib.Request":
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{event} {details!r}\\n")

sys.addaudithook(note)
"""

VERBS = """
import json, os, sys
from medfuse import cli
os._exit = sys.exit
for words in json.loads(sys.argv[1]):
    sys.argv = ["medfuse", *words]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
"""

RUNTIMES = {
    "torch": "torch",
    "torch_winograd": "torch",
    "torch_compile": "torch",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "auto": "torch",
}


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


class Watched:
    """A home folder, and Python code that runs in it with every look-up written down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self._asked = folder, folder / "home", folder / "asked"
        (folder / "site").mkdir()
        self.home.mkdir()
        (folder / "site" / "sitecustomize.py").write_text(HOOK)

    def python(self, code: str, *arguments: str) -> None:
        path = os.pathsep.join([str(self.folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        given = {"HOME": str(self.home), "ASKED": str(self._asked), "PYTHONPATH": path}
        dropped = (
            "MEDFUSE_CACHE",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "MPLCONFIGDIR",
            "ORT_DISABLE_TELEMETRY",
        )
        environment = {name: value for name, value in os.environ.items() if name not in dropped} | given
        command = [*self._tracer(), sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def asked(self) -> list[str]:
        """Names that were looked up and addresses that were called, by Python or below it."""
        calls = self._asked.read_text().splitlines() if self._asked.exists() else []
        if self._calls.exists():
            calls += [line for line in self._calls.read_text().splitlines() if "AF_INET" in line]
        return [call for call in calls if "127.0.0.1" not in call and '"::1"' not in call]

    def left(self) -> list[str]:
        """Files in the home folder, but for medfuse's own."""
        own = self.home / ".cache" / "medfuse"
        files = [path for path in self.home.rglob("*") if path.is_file() and own not in path.parents]
        return [str(path.relative_to(self.home)) for path in files]

    @property
    def _calls(self) -> Path:
        return self.folder / "calls"

    def _tracer(self) -> list[str]:
        """strace, where it is there and allowed: telemetry in C++ is seen too."""
        if not shutil.which("strace"):
            return []
        trace = ["strace", "-f", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmmsg"]
        works = subprocess.run([*trace, "-o", os.devnull, "true"], capture_output=True).returncode == 0
        return [*trace, "-A", "-o", str(self._calls)] if works else []


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_the_watch_sees_a_look_up(watched: Watched) -> None:
    watched.python(
        "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('x.test', 80)"
    )
    assert any("x.test" in call for call in watched.asked())


@pytest.mark.parametrize("package", ["openvino", "nncf", "onnxruntime", "matplotlib.font_manager"])
def test_a_package_that_is_imported_calls_nobody_and_leaves_nothing(watched: Watched, package: str) -> None:
    if not installed(package.partition(".")[0]):
        pytest.skip(f"{package} is not installed")
    watched.python(
        f"from medfuse.core.offline import import_offline as take\n"
        f"import sys, time\n"
        f"take({package!r})\n"
        f"assert 'openvino_telemetry' not in sys.modules\n"
        f"time.sleep(0.5)"
    )
    assert (watched.asked(), watched.left()) == ([], [])


def test_telemetry_that_a_program_uses_itself_stays(watched: Watched) -> None:
    watched.python(
        "import sys, types\n"
        "sys.modules['openvino_telemetry'] = own = types.ModuleType('openvino_telemetry')\n"
        "from medfuse.core.offline import import_offline\n"
        "import_offline('json')\n"
        "assert sys.modules['openvino_telemetry'] is own"
    )


UNUSED = """
import importlib, sys
from medfuse.core.offline import import_offline
package, unused = sys.argv[1:]
before = [*sys.meta_path]
import_offline(package)
assert unused not in sys.modules and sys.meta_path == before
importlib.import_module(unused)
"""


@pytest.mark.parametrize(("package", "unused"), [("nibabel", "pydicom"), ("openvino", "openvino.tools.ovc")])
def test_what_a_package_imports_for_nothing_is_left_out_and_there_for_whoever_asks(
    package: str, unused: str
) -> None:
    if not installed(package):
        pytest.skip(f"{package} is not installed")
    subprocess.run([sys.executable, "-c", UNUSED, package, unused], check=True)


def test_another_thread_imports_what_is_left_out_meanwhile() -> None:
    sys.modules.pop("colorsys", None)
    with offline._left_out(("colorsys",)):
        with pytest.raises(ModuleNotFoundError, match="is left out"):
            importlib.import_module("colorsys")
        found: list[object] = []
        other = threading.Thread(target=lambda: found.append(importlib.import_module("colorsys")))
        other.start()
        other.join()
    assert len(found) == 1


@pytest.mark.slow
def test_no_verb_asks_for_a_host_or_leaves_anything_in_the_home_folder(
    watched: Watched, finished_run
) -> None:
    data, pipeline = finished_run.data, finished_run.pipeline
    one, images = str(watched.folder / "one"), str(data / "imagesTr")
    run = [["run", str(pipeline), "--runs", ".", "--set", f"name={name}", "-q"] for name in ("one", "two")]
    infer = [
        ["infer", one, "-i", images, "-o", f"out/{name}", "-q", "--set", f"runtime={name}"]
        for name, package in RUNTIMES.items()
        if installed(package)
    ]
    formats = [("torch", "a.pt2"), *[("openvino", "a.xml")][: installed("openvino")]]
    formats += [("onnx", "a.onnx")][: installed("onnx", "onnxscript", "onnxruntime")]
    exports = [["export", one, "--format", kind, "-o", file] for kind, file in formats]
    exports += [["infer", file, "-i", images, "-o", f"out/{file}", "-q"] for _, file in formats]
    others = [
        ["evaluate", "out/torch", str(data / "labelsTr"), "-q"],
        ["compare", "one", "two", "--runs", ".", "-q"],
        ["features", one, "-l", "encoder.*", "-i", images, "-o", "features", "-q"],
        ["init", str(data), "-o", "made.yaml", "--minutes", "0.1", "-q"],
        ["check", str(pipeline)],
        ["taps", str(pipeline)],
        ["plugins", "--describe"],
        ["schema"],
    ]
    watched.python(VERBS, json.dumps([*run, *infer, *exports, *others]))
    assert (watched.asked(), watched.left()) == ([], [])
