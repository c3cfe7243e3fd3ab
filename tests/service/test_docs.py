"""The commands of docs/serving.md do what it says."""

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
CURL = shutil.which("curl")


def commands(begin: str) -> list[str]:
    """Lines of the page's code that begin so, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(begin)]


@pytest.mark.slow
def test_each_curl_of_the_page_does_what_it_says(running, image, inferred, tmp_path):
    if CURL is None:
        pytest.skip("curl is not installed")
    service = running()
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(image, here / "scan.nii.gz")
    with zipfile.ZipFile(here / "patient.zip", "w") as packed:
        packed.write(image, "scan.nii.gz")
    lines = commands("curl")
    assert len(lines) >= 6
    answers = []
    id = ""
    for line in lines:
        line = line.replace("http://127.0.0.1:8000", service.url).replace("/ID", f"/{id}")
        done = subprocess.run(["bash", "-c", line], cwd=here, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (line, done.stderr)
        answers.append(done.stdout)
        if '"id"' in done.stdout and not id:
            id = json.loads(done.stdout)["id"]
    assert json.loads(answers[2])["id"] == id
    assert '"status":"done"' in answers[3]
    assert (here / "labels.nii.gz").read_bytes() == (inferred / "cube_00.nii.gz").read_bytes()


def test_each_medfuse_of_the_page_has_words_that_there_are():
    from typer.testing import CliRunner

    from medfuse.cli import app

    lines = commands("medfuse")
    assert len(lines) >= 6
    for line in lines:
        verb = line.split()[1]
        said = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
        for word in re.findall(r" (--?[a-z-]+)", line):
            assert word in said, (line, word)
