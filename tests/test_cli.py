"""The command line and its documents."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("module", ["medfuse", "medfuse.cli"])
def test_importing_costs_nothing(module):
    code = f"import sys, {module}; assert not {{'torch', 'pydantic', 'monai'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_checking_the_sample_pipeline_imports_no_monai():
    code = (
        "import sys; from pathlib import Path; from medfuse.verbs.check import check_pipeline;"
        f"print(check_pipeline(Path({str(ROOT / 'pipelines' / 'liver.yaml')!r})));"
        "assert not {'monai', 'nibabel', 'SimpleITK', 'lightning_fabric', 'matplotlib'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "every declared shape agrees with the real one" in said


def test_the_hippocampus_pipeline_fits_together(real_data, medfuse):
    said = medfuse(
        "check", ROOT / "pipelines" / "hippocampus.yaml", "--set", f"data.root={real_data / 'hippocampus'}"
    )
    assert said.code == 0
    assert "200 cases" in said.out


def test_check_names_every_problem_of_data_and_graph_at_once(medfuse, tmp_path):
    text = (ROOT / "pipelines" / "liver.yaml").read_text()
    file = tmp_path / "liver.yaml"
    file.write_text(text.replace("head: {input: fused}", "head: {input: fusd}"))
    said = medfuse("check", file)
    assert said.code == 2
    assert "no such file" in said.err
    assert "did you mean 'fused'?" in said.err
    assert len(said.err.strip().splitlines()) == 2


def test_plugins_are_listed_and_explained(medfuse):
    listed = medfuse("plugins").out
    for name in ("unet_encoder", "sequential_truncation", "input_concat", "linear_decay", "nnunet"):
        assert name in listed
    assert "parameter" in medfuse("plugins", "show", "unet_decoder").out
    assert "did you mean 'concat'?" in medfuse("plugins", "show", "conat").err


def test_the_schema_is_json(medfuse):
    assert json.loads(medfuse("schema").out)["title"] == "Pipeline"


def test_an_unknown_command_exits_with_2(medfuse):
    assert medfuse("trian").code == 2


def test_the_reference_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (ROOT / "docs" / "reference.md").read_text() == made.reference(), "run `make docs`"
