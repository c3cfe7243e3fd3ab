"""What a stranger meets first says one thing: version, changelog, citation, workflows, archives."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import medfuse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECTION = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?$", re.MULTILINE)


def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def sections():
    """Version → date of every section of the changelog, the newest first."""
    return {
        found["version"]: found["date"] for found in SECTION.finditer((ROOT / "CHANGELOG.md").read_text())
    }


def test_version_changelog_and_citation_agree():
    version = PROJECT["version"]
    assert medfuse.__version__ == citation()["version"] == version
    first, *released = sections()
    assert first == "Unreleased"
    assert all(sections()[name] for name in released), "a released version has its date"
    assert released == sorted(released, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
    assert not released or released[0] == version
    date = citation().get("date-released")
    assert (str(date) if date else None) == sections().get(version)


def test_the_citation_is_valid():
    """As version 1.2.0 of the format wants it."""
    said = citation()
    assert {"cff-version", "message", "title", "authors"} <= said.keys()
    assert (said["cff-version"], said["type"], said["license"]) == ("1.2.0", "software", PROJECT["license"])
    assert all(
        "name" in author or {"family-names", "given-names"} <= author.keys() for author in said["authors"]
    )


@pytest.mark.parametrize("file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda file: file.name)
def test_what_github_reads_is_valid(file):
    said = yaml.safe_load(file.read_text())
    if file.parent.name == "workflows":
        made = re.findall(r"\bmake (\w+)", file.read_text())
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {*made} <= {*targets}
        assert said["permissions"] == {"contents": "read"}
        for job in said["jobs"].values():
            assert all("uses" in step or "run" in step for step in job["steps"])
    elif file.stem != "config":
        assert {"name", "description", "body"} <= said.keys()
        assert all(part["type"] == "markdown" or part["attributes"]["label"] for part in said["body"])


def test_no_release_is_uploaded_by_a_token():
    text = (ROOT / ".github" / "workflows" / "upload.yml").read_text()
    assert "id-token: write" in text
    assert "secrets." not in text


@pytest.mark.parametrize("table", [tomllib.loads((ROOT / "pyproject.toml").read_text())])
def test_every_extra_is_told_of_and_pinned(table):
    pinned = {
        re.split(r"[=<>\[]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    readme = (ROOT / "README.md").read_text()
    extras = table["project"]["optional-dependencies"]
    assert [name for name in extras if name != "dev" and f"`.[{name}]`" not in readme] == []
    tried = {
        word
        for name in re.findall(r"medfuse\[([\w,-]+)\]", " ".join(extras["dev"]))
        for word in name.split(",")
    }
    wanted = {re.split(r"[=<>\[]", need)[0].lower() for name in tried for need in extras[name]}
    assert wanted - pinned == {"medfuse"} & wanted  # of an extra that takes another along


DATA = ("core/organs.csv", "py.typed")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The wheel and the source archive, as they are uploaded."""
    pytest.importorskip("hatchling", reason="hatchling comes with the dev extra")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_archives_hold_what_is_no_code_too(archives):
    (wheel,), (source,) = archives.glob("*.whl"), archives.glob("*.tar.gz")
    held = set(zipfile.ZipFile(wheel).namelist())
    own = {
        str(p.relative_to(ROOT)) for p in (ROOT / "medfuse").rglob("*") if p.is_file() and p.suffix != ".pyc"
    }
    assert own <= held
    assert [name for name in held if name.startswith("medfuse/") and name not in own] == []
    assert "medfuse/core/organs.csv" in held
    assert any(name.endswith("/licenses/LICENSE") for name in held)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "CITATION.cff",
        "tests/conftest.py",
        "docs/conf.py",
    } <= names


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(archives, tmp_path):
    """Its dependencies are those of this environment; medfuse is the wheel's."""
    (wheel,) = archives.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    bin = tmp_path / "env" / "bin"
    install = [bin / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    others = [path for path in sys.path if path.endswith("site-packages")]
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (site / "others.pth").write_text("\n".join(others) + "\n")

    def run(*words):
        done = subprocess.run([bin / "medfuse", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [bin / "python", "-c", "import medfuse; print(medfuse.__file__)"]
    assert str(site) in subprocess.run(where, cwd=tmp_path, capture_output=True, text=True).stdout
    assert run("--version").split() == ["medfuse", PROJECT["version"]]
    assert "unet_decoder" in run("plugins", "list")
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    assert "parameters" in run("check", "pipelines/liver.yaml")
    image = next((tmp_path / "sample_data" / "imagesTr").glob("*.nii.gz"))
    run("view", str(image), str(tmp_path / "sample_data" / "labelsTr" / image.name), "-o", "page.html")
    assert "niivue" in (tmp_path / "page.html").read_text().lower()
