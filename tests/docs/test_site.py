"""The site of the pages: built without a warning, and asking for no other host."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)|<link\b[^>]*\bhref=\"([^\"]+)")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package, reason=f"{package} comes with the extra docs")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "docs",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = [*tmp_path.rglob("*.html")]
    assert {"index.html", "comparison.html", "reference.html"} <= {page.name for page in pages}
    loaded = {a or b for page in pages for a, b in LOADED.findall(page.read_text())}
    assert loaded
    assert not [address for address in loaded if re.match(r"(https?:)?//", address)]
    styles = " ".join(path.read_text() for path in tmp_path.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?(?:https?:)?//", styles)
