"""What is left out or silenced says why: tests that skip, checks that are told to look away, open ends."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("medfuse", "plugins", "tests", "benchmarks", "docs", "sample_data")
SILENCED = re.compile(
    r"#\s*(type:\s*ignore(\[[\w, -]+\])?|noqa(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?)(?P<reason>.*)"
)
SKIPPED = re.compile(
    r"(importorskip|mark\.skipif|mark\.xfail|mark\.skip)\((?P<inside>[^()]*(\([^()]*\)[^()]*)*)\)"
)
OPEN = re.compile(r"raise NotImplementedError(\(\))?\s*(?P<reason>#.*)?$")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")


def sources() -> Iterator[Path]:
    own = Path(__file__).resolve()
    for folder in FOLDERS:
        yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if path.resolve() != own)


def unexplained(text: str) -> Iterator[str]:
    """`LINE: what stands there` of all that has no reason beside it."""
    for number, line in enumerate(text.splitlines(), 1):
        silenced, left_open = SILENCED.search(line), OPEN.search(line)
        silent = silenced and len(silenced["reason"].strip(" #")) < 4
        if silent or (left_open and not left_open["reason"]) or UNFINISHED.search(line):
            yield f"{number}: {line.strip()}"
    for skipped in SKIPPED.finditer(text):
        if "reason=" not in skipped["inside"]:
            yield f"{text.count(chr(10), 0, skipped.start()) + 1}: {skipped[0].splitlines()[0]}"


def test_what_is_skipped_silenced_or_left_open_says_why():
    files = [*sources()]
    assert len(files) > 100
    found = {path.relative_to(ROOT): [*unexplained(path.read_text())] for path in files}
    assert {str(path): faults for path, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    "line",
    [
        "x = 1  # type: ignore[arg-type]",
        "import x  # noqa: F401",
        "raise NotImplementedError",
        "pytest.importorskip('x')",
        "# TODO: more",
    ],
)
def test_a_line_without_a_reason_is_found(line):
    assert [*unexplained(f"import x\n{line}\n")] != []
