"""What the archives hold that medfuse is shared as."""

from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling comes with the dev extra")
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


def held(builder: type) -> set[str]:
    return {file.relative_path for file in builder(str(ROOT)).recurse_included_files()}


def below(*folders: str) -> set[str]:
    files = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {str(p.relative_to(ROOT)) for p in files if "__pycache__" not in p.parts}


def test_the_source_archive_holds_its_tests_and_all_that_they_read():
    wanted = below("medfuse", "tests", "pipelines", "sample_data", "plugins", "docs")
    wanted = {name for name in wanted if "/." not in name and ".egg-info" not in name}
    assert {"tests/conftest.py", "pipelines/liver.yaml", "sample_data/dataset.json"} <= wanted
    assert wanted | {"pyproject.toml", "constraints.txt", "Makefile", "README.md"} <= held(SdistBuilder)


def test_the_wheel_holds_the_package_alone_with_what_is_no_code():
    wheel = held(WheelBuilder)
    assert {name.partition("/")[0] for name in wheel} == {"medfuse"}
    assert wheel == below("medfuse")
