"""The command line and its documents."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medfuse.cli import app

ROOT = Path(__file__).parents[2]
VERBS = [command.name or command.callback.__name__ for command in app.registered_commands] + ["plugins"]


def medfuse_in_a_process(*arguments, **environment):
    """What the command line says when a shell calls it."""
    code = "import sys; sys.argv[0] = 'medfuse'; from medfuse.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train", "medfuse run"),
        ("predict", "medfuse infer"),
        ("trian", "medfuse run"),
        ("evalaute", "medfuse evaluate"),
        ("plan_and_preprocess", "medfuse init"),
        ("PREDICT", "medfuse infer"),
    ],
)
def test_a_verb_of_another_tool_is_answered_with_ours(typed, meant):
    said = medfuse_in_a_process(typed)
    assert said.returncode == 2
    assert f"`{meant}`" in said.stderr


@pytest.mark.parametrize("verb", ["", *VERBS, "plugins list", "plugins show", "plugins new"])
def test_help_of_80_columns_cuts_no_sentence(verb):
    said = medfuse_in_a_process(*verb.split(), "--help", COLUMNS="80").stdout
    commands = said.partition("Commands:")[2]
    assert "..." not in commands
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("medfuse in", "infer"),
        ("medfuse plugins show spp", "spp"),
        ("medfuse plugins new fus", "fusion_block"),
    ],
)
def test_a_shell_completes_verbs_and_plugins(typed, completed):
    place = str(len(typed.split()) - 1)
    asked = {"_MEDFUSE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": place}
    assert completed in medfuse_in_a_process(**asked).stdout.split()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "{missing}.yaml"),
        ("run", "{missing}.yaml"),
        ("taps", "{missing}.yaml"),
        ("probe", "{missing}.yaml"),
        ("infer", "{missing}", "-i", ".", "-o", "{missing}"),
        ("infer", "{here}", "-i", "{missing}", "-o", "{missing}"),
        ("features", "{missing}", "-l", "a", "-i", ".", "-o", "{missing}"),
        ("export", "{missing}", "--format", "onnx", "-o", "{missing}"),
        ("import-nnunet", "{missing}", "-o", "{missing}"),
        ("import-bundle", "{missing}", "-o", "{missing}"),
        ("import-nnssl", "{missing}", "-o", "{missing}"),
        ("init", "{here}", "--from", "{missing}"),
        ("evaluate", "{missing}", "{missing}"),
        ("status", "{missing}"),
        ("work", "{missing}"),
    ],
)
def test_a_mistyped_path_is_told_before_torch_is_imported(arguments, tmp_path):
    typed = [word.format(missing=tmp_path / "missing", here=tmp_path) for word in arguments]
    code = (
        "import sys; from medfuse.cli import main; sys.argv[1:] = %r\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 2; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code % typed], check=True)


def test_a_mistyped_dataset_is_told_before_torch_is_imported(tmp_path):
    text = (ROOT / "pipelines" / "liver.yaml").read_text().replace("../sample_data", "nowhere")
    (tmp_path / "liver.yaml").write_text(text)
    for verb in ("check", "run"):
        code = (
            "import sys; from medfuse.cli import main; sys.argv[1:] = %r\n"
            "try: main()\n"
            "except SystemExit as ended: assert ended.code == 2; assert 'torch' not in sys.modules"
        )
        said = subprocess.run(
            [sys.executable, "-c", code % [verb, str(tmp_path / "liver.yaml")]],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "liver.yaml:9:30: data.root: " in said.stderr


def test_the_public_names_are_listed():
    import medfuse

    assert dir(medfuse) == sorted(medfuse.__all__)


def test_the_reference_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (ROOT / "docs" / "reference.md").read_text() == made.reference(), "run `make docs`"


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    """As where Python is started beside a clone."""
    (tmp_path / "medfuse").mkdir()
    code = "from medfuse import Predictor"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_fold_that_there_is_not_has_its_place(medfuse, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)  # where no run of that name is
    text = (ROOT / "pipelines" / "liver.yaml").read_text()
    text = text.replace("{fold: 0}", "{fold: 7}").replace("../sample_data", str(ROOT / "sample_data"))
    (tmp_path / "liver.yaml").write_text(text)
    said = medfuse(verb, tmp_path / "liver.yaml")
    assert said.code == 2
    assert "split.fold: is 7, but there are 4 folds" in said.err
    assert said.err.startswith(f"{tmp_path / 'liver.yaml'}:")


def test_a_folder_for_label_maps_is_not_named_like_an_image(medfuse, finished_run, tmp_path):
    images = finished_run.data / "imagesTr"
    said = medfuse("infer", finished_run.folder, "-i", images, "-o", tmp_path / "out.nii.gz")
    assert (said.code, (tmp_path / "out.nii.gz").exists()) == (2, False)
    assert "--output is the folder" in said.err
