"""What was found out about a machine stays in one small file."""

from pathlib import Path

import pytest

from medfuse.core import remembered
from medfuse.core.remembered import cache_folder, recall, remember


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDFUSE_CACHE", str(tmp_path / "new"))
    return tmp_path / "new"


def test_what_is_remembered_is_recalled_by_its_key():
    remember("facts.json", "a", {"n": 1})
    remember("facts.json", "b", 2)
    assert (recall("facts.json", "a"), recall("facts.json", "b")) == ({"n": 1}, 2)
    assert recall("facts.json", "c") is None


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(remembered, "_MOST", 2)
    for key in "abcb":
        remember("facts.json", key, key)
    assert [recall("facts.json", key) for key in "abc"] == [None, "b", "c"]


def test_the_folder_follows_the_systems_custom(monkeypatch):
    monkeypatch.delenv("MEDFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/medfuse")
