"""Every example of the pages in YAML, Python, TOML and JSON: valid, and of what there is."""

import ast
import importlib
import importlib.util
import json
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from pages import ROOT, blocks, pages

from medfuse import registry
from medfuse.core.document import Document
from medfuse.pipeline import Pipeline

EXAMPLES = [block for page in pages() for block in blocks(page)]
BELOW = {
    "classes": {"data": {"use": "folder", "root": "scans"}},
    "taps": {"model": {}},
    "fused": {"model": {"fusion": {}}},
}
"""Examples that begin further in than at the top of a pipeline: what is around them."""
USUAL = {
    "data": {"use": "folder", "root": "scans", "classes": {"liver": 1}},
    "model": {
        "backbones": {"encoder": {"use": "unet_encoder"}},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
        "head": {"input": "decoded"},
    },
    "train": {"minutes": 3},
}
"""What an example leaves to its reader."""
SHORT = {"https://…/FILE.pth@sha256:0123…": f"https://example.org/FILE.pth@sha256:{'0' * 64}"}
"""What is shortened for the eye."""
NO_PYTHON = {
    "docs/tutorial.md": "lines of a test or a module: tests/test_scaffold.py runs the package's own tests"
}


def of(language):
    return [block for block in EXAMPLES if block.language == language]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The packages below plugins/, as `pip install` leaves them."""
    for package in (ROOT / "plugins").glob("medfuse-*"):
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        points = [
            f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in entries.items())
            for group, entries in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(points))
        monkeypatch.syspath_prepend(str(package))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.forget()
    yield
    registry.forget()


def around(values):
    """A whole pipeline around an example."""
    for key, outer in BELOW.items():
        if set(values) == {key}:
            made = json.loads(json.dumps(outer))
            inner = made
            while (deeper := next((v for v in inner.values() if isinstance(v, dict)), None)) is not None:
                inner = deeper
            inner.update(values)
            values = made
    made = {**USUAL, **values}
    for section in ("model", "train"):
        given = values.get(section, {})
        made[section] = {**USUAL[section], **given}
        if {"minutes", "epochs", "steps"} & given.keys():
            made[section] = given
    if "fusion" in values.get("model", {}) and "decoded" not in values["model"]["fusion"]:
        made["model"]["fusion"] = {**USUAL["model"]["fusion"], **values["model"]["fusion"]}
    return made


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_of_a_pipeline(block, packages):
    text = textwrap.dedent(block.text)
    for short, whole in SHORT.items():
        text = text.replace(short, whole)
    if all(line.startswith("#") for line in text.splitlines()):
        return  # such as the line that editors read
    values = Document.parse(text, source=str(block), base=ROOT).data
    for stage in values.pop("stages", [{}]):
        Pipeline.model_validate(around({**values, **stage}))


def test_yaml_that_is_not_is_found():
    for wrong in ({"train": {"minuets": 3}}, {"data": {"use": "folders"}}, {"fused": {"use": "add", "x": 1}}):
        with pytest.raises(ValueError, match=r"minuets|folders|fused|inputs|x"):
            Pipeline.model_validate(around(wrong))


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_imports_what_there_is(block):
    tree = ast.parse(textwrap.dedent(block.text))
    page = str(block.page.relative_to(ROOT))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports or page in NO_PYTHON, f"{block}: imports nothing; say in NO_PYTHON why"
    for node in imports:
        names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for name in names:
            if (
                name.partition(".")[0] != "medfuse"
                and importlib.util.find_spec(name.partition(".")[0]) is None
            ):
                continue  # of somebody else's, or the reader's own
            module = importlib.import_module(name)
            if isinstance(node, ast.ImportFrom):
                assert not [a.name for a in node.names if not hasattr(module, a.name)], block


@pytest.mark.parametrize("block", [b for b in of("python") if "subprocess" in b.text], ids=str)
def test_python_that_calls_medfuse_runs(block, finished_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "liver.yaml").write_text(finished_run.pipeline.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    exec(compile(block.text, str(block), "exec"), {})
    assert "encoder" in capsys.readouterr().out


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_names_a_kind_of_plugins(block):
    (points,) = tomllib.loads(block.text)["project"].values()
    assert points.keys() <= {contract.group for contract in registry.CONTRACTS}


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_valid(block):
    text = block.text.strip()
    json.loads(text if text.startswith(("{", "[")) else "{" + text + "}")


def test_every_language_of_an_example_is_looked_at():
    sys.path.insert(0, str(Path(__file__).parent))
    from commands import is_shell

    known = {"yaml", "python", "toml", "json", "text", "lua", ""}
    odd = [str(block) for block in EXAMPLES if block.language not in known and not is_shell(block)]
    assert odd == [], "say in this file how an example of this language is tried"
