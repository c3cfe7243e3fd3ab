"""Wheels that a machine without a package registry lacks, collected here, installed beside its torch.

    python benchmarks/wheels.py collect FOLDER [--python 3.12] [--there NAME …]
                                               [--peer nnunetv2 --peer-python PATH]

downloads, in the versions that are installed here, what medfuse and pytest need but torch and what torch
needs, and builds what has no wheel, medfuse itself among it. With `--peer`, the same of a package of another
environment. `--there`: packages that the other machine has. `environment(FOLDER)` makes an environment of
them there, which sees the machine's own torch.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28, 34, 35)] + ["manylinux2014_x86_64"]
TORCHS = r"torch(vision|audio)?|triton|nvidia-.*|cuda-.*|sympy|mpmath|networkx|jinja2|markupsafe|fsspec"
CLOSURE = """
import json, re, sys
from importlib.metadata import PackageNotFoundError, distribution
from packaging.requirements import Requirement
found, todo = {}, [Requirement(name) for name in sys.argv[1:]]
while todo:
    wanted = todo.pop()
    name = re.sub(r"[-_.]+", "-", wanted.name).lower()
    if name in found:
        continue
    try:
        own = distribution(wanted.name)
    except PackageNotFoundError:
        continue
    found[name] = own.version
    for line in own.requires or []:
        needed = Requirement(line)
        if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in {"", *wanted.extras}):
            todo.append(needed)
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["collect"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the other machine's")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--there", nargs="*", default=[])
    given = parser.parse_args()
    wanted = closure(Path(sys.executable), ["medfuse", "pytest"])
    if given.peer:
        wanted = {**closure(given.peer_python, given.peer), **wanted}
    collect(given.folder, left_out(wanted, given.there), python=given.python)


def closure(python: Path, names: Iterable[str]) -> dict[str, str]:
    """What packages need, themselves among it, in the versions that an environment has."""
    said = subprocess.run([python, "-c", CLOSURE, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(said.stdout)
    return found


def left_out(wanted: dict[str, str], there: Collection[str]) -> dict[str, str]:
    """`wanted` without torch, what it brings along, what is `there`, and medfuse, which is built."""
    known = {re.sub(r"[-_.]+", "-", name).lower() for name in there} | {"medfuse"}
    return {
        name: version
        for name, version in wanted.items()
        if name not in known and not re.fullmatch(TORCHS, name)
    }


def collect(folder: Path, wanted: dict[str, str], *, python: str) -> None:
    """Wheels of `wanted`, and of medfuse as it is here, in `folder`; says what has none that fits."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    for old in folder.glob("medfuse-*.whl"):
        old.unlink()
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, HERE], check=True)
    system = [word for platform in PLATFORMS for word in ("--platform", platform)]
    system += ["--only-binary", ":all:", "--python-version", python]
    for name, version in sorted(wanted.items()):
        spec = f"{name}=={version}"
        way = [*pip, "download", "--no-deps", *system, "-d", folder, spec]
        if subprocess.run(way, capture_output=True).returncode == 0:
            continue
        made = subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, spec], capture_output=True)
        if made.returncode:
            print(f"{spec}: no wheel for Python {python}, and none can be built", file=sys.stderr)
    for wheel in folder.glob("*.whl"):
        if not wheel.name.endswith("any.whl") and f"cp{python.replace('.', '')}" not in wheel.name:
            if "abi3" in wheel.name:
                continue
            print(f"{wheel.name}: was built here, and is for another Python", file=sys.stderr)
            wheel.unlink()
    total = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    print(f"{len([*folder.glob('*.whl')])} wheels of {total / 2**20:.0f} MiB in {folder}")


def environment(wheels: Path, folder: Path) -> Path:
    """The Python of a fresh environment in `folder`, which has the wheels and what this Python has."""
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", folder], check=True)
    python = folder / "bin" / "python"
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise SystemExit(
            f"{wheels}: holds no wheel; `python benchmarks/wheels.py collect {wheels}` gets them"
        )
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*command, *found], check=True, stdout=sys.stderr)
    return python


if __name__ == "__main__":
    main()
