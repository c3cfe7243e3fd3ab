"""What every test may use."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small; threads would only wait for each other
CACHE = tempfile.TemporaryDirectory(prefix="medfuse-tests-")  # gone with this process
os.environ["MEDFUSE_CACHE"] = CACHE.name  # what runs fastest is found out anew, and left nowhere
os.environ["MPLCONFIGDIR"] = CACHE.name  # matplotlib's fonts, which tests of MONAI itself would leave at home
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    """No test leaves torch's settings or the working directory other than they were."""
    from medfuse.testing.settings import restore, settings

    before = settings()
    yield
    changed = restore(before)
    assert not changed, f"the test leaves {', '.join(changed)} changed"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes. Set MEDFUSE_TEST_DATA, or put it at ../shared/data."""
    from elsewhere import DATA

    if not (DATA / "hippocampus").is_dir():
        pytest.skip(f"real volumes are not at {DATA}; set MEDFUSE_TEST_DATA to their folder")
    return DATA


@dataclass(frozen=True)
class Spoken:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def medfuse(monkeypatch, capsys) -> Callable[..., Spoken]:
    """Runs the command line in this process: `medfuse("check", file).code`."""
    from medfuse import cli

    def speak(*words: object) -> Spoken:
        monkeypatch.setattr(sys, "argv", ["medfuse", *map(str, words)])
        monkeypatch.setattr(os, "_exit", sys.exit)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        logging.getLogger("medfuse").setLevel(logging.INFO)  # `--quiet` is meant for this command alone
        said = capsys.readouterr()
        return Spoken(int(ended.value.code or 0), said.out, said.err)

    return speak


@dataclass(frozen=True)
class Run:
    """A tiny run that has gone through every stage. Tests copy what they change."""

    data: Path
    pipeline: Path
    folder: Path
    text: str


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Run:
    from phantoms import write_dataset, write_pipeline

    from medfuse.core.reporter import Reporter
    from medfuse.verbs.run import run_pipeline

    home = tmp_path_factory.mktemp("run")
    data = write_dataset(home / "cubes")
    pipeline = write_pipeline(home / "cubes.yaml", data)
    result = run_pipeline(pipeline, runs=home / "runs", reporter=Reporter(quiet=True))
    return Run(data, pipeline, result.folder, result.text())


@pytest.fixture(scope="module")
def plain_report(finished_run: Run) -> Iterator[None]:
    """Reports of this file's runs are a word: to draw one takes longer than the rest of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medfuse.report.html.page", lambda content: f"<html>{content.name}</html>")
        patch.setattr("medfuse.runs.viewing.write_viewer", lambda run, evaluation: ({}, ""))
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium for all tests of a process."""
    from chromium import BROWSER, chromium

    if BROWSER is None:
        pytest.skip("chromium is not installed (apt install chromium)")
    with chromium() as tab:
        yield tab


@pytest.fixture
def tab(browser) -> Any:
    """A tab of the width of a small window."""
    browser.size(1000, 700)
    return browser
