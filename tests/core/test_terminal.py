"""Output in any code page, and a tidy end."""

import os
import signal
import subprocess
import sys
import time

import pytest
from phantoms import write_dataset, write_pipeline

from medfuse.train.state import read_state

SAY = """
import sys
from medfuse.core.terminal import write_in_any_code_page
write_in_any_code_page()
for stream in (sys.stdout, sys.stderr):
    print("64×64 → 1… ± 3 ≥ 2 – 漢", file=stream)
"""
BAR = """
import io, sys
from medfuse.core.terminal import write_in_any_code_page
write_in_any_code_page()
sys.stderr.isatty = lambda: True
from medfuse.core.reporter import Reporter
with Reporter().track("Fälle × 2", 2) as advance:
    advance(2, "Dice → 1")
"""


def python(code, page):
    environment = {**os.environ, "PYTHONIOENCODING": page}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)


@pytest.mark.parametrize("page", ["ascii", "cp437", "latin-1", "koi8-r"])
def test_what_a_code_page_lacks_is_written_in_other_signs(page):
    said = python(SAY, page)
    assert said.returncode == 0
    for text in (said.stdout, said.stderr):
        assert b"64" in text
        assert b"-> 1... " in text or page == "koi8-r"
        assert text.decode(page).endswith("?\n")
    if page == "ascii":
        assert said.stdout == b"64x64 -> 1... +- 3 >= 2 - ?\n"


def test_what_it_has_stays_as_it_is():
    assert python(SAY, "utf-8").stdout.decode() == "64×64 → 1… ± 3 ≥ 2 – 漢\n"


def test_a_progress_bar_is_shown_in_ascii():
    said = python(BAR, "ascii")
    assert said.returncode == 0
    assert b"F?lle x 2" in said.stderr
    assert b"Dice -> 1" in said.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["plugins"], ["plugins", "show", "unet_encoder"], ["run", "-h"]]
)
@pytest.mark.parametrize("page", ["cp437", "ascii"])
def test_verbs_speak_in_a_small_code_page(words, page):
    environment = {**os.environ, "PYTHONIOENCODING": page}
    command = [sys.executable, "-m", "medfuse", *words]
    said = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (said.returncode, b"Traceback" in said.stderr) == (0, False)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_ends_a_training_as_ctrl_c_does(tmp_path, whole_group):
    pipeline = write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "data"))
    changes = ["train.steps=1000000", "train.steps_per_epoch=5", "sample.workers=1"]
    words = ["run", pipeline, "--runs", tmp_path / "runs", *(w for c in changes for w in ("--set", c))]
    process = subprocess.Popen(
        [sys.executable, "-m", "medfuse", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    folder = tmp_path / "runs" / "cubes"
    while not (folder / "training_state.pt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "medfuse: stopped; run the same command again to carry on"
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()]
    assert read_state(folder)["progress"]["step"] >= 5


MEDFUSE = [sys.executable, "-m", "medfuse"]


def shell(command, **options):
    line = command.replace("medfuse", " ".join(MEDFUSE))
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_that_is_closed_is_no_fault(closed):
    said = shell(f"medfuse plugins {closed}")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("verb", ["plugins", "schema", "--version"])
def test_output_that_cannot_be_written_is_told_in_one_line(verb):
    said = shell(f"medfuse {verb} > /dev/full")
    assert said.returncode == 2
    assert said.stderr.startswith("medfuse: what was to be printed could not be written")
    assert said.stderr.count("\n") == 1


def test_a_working_directory_that_has_gone_is_told_in_one_line(tmp_path):
    said = shell("mkdir gone && cd gone && rmdir ../gone && medfuse plugins", cwd=tmp_path)
    assert (said.returncode, said.stderr) == (2, "the working directory has gone; cd to one that is there\n")


def test_a_plugin_that_ends_the_process_is_named(tmp_path):
    (tmp_path / "ending.py").write_text("import sys\n\ndef end(**_):\n    sys.exit(0)\n")
    code = "import ending, medfuse.cli as c; c.app = ending.end; c.main()"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert said.stderr == f"{tmp_path / 'ending.py'}:4 ended the process (0); mend or uninstall it\n"


def test_a_reader_that_has_seen_enough_is_no_fault():
    said = shell("medfuse schema | head -c 9 | tail -c 1 && echo ${PIPESTATUS[0]}")
    assert said.stderr == ""
