"""Folders for Docker and MHub: every named file is there, and their command runs in a plain shell."""

import ast
import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from sharing.models import write_model, write_scans

from medfuse.core.errors import MedfuseError
from medfuse.sharing.formats import write_model as share


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("weights") / "Small Model.safetensors")


@pytest.fixture(scope="module")
def docker(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docker") / "small"
    share(weights, folder, kind="docker", license="MIT")
    return folder


@pytest.fixture(scope="module")
def mhub(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mhub") / "small"
    share(weights, folder, kind="mhub", license="MIT")
    return folder


def run(script: Path, *words: object, path: Path) -> subprocess.CompletedProcess:
    """The script by sh, where medfuse is this one."""
    command = path / "medfuse"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m medfuse "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", str(script), *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )


def test_a_dockerfile_names_files_that_are_there(docker):
    text = (docker / "Dockerfile").read_text()
    (copied,) = re.findall(r"^COPY (\S+) (\S+)$", text, re.MULTILINE)
    assert (docker / copied[0]).is_dir()
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])
    assert (docker / copied[0] / Path(entry[-1]).relative_to(copied[1])).is_file()
    kept = (docker / ".dockerignore").read_text().splitlines()
    assert kept == ["*", f"!{copied[0]}"]
    assert 'licenses="MIT"' in text
    assert "HEALTHCHECK NONE" in text  # that of the base asks a service


@pytest.mark.slow  # a process of its own imports torch
def test_its_entry_writes_the_labels_of_the_run(docker, weights, tmp_path, medfuse):
    text = (docker / "Dockerfile").read_text()
    entry, words = (
        json.loads(re.search(rf"^{what} (.*)$", text, re.MULTILINE)[1]) for what in ("ENTRYPOINT", "CMD")
    )
    scans = write_scans(tmp_path / "scans")
    given = {"/input": scans, "/output": tmp_path / "theirs"}
    done = run(docker / "model" / Path(entry[-1]).name, *[given[word] for word in words], path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert medfuse("infer", weights, "-i", scans, "-o", tmp_path / "ours", "-q").code == 0
    for file in (tmp_path / "ours").glob("*.nii.gz"):
        ours, theirs = (
            nibabel.load(tmp_path / which / file.name).get_fdata() for which in ("ours", "theirs")
        )
        assert np.array_equal(ours, theirs)


def test_the_entry_hands_options_and_names_with_spaces_on(mhub, tmp_path):
    said = tmp_path / "said"
    said.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    said.chmod(0o755)
    done = subprocess.run(
        ["sh", str(mhub / "weights/segment.sh"), "a scan", "an out", "--format", "dicom_seg"],
        env={**os.environ, "MEDFUSE": str(said)},
        capture_output=True,
        text=True,
        check=True,
    )
    words = re.findall("<(.*)>", done.stdout)
    assert words == [
        "infer", f"{mhub}/weights/model.safetensors", "--input", "a scan", "--output", "an out",
        "--format", "dicom_seg",
    ]  # fmt: skip
    assert Path(words[1]).is_file()


def test_meta_json_says_what_mhubs_schema_asks_for(mhub):
    said = json.loads((mhub / "meta.json").read_text())
    assert uuid.UUID(said["id"]).version == 4
    assert re.fullmatch("[a-z0-9_]+", said["name"])
    assert {"title", "summary", "details", "info"} <= {*said}
    assert {"description", "inputs", "outputs", "model", "data"} <= {*said["summary"]}
    (image,) = said["summary"]["inputs"]
    wanted = "label description format modality bodypartexamined slicethickness non-contrast contrast"
    assert {*wanted.split()} == {*image}
    assert isinstance(image["contrast"], bool)
    assert len(image["description"]) <= 200
    assert said["summary"]["outputs"] == [{"type": "Segmentation", "classes": ["liver", "tumour"]}]
    assert said["summary"]["model"]["training"] == "supervised"
    assert said["summary"]["model"]["cmpapproach"] == "3D"
    assert isinstance(said["summary"]["data"]["training"]["vol_samples"], int)
    assert {"name", "version", "devteam", "type", "date", "cite", "license", "publications", "github"} == {
        *said["details"]
    }
    assert re.fullmatch(r"\d+(\.\d+)*", said["details"]["version"])
    assert said["details"]["license"]["weights"] == "MIT"
    for part in ("use", "analyses", "evaluation", "training"):
        assert {"title", "text"} <= {*said["info"][part]}


def test_mhubs_own_schema_takes_it(mhub):
    schema = os.environ.get("MHUB_META_SCHEMA", "")
    if not schema:
        pytest.skip("set MHUB_META_SCHEMA to meta.schema.json of MHubAI/models")
    import jsonschema

    jsonschema.validate(json.loads((mhub / "meta.json").read_text()), json.loads(Path(schema).read_text()))


def test_its_dockerfile_is_as_mhub_checks_it(mhub):
    lines = [line for line in (mhub / "dockerfiles/Dockerfile").read_text().splitlines() if line.strip()]
    name = json.loads((mhub / "meta.json").read_text())["name"]
    assert lines[0] == "FROM mhubai/base:latest"
    assert not [line for line in lines if line.startswith(("ADD", "COPY", "WORKDIR"))]
    assert "ARG MHUB_MODELS_REPO" in lines
    assert f"RUN buildutils/import_mhub_model.sh {name} ${{MHUB_MODELS_REPO}}" in lines
    assert lines[-1] == f'CMD ["--config", "/app/models/{name}/config/default.yml"]'


def test_its_workflow_names_a_module_that_is_there(mhub):
    said = yaml.safe_load((mhub / "config/default.yml").read_text())
    assert said["execute"] == ["DicomImporter", "MedfuseRunner", "DataOrganizer"]
    assert {*said["modules"]} == {*said["execute"]}
    module = ast.parse((mhub / "utils/MedfuseRunner.py").read_text())
    assert [node.name for node in module.body if isinstance(node, ast.ClassDef)] == ["MedfuseRunner"]
    assert "MedfuseRunner" in (mhub / "utils/__init__.py").read_text()


def test_a_model_of_several_channels_is_refused_by_mhub(tmp_path):
    weights = write_model(tmp_path / "small.safetensors", "two channels")
    with pytest.raises(MedfuseError, match="T1, FLAIR"):
        share(weights, tmp_path / "mhub", kind="mhub")
    assert not (tmp_path / "mhub").exists()
