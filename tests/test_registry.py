"""Plugins by name: lazily, and blamed on their packages. Packages are faked as metadata on sys.path."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from medfuse import PluginError, registry
from medfuse.api import FusionBlock

GOOD = """
from pydantic import Field
from medfuse import FusionBlock


class Gated(FusionBlock):
    '''A gate.'''

    power: float = Field(1.0, gt=0, description="strength")
"""


def install(
    folder: Path, package: str, name: str, code: str, group: str = "medfuse.fusion_blocks", cls: str = "Gated"
):
    info = folder / f"{package}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}_code:Gated\n")
    (folder / f"{package}_code.py").write_text(code)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.forget()
    yield tmp_path
    registry.forget()
    for name in [n for n in sys.modules if n.endswith("_code")]:
        del sys.modules[name]


def test_a_third_party_plugin_is_found_and_loaded(site):
    install(site, "gates", "gated", GOOD)
    assert issubclass(registry.get("medfuse.fusion_blocks", "gated"), FusionBlock)


def test_listing_imports_no_plugin(site):
    install(site, "gates", "gated", "raise RuntimeError('imported')")
    assert "gated" in registry.names("medfuse.fusion_blocks")


@pytest.mark.parametrize(
    ("group", "name", "said"),
    [
        (
            "aux_schedules",
            "dice_ce",
            "no aux schedule named 'dice_ce'; that is a loss (installed: constant, ",
        ),
        ("losses", "linear_decay", "no loss named 'linear_decay'; that is an aux schedule ("),
        ("fusion_blocks", "unet_encoder", "no fusion block named 'unet_encoder'; that is a backbone ("),
        ("backbones", "forward_hook", "that is a tap strategy ("),
        ("losses", "torch", "that is a runtime ("),
    ],
)
def test_a_plugin_of_another_kind_is_told_as_that(group, name, said):
    with pytest.raises(PluginError, match=re.escape(said)):
        registry.get(f"medfuse.{group}", name)


def test_a_name_of_several_other_kinds_is_told_with_all_of_them(site):
    install(site, "gates", "gated", GOOD)
    install(site, "doors", "gated", GOOD, group="medfuse.augmentations")
    with pytest.raises(PluginError, match="'gated'; that is a fusion block and an augmentation "):
        registry.get("medfuse.losses", "gated")


def test_one_name_from_two_packages_names_both(site):
    install(site, "gates", "gated", GOOD)
    install(site, "doors", "gated", GOOD)
    with pytest.raises(PluginError, match=r"'gated' is offered by doors 2\.0 and gates 2\.0; uninstall one"):
        registry.get("medfuse.fusion_blocks", "gated")


@pytest.mark.parametrize("code", ["import nowhere", "1 / 0", "raise SystemExit(3)", "def", "x = 1"])
def test_a_plugin_that_fails_on_import_is_its_packages_fault(site, code):
    install(site, "gates", "gated", code)
    with pytest.raises(PluginError, match=r"fusion block 'gated' of gates 2\.0 fails on import"):
        registry.get("medfuse.fusion_blocks", "gated")


def test_a_plugin_of_the_wrong_kind_is_refused(site):
    install(site, "gates", "gated", GOOD, group="medfuse.losses")
    with pytest.raises(PluginError, match=r"is not a subclass of medfuse\.Loss"):
        registry.get("medfuse.losses", "gated")


def test_an_unknown_name_lists_what_is_installed():
    with pytest.raises(
        PluginError, match=r"no loss named 'dice_cee'; did you mean 'dice_ce'\? \(installed: .*dice_ce"
    ):
        registry.get("medfuse.losses", "dice_cee")


@pytest.mark.parametrize("contract", registry.CONTRACTS)
def test_every_built_in_is_a_documented_plugin(contract):
    for name in registry.names(contract.group):
        plugin = registry.get(contract.group, name)
        assert registry.first_line(plugin)
        assert all(field.description for field in plugin.model_fields.values())
        assert registry.name_of(plugin.model_construct()) == name


def test_using_one_plugin_imports_no_other_and_no_torch():
    code = (
        "import sys; from medfuse import registry; registry.get('medfuse.aux_schedules', 'constant');"
        "assert 'medfuse.builtin.schedules.linear_decay' not in sys.modules;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_broken_plugin_does_not_stop_the_list(site):
    from medfuse.verbs.plugins import listing

    install(site, "gates", "gated", "1 / 0")
    assert "gated" in listing()
    described = listing(describe=True)
    assert "ZeroDivisionError" in described
    assert "linear_decay" in described


def test_a_page_shows_types_ranges_and_defaults(site):
    from medfuse.verbs.plugins import page

    install(site, "gates", "gated", GOOD)
    line = next(row for row in page("gated").splitlines() if row.strip().startswith("power"))
    assert line.split() == ["power", "float", ">", "0", "1.0", "strength"]


def test_what_a_package_says_of_itself_is_read_once_however_many_plugins_it_offers(monkeypatch):
    registry.forget()
    read, real = [], registry._named

    def named(dist):
        read.append(dist)
        return real(dist)

    monkeypatch.setattr(registry, "_named", named)
    found = registry.entries("medfuse.fusion_blocks")
    assert len(read) == len({entry.package for entry in found}) < len(found)
    registry.forget()
