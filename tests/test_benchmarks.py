"""What holds for every script in benchmarks/."""

import argparse
import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_none_hides_a_module_of_the_standard_library_from_the_others():
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert "cascade" in names
    assert not names & sys.stdlib_module_names


# ---- benchmarks of several parts


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A benchmark with parts that are done, fail, never end, and say what they are told."""
    path = tmp_path / "script.py"
    path.write_text(
        f"""
import sys, threading
sys.path.insert(0, {str(BENCHMARKS)!r})
from parts import Part, measure, parser


def fine(given):
    print("| all | well |")


def broken(given):
    print("| half | done |")
    print("first this", file=sys.stderr)
    raise ValueError("then that")


def endless(given):
    print("begun", flush=True)
    threading.Event().wait()


PARTS = (
    Part("broken", "What breaks", 600, broken),
    Part("endless", "What never ends", 1, endless),
    Part("fine", "What is done", 600, fine),
    Part("waits", "What waits for a signal", 600, endless),
)
given = parser("parts", PARTS, minutes=30).parse_args()
if given.part:
    next(part for part in PARTS if part.name == given.part).measure(given)
else:
    sys.exit(not measure(PARTS, given, title="Parts", python=sys.executable))
"""
    )
    return path


def said(script: Path, *words: str) -> tuple[int, str]:
    """Its exit code, and the file that it wrote, which is what it said."""
    output = script.with_name("out.md")
    command = [sys.executable, script, "--output", output, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.stdout == output.read_text()
    return done.returncode, done.stdout


def test_a_part_that_fails_is_named_with_its_error_and_the_next_is_measured(script):
    code, text = said(script, "--only", "broken", "--only", "fine")
    assert code == 1
    broken, fine = text.split("### What is done")
    assert "| half | done |" in broken
    assert "**broken**: failed" in broken
    assert "first this" in broken
    assert "ValueError: then that" in broken
    assert fine.strip() == "| all | well |"


def test_a_part_that_takes_too_long_is_ended_and_the_next_is_measured(script):
    code, text = said(script, "--only", "endless", "--only", "fine")
    assert code == 1
    assert "**endless**: stopped after" in text
    assert text.endswith("| all | well |\n")


def test_a_part_for_which_no_minutes_are_left_is_named(script):
    code, text = said(script, "--minutes", "0", "--only", "fine")
    assert code == 1
    assert "**fine**: not begun: the minutes were over" in text


def test_parts_that_are_all_done_end_with_0(script):
    assert said(script, "--only", "fine")[0] == 0


def test_what_was_measured_is_there_when_it_is_stopped(script):
    output = script.with_name("out.md")
    command = [sys.executable, script, "--output", output, "--only", "fine", "--only", "waits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "begun\n":
                process.send_signal(signal.SIGTERM)
                break
        process.wait(600)
    text = output.read_text()
    assert "| all | well |" in text
    assert text.endswith("begun\n")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpu", "machine memory out_of_memory tests window step folds devices"),
        ("amx", "machine passes window window_without step"),
    ],
)
def test_parts_fit_the_eight_minutes_and_none_is_missing(name, parts, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module(name).PARTS
    assert [part.name for part in found] == parts.split()
    assert sum(part.seconds for part in found) <= 480
    assert all(part.measure.__doc__ or part.measure.__name__ == "machine" for part in found)


@pytest.mark.parametrize("name", ["gpu", "amx"])
def test_a_dry_run_of_a_cheap_part_is_markdown(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    importlib.import_module(name).machine(argparse.Namespace(dry_run=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("- ")
    assert any("TFLOP/s" in line for line in lines)
    tables = [line.count("|") for line in lines if line.startswith("|")]
    assert len(set(tables)) <= 1


def test_without_the_instructions_amx_says_so(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    amx = importlib.import_module("amx")
    monkeypatch.setattr(amx, "flags", lambda: {"avx2", "amx_tile"})
    monkeypatch.setattr(sys, "argv", ["amx.py"])
    with pytest.raises(SystemExit, match=r"lacks amx_bf16, amx_int8; --dry-run goes through every line"):
        amx.main()


def test_what_torch_brings_along_is_in_no_set_of_wheels(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    wheels = importlib.import_module("wheels")
    wanted = {
        "torch": "2",
        "nvidia-cublas": "1",
        "monai": "1.5",
        "medfuse": "0.1",
        "numpy": "2",
        "pyyaml": "6",
    }
    assert wheels.left_out(wanted, ["NumPy"]) == {"monai": "1.5", "pyyaml": "6"}


def test_packages_are_collected_with_all_that_they_need(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("wheels").closure(Path(sys.executable), ["medfuse"])
    assert {"medfuse", "monai", "pydantic-core", "torch"} <= {*found}
