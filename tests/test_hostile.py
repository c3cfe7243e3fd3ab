"""Hostile files and overrides: each is taken or refused in single lines, soon, and in little memory."""

import copy
import hashlib
import io
import json
import random
import resource
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import strangers
import torch

from medfuse.core.document import Document
from medfuse.core.errors import MedfuseError
from medfuse.core.json_text import parse_json
from medfuse.model.checkpoints import read_checkpoint
from medfuse.pipeline import load_pipeline, parse_pipeline
from medfuse.train.state import how_far, newest_state
from medfuse.trained.loading import load_trained
from medfuse.verbs.check import check_pipeline

ROOT = Path(__file__).parents[1]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))
SECONDS, GIB = 10, 2

Attack = Callable[[Path], object]
"""Does with a folder what a user would do with what a stranger sent."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e300, 255, 65_535, 10**9, 10**14, 2**63, 10**30),
    *("", " ", "x", "auto", "²", "１２", "5", "$channels", "import:os.system", "os:system", "../..", "/"),
    *("~nobody", "a\0b", "x" * 5000, "%s%n", "{case}", "*", "[", "\ud800", "🫀"),
    *([], {}, [[]], [0], [-1, 0, 3], ["x"], [None], [1] * 9999, {"use": "x"}, {"use": None}, {"": 1}),
    *({"use": "module", "target": "os:system", "parameters": {"command": "true"}}, {"a": {"b": {"c": {}}}}),
)

TEXTS = (
    *("[" * 2000, "{" * 2000, "- " * 500, "? ", ": ", "&a ", "*a", "!!int x", "!!python/object:os.system "),
    *("<<: *a", "\t", "\0", "\ufeff", "\u2028", "\r", "---\n", "...\n", "%YAML 9.9\n", "'", '"', "|99\n"),
    *("9" * 5000, "0x" + "f" * 999, "1e9999", ".inf", ".nan", "²", "１", "\\", "#", "@", "`", "x: " * 9),
    *("🫀" * 99, "a: &a [*a]", "'': 1", "~: ~"),
)

KEYS = ("base_channels", "stages", "convs", "kernels", "strides", "channels", "max_channels")
SIGNS = (".", "[", "]", "²", "0", "-1", "=", "\0", " ", "a", "..", "9" * 99)

LIMITED = """
import resource, torch, monai
from medfuse.cli import main
own = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (own + GIB * 2**30,) * 2)
main()
"""


def _leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _leaves(value[key], (*path, key))


def _replaced(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    made = copy.deepcopy(value)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return made


def facts(chance: random.Random) -> Attack:
    said = strangers.facts()
    for _ in range(chance.choice((1, 1, 2))):
        said = _replaced(said, chance.choice([*_leaves(said)]), chance.choice(ODD))
        if not isinstance(said, dict):
            break
    text = json.dumps(said)

    def attack(folder: Path) -> object:
        path = strangers.write(folder / "w.safetensors", text)
        return load_trained([path], device="cpu")

    return attack


def _damaged(content: bytes, chance: random.Random, first: int) -> bytes:
    made = bytearray(content)
    for _ in range(chance.choice((1, 2, 9))):
        at = chance.randrange(min(first, len(made)))
        match chance.randrange(4):
            case 0:
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                made[at : at + chance.randrange(40)] = b""
            case 2:
                made[at:at] = chance.randbytes(chance.randrange(1, 40))
            case 3:
                made[at : at + 8] = chance.choice((b"\xff" * 8, b"9" * 8, bytes(8), b"[" * 8))
    return bytes(made)


def weights(chance: random.Random) -> Attack:
    def attack(folder: Path) -> object:
        path = strangers.write(folder / "w.safetensors", strangers.facts())
        path.write_bytes(_damaged(path.read_bytes(), chance, chance.choice((8, 200, 10_000))))
        return load_trained([path], device="cpu")

    return attack


def checkpoint(chance: random.Random) -> Attack:
    content = io.BytesIO()
    torch.save({"state_dict": strangers.tensors(), "epoch": 3}, content)
    made = _damaged(content.getvalue(), chance, chance.choice((100, 2000, 50_000)))

    def attack(folder: Path) -> object:
        (folder / "w.pth").write_bytes(made)
        return read_checkpoint(folder / "w.pth")

    return attack


def state(chance: random.Random) -> Attack:
    content = io.BytesIO()
    said: Any = {"model": strangers.tensors(), "progress": {"step": 1, "seconds": 1.0}}
    path = chance.choice([p for p in _leaves(said) if p[:1] != ("model",)])
    torch.save(_replaced(said, path, chance.choice([o for o in ODD if "\ud800" not in str(o)])), content)
    data = content.getvalue()
    if chance.random() < 0.5:
        data = _damaged(data, chance, 3000)

    def attack(folder: Path) -> object:
        newest_state(folder).write_bytes(data + hashlib.sha256(data).digest())
        return how_far(folder)

    return attack


def _yaml(chance: random.Random) -> str:
    text = (
        chance.choice(PIPELINES)
        .read_text(encoding="utf-8")
        .replace("../sample_data", str(ROOT / "sample_data"))
    )
    for _ in range(chance.choice((1, 1, 3))):
        at = chance.randrange(len(text))
        match chance.randrange(3):
            case 0:
                text = text[:at] + chance.choice(TEXTS) + text[at:]
            case 1:
                text = text[:at] + text[at + chance.randrange(1, 60) :]
            case 2:
                text = text[:at] + chance.choice(string.printable + "²٣\u0085\ufffe") + text[at + 1 :]
    return text


def document(chance: random.Random) -> Attack:
    text = _yaml(chance)
    content = text.encode("utf-8", "surrogatepass")
    other = text.encode("utf-16", "surrogatepass")
    content = chance.choice((content, content, content.replace(b"\n", b"\r\n"), other))

    def attack(folder: Path) -> object:
        (folder / "p.yaml").write_bytes(content)
        return load_pipeline(folder / "p.yaml")

    return attack


def _flow(value: Any) -> str:
    """A value as YAML reads it, on one line."""
    escaped = "\ud800" in str(value) or "\0" in str(value)
    return json.dumps(value, ensure_ascii=escaped)


def graph(chance: random.Random) -> Attack:
    """Values of a pipeline that reads, held against each other and against torch."""
    made = json.loads(json.dumps(Document.parse(strangers.PIPELINE, source="p.yaml", base=Path()).data))
    made["data"] = {"use": "decathlon", "root": str(ROOT / "sample_data")}
    if chance.random() < 0.5:
        made = _replaced(made, ("model", "backbones", "encoder", chance.choice(KEYS)), chance.choice(ODD))
    made = _replaced(made, chance.choice([path for path in _leaves(made) if path]), chance.choice(ODD))
    text = _flow(made)

    def attack(folder: Path) -> object:
        (folder / "p.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        return check_pipeline(folder / "p.yaml")

    return attack


def override(chance: random.Random) -> Attack:
    data = Document.parse(strangers.PIPELINE, source="p.yaml", base=Path()).data
    name = ".".join(map(str, chance.choice([path for path in _leaves(data) if path])))
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(name) + 1)
        name = name[:at] + chance.choice(SIGNS) + name[at:]

    value = chance.choice((lambda: _flow(chance.choice(ODD)), lambda: chance.choice(TEXTS)))()

    def attack(folder: Path) -> object:
        (folder / "p.yaml").write_text(strangers.PIPELINE)
        loaded = Document.load(folder / "p.yaml", [f"{name}={value}"])
        return parse_pipeline(loaded, default_name="p")

    return attack


def text(chance: random.Random) -> Attack:
    made = _damaged(json.dumps(strangers.facts()).encode(), chance, 2000)
    for _ in range(chance.randrange(2)):
        at = chance.randrange(len(made))
        made = made[:at] + chance.choice(TEXTS).encode("utf-8", "surrogatepass") + made[at:]
    return lambda folder: parse_json(made, str(folder / "x.json"))


KINDS: dict[Callable[[random.Random], Attack], int] = {
    facts: 160,
    weights: 60,
    checkpoint: 40,
    state: 60,
    document: 120,
    graph: 100,
    override: 200,
    text: 80,
}
assert sum(KINDS.values()) >= 500


def faults(kind: Callable[[random.Random], Attack], seeds: range, folder: Path) -> list[str]:
    """What was neither taken nor refused in lines, or took too long."""
    found = []
    for seed in seeds:
        here = folder / f"{kind.__name__}{seed}"
        here.mkdir()
        attack = kind(random.Random(f"{kind.__name__} {seed}"))
        began = time.monotonic()
        try:
            attack(here)
        except MedfuseError as error:
            if any("\n" in line or not line.strip() or len(line) > 3000 for line in error.lines):
                found.append(f"{kind.__name__} {seed}: no single lines: {error!r:.200}")
        except Exception as error:
            found.append(f"{kind.__name__} {seed}: {type(error).__name__}: {error!s:.200}")
        if (took := time.monotonic() - began) > SECONDS:
            found.append(f"{kind.__name__} {seed}: took {took:.0f} s")
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_few_hostile_inputs_are_taken_or_refused_in_lines(kind, tmp_path):
    assert not faults(kind, range(6), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_hostile_inputs_are_taken_or_refused_in_lines_soon_and_in_little_memory(kind, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not faults(kind, range(KINDS[kind]), tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIB * 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        lambda f: f["model"]["backbones"]["encoder"].update(base_channels=60_000, max_channels=60_000),
        lambda f: f["model"]["backbones"]["encoder"].update(convs=60_000),
        lambda f: f["data"].update(patch_size=[60_000, 16, 16]),
    ],
)
def test_a_process_of_its_own_ends_with_a_line_and_within_its_memory(said, tmp_path):
    strangers.write(tmp_path / "w.safetensors", strangers.changed(said))
    scan = nibabel.Nifti1Image(np.zeros((20, 20, 20), np.float32), np.eye(4))
    (tmp_path / "in").mkdir()
    nibabel.save(scan, tmp_path / "in" / "case.nii.gz")
    words = ("infer", "w.safetensors", "-i", "in", "-o", "out")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.replace("GIB", str(GIB)), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert last.startswith("w.safetensors: ") or "case: failed: needs more memory than is free" in last
