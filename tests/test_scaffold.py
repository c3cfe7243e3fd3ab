"""`medfuse plugins new` writes packages that work as they stand."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from medfuse import PluginError, registry
from medfuse.core.errors import MedfuseError
from medfuse.scaffold import KINDS, new_package


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    """A new package of every kind."""
    parent = tmp_path_factory.mktemp("packages")
    return {kind: new_package(kind, f"my_{kind}", parent) for kind in KINDS}


OURS = [*(Path(__file__).parents[1] / "plugins").glob("medfuse-*")]


@pytest.fixture
def installed(packages, tmp_path, monkeypatch):
    """The packages and those below plugins/, as `pip install -e` leaves them: paths and metadata."""
    for package in (*packages.values(), *OURS):
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        ((group, points),) = project["entry-points"].items()
        lines = "\n".join(f"{name} = {target}" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        monkeypatch.syspath_prepend(str(package))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.forget()
    yield packages
    registry.forget()
    for name in [n for n in sys.modules if n.startswith("medfuse_my_")]:
        del sys.modules[name]


def test_there_is_a_kind_for_every_contract():
    assert set(KINDS.values()) == {contract.group for contract in registry.CONTRACTS}
    assert {"backbone", "tap_strategy", "activation_loss"} <= set(KINDS)


def test_new_packages_pass_their_own_tests(installed, tmp_path):
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\naddopts = -q -p no:cacheprovider --import-mode=importlib\n")
    assert pytest.main(["-c", str(settings), *(str(folder / "tests") for folder in installed.values())]) == 0


def test_installed_they_are_found_by_their_names(installed):
    for kind, group in KINDS.items():
        plugin = registry.get(group, f"my_{kind}")
        assert registry.name_of(plugin.model_construct()) == f"my_{kind}"
    for group, name in (("medfuse.fusion_blocks", "gated"), ("medfuse.backbones", "segresnet")):
        assert registry.name_of(registry.get(group, name).model_construct()) == name


def test_the_name_of_an_installed_package_is_taken(installed, tmp_path):
    with pytest.raises(PluginError, match=r"there is a loss 'my_loss' \(medfuse-my-loss 0\.1\.0\) already"):
        new_package("dataset", "my_loss", tmp_path)


def test_reading_them_imports_no_torch(packages):
    modules = ", ".join(f"medfuse_my_{kind}" for kind in KINDS)
    paths = [str(folder) for folder in packages.values()]
    code = f"import sys; sys.path += {paths}; import {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


TEXT = (".md", ".py", ".toml")


def test_nothing_is_left_to_fill_in(packages):
    files = [path for folder in packages.values() for path in folder.rglob("*.*") if path.suffix in TEXT]
    assert len(files) > 30
    for path in files:
        assert not re.search(r"plugin.?name|\{(kind|group|example)\}", path.read_text(), re.IGNORECASE)


def test_the_readme_shows_the_plugin_in_its_words(tmp_path):
    readme = (new_package("backbone", "small_net", tmp_path) / "README.md").read_text()
    assert "# medfuse-small-net" in readme
    assert "backbones:\n  encoder: {use: small_net, stages: 4" in readme


def test_the_tutorial_edits_what_the_package_holds(tmp_path):
    package = new_package("fusion_block", "gated", tmp_path)
    tutorial = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text()
    for path, passage in {
        "medfuse_gated/__init__.py": ', description="of the result"',
        "medfuse_gated/net.py": "        y: Tensor = self.value(maps[0]) * gate\n",
        "tests/test_gated.py": "test_a_closed_gate_lets_nothing_through",
    }.items():
        assert passage in (package / path).read_text()
        assert passage.removeprefix(", ") in tutorial


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("fusion", "mine", r"no kind of plugin is 'fusion'.*fusion_block"),
        ("fusion_blok", "mine", r"did you mean 'fusion_block'\?"),
        ("fusion_block", "concat", r"there is a fusion block 'concat' \(medfuse .*\) already"),
        ("fusion_block", "Gated", "lower-case letters"),
        ("fusion_block", "2d", "a letter first"),
        ("fusion_block", "gated_", "single _"),
        ("fusion_block", "../up", "lower-case letters"),
        ("fusion_block", "none", "a class None, which means something else"),
        ("fusion_block", "field", "a class Field, which means something else"),
        ("tap_strategy", "listener", "a class Listener, which means something else"),
    ],
)
def test_what_cannot_be_made_is_one_line(kind, name, message, tmp_path):
    with pytest.raises(PluginError, match=message) as caught:
        new_package(kind, name, tmp_path)
    assert len(caught.value.lines) == 1
    assert not list(tmp_path.iterdir())


def test_a_package_that_exists_is_left_alone(tmp_path):
    package = new_package("loss", "mine", tmp_path)
    (package / "README.md").write_text("my own")
    with pytest.raises(MedfuseError, match="exists already"):
        new_package("loss", "mine", tmp_path)
    assert (package / "README.md").read_text() == "my own"


def test_the_command_makes_a_package_or_exits_with_2(medfuse, tmp_path):
    said = medfuse("plugins", "new", "loss", "mine", "--output", tmp_path / "there")
    assert (said.code, (tmp_path / "there" / "medfuse-mine" / "pyproject.toml").is_file()) == (0, True)
    again = medfuse("plugins", "new", "loss", "mine", "--output", tmp_path / "there")
    assert (again.code, len(again.err.splitlines())) == (2, 1)


def test_the_commands_help_names_every_kind(medfuse):
    said = " ".join(medfuse("plugins", "new", "--help").out.split())
    assert all(kind in said for kind in KINDS)
