"""An engine whose library is not installed is a line that says what to install."""

import importlib

import pytest

from medfuse import Command, MedfuseError, registry


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_it_says_what_to_install(name, package, tmp_path, monkeypatch):
    module = importlib.import_module(f"medfuse.builtin.engines.{name}")

    def missing(wanted):
        raise ModuleNotFoundError(f"No module named {wanted!r}")

    monkeypatch.setattr(module, "import_offline", missing)
    engine = registry.get("medfuse.engines", name)()
    what = rf'--engine {name}: needs the package {package}.*pip install "medfuse\[{name}\]"'
    with pytest.raises(MedfuseError, match=what) as said:
        engine.start(Command(("--version",), tmp_path), 1)
    assert len(said.value.lines) == 1
